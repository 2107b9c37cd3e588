"""The argument types of the compiled entry points.

Inputs are declared writable although nothing writes to them: for numba read-only arrays are another
type, and all code would have to be compiled for both. The machine code itself does not mind.
"""

from __future__ import annotations

from numba import types

VECTOR = types.float64[::1]
MATRIX = types.float64[:, ::1]
MATRICES = types.float64[:, :, ::1]
STATUSES = types.int8[::1]
STATUS_TABLE = types.int8[:, ::1]
COUNTS = types.int64[::1]
COUNTS_32 = types.int32[::1]
COUNT_TABLE = types.int32[:, ::1]
