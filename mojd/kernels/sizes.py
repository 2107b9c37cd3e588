"""Up to which K which method is used; apart, so that callers can read it without loading numba."""

from __future__ import annotations

# Above this K, Cholesky factors of the passive block cost less than sweeps of all of A.
LARGEST_TABLEAU = 32
# Above this K, right-hand sides that share a Gramian are faster in SIMD lanes than in tableaus.
LARGEST_SHARED_TABLEAU = 16
