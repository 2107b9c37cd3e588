"""Scale a Gramian by exact powers of two, and look for what makes it no Gramian at all."""

from __future__ import annotations

import math

from mojd.kernels.compiling import fast_inner, inner
from mojd.kernels.double_double import bits_of, float_of
from mojd.kernels.status import (
    ASYMMETRIC,
    NEGATIVE_DIAGONAL,
    NONFINITE,
    NOT_PSD,
    OPTIMAL,
)


@inner
def power_of_two_scale(diagonal):
    """Return 2ᵏ such that 4ᵏ·diagonal lies in [½, 2)."""
    field = bits_of(diagonal) >> 52
    if field == 0:
        # Subnormal: the exponent is in the leading zeros.
        return math.ldexp(1.0, -(math.frexp(diagonal)[1] >> 1))
    return float_of((1023 - ((field - 1022) >> 1)) << 52)


@fast_inner
def _finite_sum(G, i, K):
    total = 0.0
    for j in range(K):
        total += G[i, j] * 0.0
    return total


@inner
def equilibrate(G, A, scale, tolerance, tiny):
    """Write D·G·D to `A` and the diagonal of D to `scale` (both modified in place).

    D holds powers of two that bring the diagonal of G into [½, 2), so that no bit is lost
    (docs/design.md). Rows with a zero diagonal become exactly zero, with scale 1.

    `tolerance` is how far |G_ij − G_ji| and |G_ij| may exceed what √(G_ii·G_jj) allows, relative
    to it. `tiny` is the smallest square that the dtype of the caller resolves: off-diagonal
    entries beside a zero diagonal are underflow if their square is below `tiny` times the other
    diagonal. Returns OPTIMAL or what is wrong.
    """
    K = G.shape[0]
    for i in range(K):
        diagonal = G[i, i]
        if not math.isfinite(diagonal) or not math.isfinite(_finite_sum(G, i, K)):
            return NONFINITE
        if diagonal < 0.0:
            return NEGATIVE_DIAGONAL
        scale[i] = power_of_two_scale(diagonal) if diagonal > 0.0 else 1.0
    for i in range(K):
        if G[i, i] == 0.0:
            for j in range(K):
                limit = math.sqrt(tiny * G[j, j])
                if abs(G[i, j]) > limit or abs(G[j, i]) > limit:
                    return NOT_PSD
                A[i, j] = 0.0
                A[j, i] = 0.0
            continue
        A[i, i] = (G[i, i] * scale[i]) * scale[i]
        for j in range(i):
            if G[j, j] == 0.0:
                continue
            upper = (G[j, i] * scale[i]) * scale[j]
            lower = (G[i, j] * scale[i]) * scale[j]
            entry = 0.5 * (upper + lower)
            bound = A[i, i] * A[j, j]
            if (upper - lower) * (upper - lower) > tolerance * tolerance * bound:
                return ASYMMETRIC
            if entry * entry > (1.0 + tolerance) * (1.0 + tolerance) * bound:
                return NOT_PSD
            A[i, j] = entry
            A[j, i] = entry
    return OPTIMAL
