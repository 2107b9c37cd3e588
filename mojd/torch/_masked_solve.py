"""Linear systems on many active sets of one Gramian, or of many, without a loop over them."""

from __future__ import annotations

import torch
from torch import Tensor

# How many bytes the blocks of one round may take; a handful of such arrays are in use at a time.
ROUND = 2**26
# A squared distance of a unit gradient from the span of others below this is rounding.
ROUNDINGS = 8.0 * 2.0**-53


def solve_on(active: Tensor, gramian: Tensor, right: Tensor) -> Tensor:
    r"""Solve :math:`A_{PP}\, y = r_P` for every active set P, and set y = 0 elsewhere.

    Parameters
    ----------
    active : bool tensor, shape (B, R, K)
        The sets, R for each matrix.
    gramian : float64 tensor, shape (B, K, K)
        Symmetric positive semi-definite matrices A.
    right : float64 tensor, shape (B, R, K, C)
        C right-hand sides for each set; what is outside of the set does not count.

    Returns
    -------
    tensor, shape (B, R, K, C)
        The solutions, of least squares where gradients of a set depend on each other: any of them gives
        the same :math:`J^\top y`.

    Notes
    -----
    Sets are gathered to the size of the largest, and taken in rounds of a bounded number of bytes. Two
    numbers are read from the device.
    """
    B, R, K = active.shape
    size = int(active.sum(dim=-1).max()) if active.numel() else 0
    if not size:
        return torch.zeros_like(right)
    sets, rights = active.reshape(B * R, K), right.reshape(B * R, K, right.shape[-1])
    # A stable sort brings the members of a set to the front, in their order.
    members = torch.argsort(sets.to(torch.int8), dim=-1, descending=True, stable=True)[:, :size]
    count = max(1, ROUND // (8 * size * size))
    solutions = torch.zeros_like(rights)
    for start in range(0, B * R, count):
        own = slice(start, min(start + count, B * R))
        index = members[own]
        inside = sets[own].gather(-1, index)
        owner = torch.arange(own.start, own.stop, device=active.device) // R
        blocks = gramian[owner[:, None, None], index[:, :, None], index[:, None, :]]
        wide = index[..., None].expand(-1, -1, rights.shape[-1])
        found = _solve_blocks(blocks, inside, rights[own].gather(1, wide))
        solutions[own] = solutions[own].scatter(1, wide, found)
    return solutions.reshape(right.shape)


def _solve_blocks(blocks: Tensor, inside: Tensor, right: Tensor) -> Tensor:
    """Solve for blocks (N, M, M) of which only rows and columns `inside` (N, M) count."""
    diagonal = blocks.diagonal(dim1=-2, dim2=-1)
    scale = torch.where(inside & (diagonal > 0), diagonal.rsqrt(), 0.0)
    pairs = inside[:, :, None] & inside[:, None, :]
    scaled = torch.where(pairs, scale[:, :, None] * blocks * scale[:, None, :], 0.0)
    scaled.diagonal(dim1=-2, dim2=-1).copy_(torch.ones_like(scale))
    right = torch.where(inside[..., None], right * scale[..., None], 0.0)
    factor, code = torch.linalg.cholesky_ex(scaled)
    solved = torch.cholesky_solve(right, factor)
    smallest = factor.diagonal(dim1=-2, dim2=-1).square().amin(dim=-1)
    dependent = ((code != 0) | ~(smallest > ROUNDINGS * blocks.shape[-1])).nonzero()[:, 0]
    if len(dependent):
        solved[dependent] = _pseudo_inverse(scaled[dependent]) @ right[dependent]
    return solved * scale[..., None]


def _pseudo_inverse(blocks: Tensor) -> Tensor:
    """Invert symmetric matrices (N, M, M) with a diagonal of 1 where they can be inverted."""
    values, vectors = torch.linalg.eigh(blocks)
    kept = values > ROUNDINGS * blocks.shape[-1] * values[:, -1:]
    inverse = torch.where(kept, 1.0 / torch.where(kept, values, 1.0), 0.0)
    result: Tensor = (vectors * inverse[:, None, :]) @ vectors.mT
    return result
