"""UPGrad, DualProj, MGDA, PCD and projections as functions of JAX: compiled, mapped, differentiated."""

from __future__ import annotations

from typing import Any

from jax import Array

import mojd
from mojd.jax._arguments import check_nonnegative, check_tau
from mojd.jax._call import call


def upgrad(gramian: Any, pref_vector: Any = None, *, solver: str = "auto") -> Array:
    r"""Compute the UPGrad weights as :func:`mojd.upgrad` does, as part of the caller's program.

    Parameters
    ----------
    gramian : array, shape (..., K, K)
        G = J Jᵀ of the gradients, positive semi-definite up to rounding in its own dtype.
    pref_vector : array, shape (..., K), optional
        Preferences u ≥ 0. Default: 1/K each.
    solver : {'auto', 'jax', 'xla'}
        'auto' and 'jax': mojd's compiled kernels where the program runs on the CPU, called by XLA without
        Python; elsewhere 'xla', which is pivoting that XLA compiles for whatever device.

    Returns
    -------
    array, shape (..., K)
        The weights, in the dtype of `gramian`. NaN where there is NaN or infinity, or no Gramian.

    Raises
    ------
    InvalidInputError
        If shapes do not fit, or a preference outside of JAX is negative.
    InvalidTypeError
        If there is an array of another library.
    NotDifferentiableError
        On the way to a second derivative while ``jax_enable_x64`` is off.

    Notes
    -----
    Under ``jit``, ``vmap``, ``grad``, ``jvp``, ``scan`` and ``shard_map``. Everything is computed in float64,
    whether ``jax_enable_x64`` is on or off. Values of JAX arrays are not checked, as that would wait for
    them: what two rows show to be no Gramian has weights of NaN.

    The derivative is that of :math:`G \mapsto w((G + G^\top)/2)` by the implicit function theorem at the
    active sets: exact where no constraint is active with a multiplier of 0, one-sided where there is one.
    Where gradients depend on each other, weights are not unique, but :math:`d = J^\top w` is, and so is its
    derivative through :math:`G = J J^\top`.

    Examples
    --------
    >>> import mojd.jax, jax, jax.numpy as jnp
    >>> J = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    >>> jax.jit(mojd.jax.upgrad)(J @ J.T)
    Array([1.1111112, 0.7894737], dtype=float32)
    >>> jax.grad(lambda J: mojd.jax.upgrad(J @ J.T).sum())(J).shape
    (2, 3)
    """
    check_nonnegative(pref_vector, "pref_vector")
    return _call(mojd.upgrad, gramian, pref_vector, solver=solver)


def dualproj(gramian: Any, pref_vector: Any = None, *, solver: str = "auto") -> Array:
    """Compute the DualProj weights as :func:`mojd.dualproj` does, as part of the caller's program.

    Parameters
    ----------
    gramian, pref_vector, solver
        As for :func:`mojd.jax.upgrad`.

    Returns
    -------
    array, shape (..., K)
        The weights, in the dtype of `gramian`. NaN where there is NaN or infinity, or no Gramian.

    Raises
    ------
    InvalidInputError, InvalidTypeError, NotDifferentiableError
        As for :func:`mojd.jax.upgrad`.

    Examples
    --------
    >>> import mojd.jax, jax.numpy as jnp
    >>> mojd.jax.dualproj(jnp.array([[1.0, -2.0], [-2.0, 5.0]]))
    Array([1. , 0.5], dtype=float32)
    """
    check_nonnegative(pref_vector, "pref_vector")
    return _call(mojd.dualproj, gramian, pref_vector, solver=solver)


def mgda(gramian: Any, *, solver: str = "auto") -> Array:
    """Compute the MGDA weights as :func:`mojd.mgda` does, as part of the caller's program.

    Parameters
    ----------
    gramian, solver
        As for :func:`mojd.jax.upgrad`.

    Returns
    -------
    array, shape (..., K)
        The weights, in the dtype of `gramian`. NaN where there is NaN or infinity, or no Gramian.

    Raises
    ------
    InvalidInputError, InvalidTypeError, NotDifferentiableError
        As for :func:`mojd.jax.upgrad`.

    Examples
    --------
    >>> import mojd.jax, jax.numpy as jnp
    >>> mojd.jax.mgda(jnp.array([[4.0, 0.0], [0.0, 1.0]]))
    Array([0.2, 0.8], dtype=float32)
    """
    return _call(mojd.mgda, gramian, solver=solver)


def pcd(
    gramian: Any, tau: Any = 0.02, *, scales: Any = None, rescale: bool = False, solver: str = "auto"
) -> Array:
    """Compute the PCD weights as :func:`mojd.pcd` does, as part of the caller's program.

    Parameters
    ----------
    gramian : array, shape (..., K, K)
        As for :func:`mojd.jax.upgrad`, the primary's row first.
    tau : float or array, shape (..., K−1), default 0.02
        τ in [0, 1], for all secondaries or one each. A Python number is compiled into the program.
    scales : array, shape (..., K), optional
        s ≥ 0 from :func:`mojd.normalise`. Default: 1.
    rescale : bool, default False
        Whether to rescale d to the norm of the raw primary gradient.
    solver
        As for :func:`mojd.jax.upgrad`.

    Returns
    -------
    array, shape (..., K)
        The weights, in the dtype of `gramian`. NaN where there is NaN or infinity, or no Gramian.

    Raises
    ------
    InvalidInputError
        If shapes do not fit, τ outside of JAX is outside of [0, 1], or such a scale negative.
    InvalidTypeError, NotDifferentiableError
        As for :func:`mojd.jax.upgrad`.

    Notes
    -----
    Where the constraints contradict each other and are dropped, and where d = 0 stays 0 in spite of
    `rescale`, the derivative is that of what is left: (s₀, 0, ..., 0) or 0.

    Examples
    --------
    >>> import mojd.jax, jax, jax.numpy as jnp
    >>> G = jnp.array([[1.0, -0.5], [-0.5, 1.0]])
    >>> mojd.jax.pcd(G, 0.25)
    Array([1.  , 0.75], dtype=float32)
    >>> jax.grad(lambda tau: mojd.jax.pcd(G, tau)[1])(jnp.array([0.25]))
    Array([1.], dtype=float32)
    """
    check_tau(tau)
    check_nonnegative(scales, "scales")
    return _call(mojd.pcd, gramian, tau, scales=scales, rescale=bool(rescale), solver=solver)


def project(U: Any, G: Any, *, solver: str = "auto") -> Array:
    """Compute weights of projections as :func:`mojd.project` does, as part of the caller's program.

    Parameters
    ----------
    U : array, shape (..., R, K) or (K,)
        Weights of the directions to project.
    G : array, shape (..., K, K)
        The Gramian; the leading axes broadcast against those of U.
    solver
        As for :func:`mojd.jax.upgrad`.

    Returns
    -------
    array, of the shape of U with the batch axes of G
        v ≥ u, in the dtype of `G`. NaN where there is NaN or infinity, or no Gramian.

    Raises
    ------
    InvalidInputError, InvalidTypeError, NotDifferentiableError
        As for :func:`mojd.jax.upgrad`.

    Examples
    --------
    >>> import mojd.jax, jax.numpy as jnp
    >>> mojd.jax.project(jnp.eye(2), jnp.array([[1.0, -1.0], [-1.0, 2.0]]))
    Array([[1. , 0.5],
           [1. , 1. ]], dtype=float32)
    """
    return _call(mojd.project, U, G, solver=solver)


def _call(method: Any, *args: Any, **options: Any) -> Array:
    result: Array = call(method, args, {**options, "nonfinite": "propagate"})
    return result
