"""Priority-Constrained Descent: follow the primary, and bend for the secondaries."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from mojd import _checks
from mojd._arrays import (
    Array,
    FloatArray,
    as_array,
    is_on_device,
    plain_values,
    precision_of,
)
from mojd.errors import InvalidInputError
from mojd.kernels.sizes import LARGEST_TABLEAU
from mojd.qp import NNQP
from mojd.solvers import cuda, fused
from mojd.status import Status
from mojd.weightings._pcd_programme import (
    number_of,
    programme,
    rescaled,
    residual,
    scales_of,
    tau_of,
    weights_of,
)
from mojd.weightings._registry import QuadraticWeighting, register
from mojd.weightings._shared import (
    View,
    check_values,
    finish,
    is_ordinary_call,
    like_plain,
    plain_gramian,
    unseen,
    view,
)
from mojd.weightings._traced import traceable

# Up to this K, one kernel does all: the secondaries fit into a tableau.
_SMALL = LARGEST_TABLEAU + 1


@functools.lru_cache(maxsize=64)
def _constant(size: int, value: float) -> FloatArray:
    """Return a vector of one number; not to be modified."""
    return np.full(size, value)


def pcd_problem(gramian: Any, tau: Any = 0.02, *, scales: Any = None) -> NNQP:
    r"""Build PCD's problem for the multipliers of the secondaries.

    With S the scales, the paper's dual is NNQP(Ĝ_s, −b) for Ĝ = S·G·S and
    :math:`b_j = \tau_j \hat G_{jj} - \hat G_{j0}`. In the unknowns x = S·μ it reads
    NNQP(G_s, q) with :math:`q_j = s_0 G_{j0} - \tau_j s_j G_{jj}`: G itself is never rescaled by
    rounded numbers, which would destroy exact dependencies between gradients.

    Parameters
    ----------
    gramian, tau, scales
        As for :func:`pcd`.

    Returns
    -------
    NNQP
        Of size K − 1. The weights are (s₀, x). INFEASIBLE means that no direction gives every
        secondary its progress; the ray is the Farkas certificate.

    Raises
    ------
    InvalidInputError
        If there is no secondary, or as for :func:`pcd`.

    Examples
    --------
    >>> import mojd
    >>> mojd.pcd_problem([[1.0, -0.5], [-0.5, 1.0]], tau=0.25).linear
    array([-0.75])
    """
    matrix = view(gramian)
    if matrix.size < 2:
        raise InvalidInputError(
            f"gramian of shape {tuple(matrix.original.shape)} has no secondary objective: pcd_problem needs "
            "K >= 2"
        )
    return programme(matrix, tau_of(tau, matrix), scales_of(scales, matrix))


def pcd_lift(x: Array, gramian: View, tau: Any = 0.02, *, scales: Any = None, rescale: bool = False) -> Array:
    """Turn minimisers x (..., K−1) of :func:`pcd_problem` into weights (..., K).

    NaN in x, that is an infeasible problem, leaves the primary alone.
    """
    del tau  # the problem has used it up
    xp = gramian.xp
    feasible = xp.where(xp.isnan(x), xp.zeros_like(x), x)
    primary = scales_of(scales, gramian)[..., :1] + xp.zeros_like(feasible[..., :1])
    return rescaled(xp.concat([primary, feasible], axis=-1), gramian, rescale)


def pcd(
    gramian: Any,
    tau: Any = 0.02,
    *,
    scales: Any = None,
    rescale: bool = False,
    solver: str = "auto",
    threads: int = 1,
    nonfinite: str = "raise",
) -> Array:
    r"""Compute the PCD weights: stay near the primary, with progress on every secondary.

    .. math:: d^\star = \operatorname*{arg\,min}_{d} \|d - \tilde g_0\|^2 \quad \text{s.t.} \quad
       \tilde g_j^\top d \ge \tau_j \|\tilde g_j\|^2,\; j \ge 1, \qquad
       d^\star = \tilde g_0 + \sum_{j \ge 1} \mu_j \tilde g_j

    where :math:`\tilde g_i = s_i g_i`, row 0 is the primary and the rest are secondaries.

    Parameters
    ----------
    gramian : array, shape (..., K, K)
        G = J Jᵀ of the raw gradients, the primary's first.
    tau : float or array, shape (..., K−1), default 0.02
        τ in [0, 1], for all secondaries or one each.
    scales : array, shape (..., K), optional
        s ≥ 0 from :func:`mojd.normalise`. Default: 1, no normalisation.
    rescale : bool, default False
        Whether to rescale d to the norm of the raw primary gradient (Algorithm 1, last step).
        d = 0 stays 0, and a primary gradient of 0 halts: all weights are 0.
    solver, threads, nonfinite
        As for :func:`mojd.upgrad`.

    Returns
    -------
    array, shape (..., K)
        Weights w for the raw gradients, d = Jᵀw: S·(1, μ), rescaled if asked for, in the
        namespace, dtype and device of `gramian`. Where the constraints contradict each other, they
        are dropped for this step, as in Algorithm 1; the status of ``mojd.solve(pcd_problem(...))``
        tells.

    Raises
    ------
    InvalidInputError
        If shapes do not fit, the Gramian is no Gramian, τ is outside of [0, 1] or a scale negative.
    NonFiniteError
        If there is NaN or infinity and `nonfinite` is 'raise'.

    Notes
    -----
    With normalised scales, multiplying a loss by a constant does not change d up to the primary's
    factor. Cost: one pivoting solve of size K − 1.

    Properties: non-conflicting ✗, linear under scaling ✗, weighted ✓.

    References
    ----------
    PCD, arXiv 2606.29521, equation 1 and Algorithm 1.

    Examples
    --------
    The primary is (1, 0), the secondary a unit vector at 150 degrees:

    >>> import mojd, numpy as np
    >>> angle = np.deg2rad(150)
    >>> J = np.array([[1.0, 0.0], [np.cos(angle), np.sin(angle)]])
    >>> for tau in (0.0, 0.3, 0.7):
    ...     print(np.round(J.T @ mojd.pcd(J @ J.T, tau), 4))
    [0.25  0.433]
    [-0.0098  0.583 ]
    [-0.3562  0.783 ]
    """
    if type(tau) is float and 0.0 <= tau <= 1.0 and is_ordinary_call(solver, threads, nonfinite):
        weights = _plain(gramian, tau, scales, bool(rescale))
        if weights is not None:
            return like_plain(weights, gramian)
    return _pcd(
        gramian,
        tau,
        scales=scales,
        rescale=bool(rescale),
        solver=solver,
        threads=threads,
        nonfinite=nonfinite,
    )


@traceable
def _pcd(
    gramian: Any, tau: Any, *, scales: Any, rescale: bool, solver: str, threads: int, nonfinite: str
) -> Array:
    """Compute the weights of whatever :func:`pcd` takes."""
    _checks.check_nonfinite(nonfinite)
    _checks.check_threads(threads)
    if is_on_device(gramian) and cuda.is_wanted(gramian, solver, cuda.LARGEST_PCD) and gramian.shape[-1] > 1:
        return _pcd_on_cuda(gramian, tau, scales, rescale)
    matrix = view(gramian)
    taus, sizes = tau_of(tau, matrix), scales_of(scales, matrix)
    _checks.broadcast_batch(tuple(taus.shape[:-1]), tuple(sizes.shape[:-1]), "tau and scales")
    if matrix.xp is np and solver == "auto" and 2 <= matrix.size <= _SMALL:
        return finish(_settled(matrix, taus, sizes, rescale, threads, nonfinite), matrix)
    check_values(matrix, nonfinite)
    weights = weights_of(matrix, taus, sizes, rescale, solver, threads, nonfinite)
    return finish(weights, matrix)


def _pcd_on_cuda(gramian: Array, tau: Any, scales: Any, rescale: bool) -> Array:
    """Compute the weights of Gramians on a GPU by a kernel of their own."""
    _checks.check_gramian_shape(as_array(gramian, "gramian"))
    batch: tuple[int, ...] = tuple(gramian.shape[:-2])
    vectors: tuple[int, ...] = ()
    sizes = None
    taus = number_of(tau)
    if taus is None:
        taus = tau_of(tau, unseen(gramian))
        vectors = tuple(taus.shape[:-1])
    if scales is not None:
        sizes = scales_of(scales, unseen(gramian))
        vectors = _checks.broadcast_batch(vectors, tuple(sizes.shape[:-1]), "tau and scales")
    batch = _checks.broadcast_batch(batch, vectors, "gramian, tau and scales")
    return cuda.pcd(gramian, batch, taus, sizes, rescale)


def _plain(gramian: Any, tau: float, scales: Any, rescale: bool) -> FloatArray | None:
    """Return the weights of one ordinary Gramian, or None if anything is unusual."""
    plain = plain_gramian(gramian)
    if plain is None or not 2 <= len(plain[0]) <= _SMALL:
        return None
    size = len(plain[0])
    sizes = _constant(size, 1.0) if scales is None else _plain_scales(scales, size)
    if sizes is None:
        return None
    return fused.pcd_plain(plain[0], _constant(size - 1, tau), sizes, rescale, plain[1])


def _plain_scales(scales: Any, size: int) -> FloatArray | None:
    """Return scales (K,) if kernels can take them as they are, and check their values; or None."""
    plain = plain_values(scales)
    return plain[0] if plain is not None and plain[0].shape == (size,) else None


def _settled(
    gramian: View, tau: Array, scales: Array, rescale: bool, threads: int, nonfinite: str
) -> FloatArray:
    """Return the weights by compiled code, and by way of the problem where that leaves it unsettled."""
    batch = np.broadcast_shapes(gramian.batch_shape, tau.shape[:-1], scales.shape[:-1])
    values = fused.flat_gramians(gramian.values, batch)
    taus, sizes = fused.flat_rows(tau, batch), fused.flat_rows(scales, batch)
    precision = precision_of(gramian.original)
    weights, status = fused.pcd_settled(values, taus, sizes, rescale, threads, precision)
    left = np.flatnonzero(status != Status.OPTIMAL)
    if len(left):
        check_values(gramian, nonfinite)
        own_tau = taus if len(taus) == 1 else taus[left]
        own_scales = sizes if len(sizes) == 1 else sizes[left]
        rest = View(finish(values[left], gramian), values[left], np)
        weights[left] = weights_of(rest, own_tau, own_scales, rescale, "auto", threads, nonfinite)
    return weights.reshape(*batch, gramian.size)


register(
    QuadraticWeighting(
        name="pcd",
        title="PCD",
        weights=pcd,
        residual=residual,
        problem=pcd_problem,
        lift=pcd_lift,
        summary="the direction nearest to the primary with progress on every secondary",
        source="arXiv 2606.29521, equation 1",
    )
)
