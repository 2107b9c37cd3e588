"""The sum of the projections of all gradients of one Gramian."""

from __future__ import annotations

from mojd.kernels.compiling import inner
from mojd.kernels.status import OPTIMAL


@inner
def add_projections(x, statuses, u, w):
    """Write w = Σ_r u_r·(e_r + x[r]), the K projections weighted and summed; return the worst status.

    The problems are solved for preferences of 1 and scaled here: projection on a cone is positively
    homogeneous, and so their linear terms are the rows of G themselves, exact.
    """
    code = OPTIMAL
    for j in range(w.size):
        w[j] = u[j]
    for r in range(x.shape[0]):
        code = statuses[r] if statuses[r] > code else code
        for j in range(w.size):
            w[j] += u[r] * x[r, j]
    return code
