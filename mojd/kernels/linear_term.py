"""The linear term in units that suit the solvers, and the answers that it gives away at once."""

from __future__ import annotations

import math

from mojd.kernels.compiling import inner
from mojd.kernels.status import INFEASIBLE, NONFINITE, OPTIMAL, UNSETTLED


@inner
def normalise_linear(q, scale, out):
    """Write D·q·2ᵏ with max|·| in [½, 1) to `out`, and return 2⁻ᵏ (0 if q = 0, NaN if not finite)."""
    largest, check = 0.0, 0.0
    for j in range(q.size):
        out[j] = q[j] * scale[j]
        check += out[j] * 0.0
        largest = abs(out[j]) if abs(out[j]) > largest else largest
    if not math.isfinite(check):
        return math.nan
    if largest == 0.0:
        return 0.0
    # Clamped, so that 2⁻ᵏ exists even for subnormal numbers.
    exponent = math.frexp(largest)[1]
    exponent = exponent if exponent > -1000 else -1000
    factor = math.ldexp(1.0, -exponent)
    for j in range(q.size):
        out[j] *= factor
    return math.ldexp(1.0, exponent)


@inner
def answer_at_once(A, q, magnitude, scale, x):
    """Answer a problem that needs no solving; return its status, or UNSETTLED.

    `q` and `magnitude` are those of :func:`normalise_linear`.
    """
    if not magnitude >= 0.0:
        x[:] = math.nan
        return NONFINITE
    if magnitude == 0.0:
        x[:] = 0.0
        return OPTIMAL
    for j in range(x.size):
        if A[j, j] == 0.0 and q[j] < 0.0:
            x[:] = 0.0
            x[j] = scale[j]
            return INFEASIBLE
    return UNSETTLED
