r"""Derivatives of the weights: the KKT conditions, differentiated at the active set.

Near a problem whose solution is strictly complementary (:math:`x_i + s_i > 0` for all i), the active set
:math:`P = \{x > 0\}` stays what it is, and x solves :math:`G_{PP}\, x_P = -q_P`. What follows from that
for each method is derived in docs/torch/operators.md. Gradients with respect to G are those of
:math:`G \mapsto f((G + G^\top)/2)`: symmetric.

All functions take the gradient of a loss with respect to the weights first, then what the operator took,
and return one gradient for each tensor argument, of its shape and dtype. They solve the problem again,
in float64, as weights rounded to the caller's dtype do not show which of them are active.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from mojd.qp import NNQP
from mojd.torch._masked_solve import solve_on
from mojd.weightings._pcd_programme import VANISHING
from mojd.weightings._shared import minimisers, solved, view
from mojd.weightings.mgda import mgda_problem
from mojd.weightings.pcd import pcd_problem
from mojd.weightings.projection import dualproj_problem, project_problem
from mojd.weightings.upgrad import upgrad_problem


def _minimisers(problem: NNQP, gramian: Tensor) -> Tensor:
    """Return x in float64 on the device of the Gramian: 0 where there is none, NaN where there is NaN."""
    x = minimisers(solved(problem, "auto", 1, "propagate"), view(gramian))
    return torch.as_tensor(x, device=gramian.device)


def _symmetric(matrix: Tensor) -> Tensor:
    return 0.5 * (matrix + matrix.mT)


def _solve_rows(active: Tensor, gramian: Tensor, right: Tensor) -> Tensor:
    """Solve G_PP·y = r_P for sets and right-hand sides (..., R, K), with G broadcast to (..., K, K)."""
    R, K = right.shape[-2:]
    batch = right.shape[:-2]
    # Not -1, which is ambiguous beside an axis of length 0.
    count = batch.numel()
    matrices = gramian.expand(*batch, K, K).reshape(count, K, K)
    sets = active.expand_as(right).reshape(count, R, K)
    return solve_on(sets, matrices, right.reshape(count, R, K, 1)).reshape(right.shape)


def _given(gradient: Tensor, like: Tensor | None) -> Tensor:
    """Return a gradient such as the argument that it belongs to; an absent argument has an empty one."""
    if like is None:
        return gradient.new_empty(0)
    return gradient.sum_to_size(like.shape).to(like.dtype)


def _poison(*tensors: tuple[Tensor, int]) -> Tensor:
    """Return 0 per problem (...), NaN where a tensor, with so many axes of its own, has NaN or infinity."""
    finite = [torch.isfinite(tensor).flatten(tensor.ndim - own).all(dim=-1) for tensor, own in tensors]
    usable = functools.reduce(torch.logical_and, finite)
    return torch.where(usable, 0.0, math.nan).to(torch.float64)


def upgrad(grad: Tensor, gramian: Tensor, pref_vector: Tensor | None = None) -> tuple[Tensor, Tensor]:
    r"""Return the gradients with respect to G and u.

    With :math:`V` the projections of the gradients themselves, one a row, :math:`w = V^\top u` and V
    depends on G alone. So what shares a Gramian shares its K systems.
    """
    K = gramian.shape[-1]
    G, w_bar = gramian.double(), grad.double()
    u = torch.full_like(G[..., 0], 1.0 / K) if pref_vector is None else pref_vector.double()
    x = _minimisers(upgrad_problem(gramian, torch.ones_like(G[..., 0, :])), gramian)
    V = x + torch.eye(K, dtype=x.dtype, device=x.device)
    weighted = u[..., :, None] * w_bar[..., None, :]
    y = _solve_rows(x > 0, G, weighted.sum_to_size(_aligned(V.shape, weighted.ndim)).reshape(V.shape))
    of_gramian = -_symmetric(y.mT @ V)
    of_preference = (V @ w_bar[..., None])[..., 0]
    poison = _poison((gramian, 2), (grad, 1), (u, 1))
    shared = poison.sum_to_size(_aligned(G.shape[:-2], poison.ndim)).reshape(G.shape[:-2])
    return (
        _given(of_gramian + shared[..., None, None], gramian),
        _given(of_preference + poison[..., None], pref_vector),
    )


def _aligned(shape: torch.Size, ndim: int) -> tuple[int, ...]:
    """Return a shape with axes of length 1 in front, so that it has that many."""
    return (1,) * (ndim - len(shape)) + tuple(shape)


def _projections(grad: Tensor, gramian: Tensor, rows: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients with respect to G and U of v = U + x, for float64 tensors (..., R, K)."""
    v, active = rows + x, x > 0
    y = _solve_rows(active, gramian, grad)
    poison = _poison((gramian, 2), (grad, 2), (rows, 2))[..., None, None]
    return (
        -_symmetric(y.mT @ v) + poison,
        torch.where(active, 0.0, grad - y @ gramian) + poison,
    )


