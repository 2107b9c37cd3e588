"""UPGrad, DualProj, MGDA, PCD and projections as operators of PyTorch: compiled, differentiated, mapped."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import mojd
from mojd.torch import _implicit
from mojd.torch._calls import beside, is_direct, refuse_tangents, require_tensor
from mojd.torch._operators import Operator, TensorArgument, differentiable
from mojd.torch._shapes import batch_of, check_gramian, check_rows, empty

_GRAMIAN = TensorArgument("Tensor gramian", 2)
_PREFERENCE = TensorArgument("Tensor? pref_vector=None", 1)


def _preferring_fake(gramian: Tensor, pref_vector: Tensor | None = None) -> Tensor:
    check_gramian(gramian)
    check_rows(pref_vector, gramian.shape[-1], "pref_vector", "one preference per objective")
    batch = batch_of({"gramian": gramian, "pref_vector": pref_vector}, (2, 1))
    return empty((*batch, gramian.shape[-1]), gramian)


def _upgrad_weights(gramian: Tensor, pref_vector: Tensor | None = None) -> Tensor:
    weights: Tensor = mojd.upgrad(gramian, pref_vector, nonfinite="propagate")
    return weights


def _dualproj_weights(gramian: Tensor, pref_vector: Tensor | None = None) -> Tensor:
    weights: Tensor = mojd.dualproj(gramian, pref_vector, nonfinite="propagate")
    return weights


def _mgda_fake(gramian: Tensor) -> Tensor:
    check_gramian(gramian)
    return empty(gramian.shape[:-1], gramian)


def _mgda_weights(gramian: Tensor) -> Tensor:
    weights: Tensor = mojd.mgda(gramian, nonfinite="propagate")
    return weights


def _pcd_fake(
    gramian: Tensor,
    tau: Tensor | None = None,
    scales: Tensor | None = None,
    common_tau: float = 0.02,
    rescale: bool = False,
) -> Tensor:
    del common_tau, rescale
    check_gramian(gramian)
    K = gramian.shape[-1]
    check_rows(tau, K - 1, "tau", "one per secondary objective (or a number for all)")
    check_rows(scales, K, "scales", "one per objective, from mojd.normalise")
    batch = batch_of({"gramian": gramian, "tau": tau, "scales": scales}, (2, 1, 1))
    return empty((*batch, K), gramian)


def _pcd_weights(
    gramian: Tensor,
    tau: Tensor | None = None,
    scales: Tensor | None = None,
    common_tau: float = 0.02,
    rescale: bool = False,
) -> Tensor:
    taus = common_tau if tau is None else tau
    weights: Tensor = mojd.pcd(gramian, taus, scales=scales, rescale=rescale, nonfinite="propagate")
    return weights


def _project_fake(U: Tensor, G: Tensor) -> Tensor:
    check_gramian(G, "G")
    check_rows(U, G.shape[-1], "U", "one vector of weights per row")
    return empty((*batch_of({"U": U, "G": G}, (2, 2)), *U.shape[-2:]), G)


def _project_weights(U: Tensor, G: Tensor) -> Tensor:
    weights: Tensor = mojd.project(U, G, nonfinite="propagate")
    return weights


_UPGRAD = Operator("upgrad", (_GRAMIAN, _PREFERENCE), (), _upgrad_weights, _preferring_fake)
_DUALPROJ = Operator("dualproj", (_GRAMIAN, _PREFERENCE), (), _dualproj_weights, _preferring_fake)
_MGDA = Operator("mgda", (_GRAMIAN,), (), _mgda_weights, _mgda_fake)
_PCD = Operator(
    "pcd",
    (_GRAMIAN, TensorArgument("Tensor? tau=None", 1), TensorArgument("Tensor? scales=None", 1)),
    ("float common_tau=0.02", "bool rescale=False"),
    _pcd_weights,
    _pcd_fake,
)
_PROJECT = Operator(
    "project",
    (TensorArgument("Tensor U", 2), TensorArgument("Tensor G", 2)),
    (),
    _project_weights,
    _project_fake,
    core=2,
)

_apply_upgrad = differentiable(_UPGRAD, _implicit.upgrad)
_apply_dualproj = differentiable(_DUALPROJ, _implicit.dualproj)
_apply_mgda = differentiable(_MGDA, _implicit.mgda)
_apply_pcd = differentiable(_PCD, _implicit.pcd)
_apply_project = differentiable(_PROJECT, _implicit.project)


def upgrad(gramian: Tensor, pref_vector: Any = None) -> Tensor:
    r"""Compute the UPGrad weights as :func:`mojd.upgrad` does, in compiled and differentiated code too.

    Parameters
    ----------
    gramian : tensor, shape (..., K, K)
        G = J Jᵀ of the gradients, positive semi-definite up to rounding in its own dtype.
    pref_vector : tensor, shape (..., K), optional
        Preferences u ≥ 0. Default: 1/K each.

    Returns
    -------
    tensor, shape (..., K)
        The weights, in the dtype and on the device of `gramian`. NaN where there is NaN or infinity.

    Raises
    ------
    InvalidInputError
        If shapes do not fit, the Gramian is no Gramian, or a preference is negative.
    InvalidTypeError
        If `gramian` is no tensor.
    NotDifferentiableError
        On the way to a second derivative, or to one by forward mode.

    Notes
    -----
    Differentiable with respect to both arguments. The derivative is that of
    :math:`G \mapsto w((G + G^\top)/2)` by the implicit function theorem at the active sets, in float64: exact
    where no constraint is active with a multiplier of 0, one-sided where there is one. Where gradients
    depend on each other, weights are not unique, but :math:`d = J^\top w` is, and so is its derivative
    through :math:`G = J J^\top`.

    A call that nothing compiles, transforms or differentiates goes straight to :func:`mojd.upgrad`.
    Backward solves the K problems again; then it factorises the K active blocks.

    Examples
    --------
    >>> import mojd.torch, torch
    >>> J = torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]], dtype=torch.float64, requires_grad=True)
    >>> w = mojd.torch.upgrad(J @ J.T)
    >>> w
    tensor([1.1111, 0.7895], dtype=torch.float64, grad_fn=<...>)
    >>> w.sum().backward()
    >>> J.grad.shape
    torch.Size([2, 3])
    """
    require_tensor(gramian, "gramian")
    if is_direct(gramian, pref_vector):
        return _upgrad_weights(gramian, pref_vector)
    preference = beside(pref_vector, gramian)
    refuse_tangents("upgrad", gramian, preference)
    return _apply_upgrad(gramian, preference)


def dualproj(gramian: Tensor, pref_vector: Any = None) -> Tensor:
    """Compute the DualProj weights as :func:`mojd.dualproj` does, in compiled and differentiated code too.

    Parameters
    ----------
    gramian, pref_vector
        As for :func:`mojd.torch.upgrad`; the gradient reaches both.

    Returns
    -------
    tensor, shape (..., K)
        The weights, in the dtype and on the device of `gramian`. NaN where there is NaN or infinity.

    Raises
    ------
    InvalidInputError, InvalidTypeError, NotDifferentiableError
        As for :func:`mojd.torch.upgrad`.

    Examples
    --------
    >>> import mojd.torch, torch
    >>> mojd.torch.dualproj(torch.tensor([[1.0, -2.0], [-2.0, 5.0]]))
    tensor([1.0000, 0.5000])
    """
    require_tensor(gramian, "gramian")
    if is_direct(gramian, pref_vector):
        return _dualproj_weights(gramian, pref_vector)
    preference = beside(pref_vector, gramian)
    refuse_tangents("dualproj", gramian, preference)
    return _apply_dualproj(gramian, preference)


def mgda(gramian: Tensor) -> Tensor:
    """Compute the MGDA weights as :func:`mojd.mgda` does, in compiled and differentiated code too.

    Parameters
    ----------
    gramian : tensor, shape (..., K, K)
        As for :func:`mojd.torch.upgrad`; the gradient reaches it.

    Returns
    -------
    tensor, shape (..., K)
        The weights, in the dtype and on the device of `gramian`. NaN where there is NaN or infinity.

    Raises
    ------
    InvalidInputError, InvalidTypeError, NotDifferentiableError
        As for :func:`mojd.torch.upgrad`.

    Examples
    --------
    >>> import mojd.torch, torch
    >>> mojd.torch.mgda(torch.tensor([[4.0, 0.0], [0.0, 1.0]]))
    tensor([0.2000, 0.8000])
    """
    require_tensor(gramian, "gramian")
    if is_direct(gramian):
        return _mgda_weights(gramian)
    refuse_tangents("mgda", gramian)
    return _apply_mgda(gramian)


def pcd(gramian: Tensor, tau: Any = 0.02, *, scales: Any = None, rescale: bool = False) -> Tensor:
    """Compute the PCD weights as :func:`mojd.pcd` does, in compiled and differentiated code too.

    Parameters
    ----------
    gramian : tensor, shape (..., K, K)
        As for :func:`mojd.torch.upgrad`, the primary's row first; the gradient reaches it.
    tau : float or tensor, shape (..., K−1), default 0.02
        τ in [0, 1], for all secondaries or one each; the gradient reaches it.
    scales : tensor, shape (..., K), optional
        s ≥ 0 from :func:`mojd.normalise`; the gradient reaches them. Default: 1.
    rescale : bool, default False
        Whether to rescale d to the norm of the raw primary gradient.

    Returns
    -------
    tensor, shape (..., K)
        The weights, in the dtype and on the device of `gramian`. NaN where there is NaN or infinity.

    Raises
    ------
    InvalidInputError
        If shapes do not fit, the Gramian is no Gramian, τ is outside of [0, 1] or a scale negative.
    InvalidTypeError, NotDifferentiableError
        As for :func:`mojd.torch.upgrad`.

    Notes
    -----
    Where the constraints contradict each other and are dropped, and where d = 0 stays 0 in spite of
    `rescale`, the derivative is that of what is left: (s₀, 0, ..., 0) or 0.

    Examples
    --------
    >>> import mojd.torch, torch
    >>> tau = torch.tensor([0.25], requires_grad=True)
    >>> w = mojd.torch.pcd(torch.tensor([[1.0, -0.5], [-0.5, 1.0]]), tau)
    >>> w
    tensor([1.0000, 0.7500], grad_fn=<...>)
    >>> w[1].backward()
    >>> tau.grad
    tensor([1.])
    """
    require_tensor(gramian, "gramian")
    if is_direct(gramian, tau, scales):
        weights: Tensor = mojd.pcd(gramian, tau, scales=scales, rescale=rescale, nonfinite="propagate")
        return weights
    sizes = beside(scales, gramian)
    if isinstance(tau, float | int | torch.SymFloat):
        refuse_tangents("pcd", gramian, sizes)
        return _apply_pcd(gramian, None, sizes, tau, bool(rescale))
    taus = beside(tau, gramian)
    if isinstance(taus, Tensor) and taus.ndim == 0:
        taus = taus.expand(gramian.shape[-1] - 1)
    refuse_tangents("pcd", gramian, taus, sizes)
    return _apply_pcd(gramian, taus, sizes, 0.0, bool(rescale))


def project(U: Tensor, G: Tensor) -> Tensor:
    """Compute weights of projections as :func:`mojd.project` does, in compiled and differentiated code too.

    Parameters
    ----------
    U : tensor, shape (..., R, K) or (K,)
        Weights of the directions to project; the gradient reaches them.
    G : tensor, shape (..., K, K)
        The Gramian; the leading axes broadcast against those of U, and the gradient reaches it.

    Returns
    -------
    tensor, of the shape of U with the batch axes of G
        v ≥ u, in the dtype and on the device of `G`. NaN where there is NaN or infinity.

    Raises
    ------
    InvalidInputError, InvalidTypeError, NotDifferentiableError
        As for :func:`mojd.torch.upgrad`.

    Examples
    --------
    >>> import mojd.torch, torch
    >>> mojd.torch.project(torch.eye(2), torch.tensor([[1.0, -1.0], [-1.0, 2.0]]))
    tensor([[1.0000, 0.5000],
            [1.0000, 1.0000]])
    """
    require_tensor(U, "U")
    require_tensor(G, "G")
    if is_direct(U, G):
        return _project_weights(U, G)
    refuse_tangents("project", U, G)
    if U.ndim == 1:
        return _apply_project(U[None], G).squeeze(-2)
    return _apply_project(U, G)