def dualproj(grad: Tensor, gramian: Tensor, pref_vector: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the gradients with respect to G and u."""
    K = gramian.shape[-1]
    x = _minimisers(dualproj_problem(gramian, pref_vector), gramian)
    if pref_vector is None:
        rows, x = torch.full_like(x, 1.0 / K), x / K
    else:
        rows = pref_vector.double().expand_as(x)
    of_gramian, of_rows = _projections(
        grad.double()[..., None, :], gramian.double(), rows[..., None, :], x[..., None, :]
    )
    return _given(of_gramian, gramian), _given(of_rows[..., 0, :], pref_vector)


def project(grad: Tensor, U: Tensor, G: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients with respect to U and G."""
    x = _minimisers(project_problem(U, G), G)
    of_gramian, of_rows = _projections(grad.double(), G.double(), U.double(), x)
    return _given(of_rows, U), _given(of_gramian, G)


def mgda(grad: Tensor, gramian: Tensor) -> Tensor:
    r"""Return the gradient with respect to G.

    On the support, :math:`G_{PP} w_P = \lambda \mathbf 1` and :math:`\mathbf 1^\top w_P = 1`. Its bordered
    system is solved by way of :math:`G + c \mathbf 1 \mathbf 1^\top`, which is definite where it can be
    solved at all.
    """
    problem = mgda_problem(gramian)
    x = _minimisers(problem, gramian)
    w = x / x.sum(dim=-1, keepdim=True)
    shifted = torch.as_tensor(problem.gramian, device=gramian.device)
    active, w_bar = x > 0, grad.double()
    K, count = gramian.shape[-1], x.shape[:-1].numel()
    right = torch.stack([w_bar, torch.ones_like(w_bar)], dim=-1).reshape(count, 1, K, 2)
    pair = solve_on(active.reshape(count, 1, K), shifted.reshape(count, K, K), right).reshape(*x.shape, 2)
    level = pair.sum(dim=-2, keepdim=True)
    y = pair[..., 0] - level[..., 0] / level[..., 1] * pair[..., 1]
    of_gramian = -_symmetric(y[..., :, None] * w[..., None, :])
    poison = _poison((gramian, 2), (grad, 1))
    return _given(of_gramian + poison[..., None, None], gramian)


def pcd(
    grad: Tensor,
    gramian: Tensor,
    tau: Tensor | None = None,
    scales: Tensor | None = None,
    common_tau: float = 0.02,
    rescale: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients with respect to G, τ and the scales."""
    K = gramian.shape[-1]
    batch = grad.shape[:-1]
    G, w_bar = gramian.double().expand(*batch, K, K), grad.double()
    s = torch.ones_like(w_bar) if scales is None else scales.double().expand_as(w_bar)
    t = torch.full_like(w_bar[..., 1:], common_tau) if tau is None else tau.double().expand_as(w_bar[..., 1:])
    poison = _poison((G, 2), (w_bar, 1), (s, 1))
    x = torch.zeros_like(t)
    if K > 1:
        x = _minimisers(pcd_problem(gramian, common_tau if tau is None else tau, scales=scales), gramian)
    v = torch.cat([s[..., :1], x.expand_as(t)], dim=-1)
    of_gramian = torch.zeros_like(G)
    if rescale:
        w_bar, of_gramian = _through_rescaling(w_bar, v, G)
    inner = G[..., 1:, 1:]
    y = _solve_rows((x > 0)[..., None, :].expand(*batch, 1, K - 1), inner, w_bar[..., None, 1:])[..., 0, :]
    lifted = torch.cat([torch.zeros_like(y[..., :1]), y], dim=-1)
    squares = inner.diagonal(dim1=-2, dim2=-1)
    demanded = torch.cat([torch.zeros_like(y[..., :1]), y * t * s[..., 1:]], dim=-1)
    of_gramian = of_gramian - _symmetric(lifted[..., :, None] * v[..., None, :]) + torch.diag_embed(demanded)
    of_primary = w_bar[..., :1] - (y * G[..., 1:, 0]).sum(dim=-1, keepdim=True)
    of_scales = torch.cat([of_primary, y * t * squares], dim=-1)
    return (
        _given(of_gramian + poison[..., None, None], gramian),
        _given(y * s[..., 1:] * squares + poison[..., None], tau),
        _given(of_scales + poison[..., None], scales),
    )


def _through_rescaling(w_bar: Tensor, v: Tensor, G: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return the gradients with respect to v and G of :math:`v \sqrt{G_{00} / v^\top G v}`."""
    image = (G @ v[..., None])[..., 0]
    square = (v * image).sum(dim=-1, keepdim=True)
    lengths = G.diagonal(dim1=-2, dim2=-1).sqrt()
    size = (v * lengths).sum(dim=-1, keepdim=True)
    primary = lengths[..., :1]
    moves = (square > VANISHING * size * size) & (primary > 0)
    square = torch.where(moves, square, 1.0)
    factor = torch.where(moves, primary / square.sqrt(), 0.0)
    along = (w_bar * v).sum(dim=-1, keepdim=True) * factor
    of_v = factor * w_bar - along / square * image
    of_gramian = -0.5 * (along / square)[..., None] * (v[..., :, None] * v[..., None, :])
    half = torch.where(moves, 0.5 * along / torch.where(moves, primary, 1.0).square(), 0.0)
    of_gramian[..., 0, 0] += half[..., 0]
    return of_v, of_gramian
