"""Entry point for XLA: solve NNQP(G, q) within a compiled program, without Python.

XLA calls a handler with one pointer, to an XLA_FFI_CallFrame: see xla/ffi/api/c_api.h, which jaxlib ships.
All structs there are read here as words of 64 bits. A version 1 may have other layouts, and XLA would then
refuse the handler by the version that :func:`_describe` reports.
"""

from __future__ import annotations

import numpy as np
from numba import carray, cfunc, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from mojd.kernels.batch import solve_many
from mojd.kernels.nnqp import solve_one
from mojd.kernels.sizes import LARGEST_SHARED_TABLEAU, LARGEST_TABLEAU
from mojd.kernels.status import UNSETTLED

# Where the words of an XLA_FFI_CallFrame are that matter here: what XLA wants beside a call, its API,
# and the arrays of pointers to the buffers of arguments and results.
_EXTENSION, _API, _ARGUMENTS, _RESULTS, _FRAME_SIZE = 1, 2, 9, 14, 15
# Words of XLA_FFI_Buffer: the data, and the array of its dimensions.
_DATA, _DIMENSIONS, _BUFFER_SIZE = 3, 5, 6
# Words of XLA_FFI_Metadata_Extension and XLA_FFI_Metadata, and of XLA_FFI_Api, of which the version's two
# halves share one.
_METADATA, _METADATA_VERSION, _API_VERSION = 3, 3, 4
# Minor 1 in the upper half, major 0 in the lower one.
_OLDEST_VERSION = 1 << 32


@intrinsic
def _pointer(typing_context, address):
    """Turn an integer into a pointer."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.intp), generate


@njit
def _words(address, count):
    return carray(_pointer(address), (count,), np.int64)


@njit
def _buffer(table, index):
    return _words(_words(table, index + 1)[index], _BUFFER_SIZE)


@njit
def _dimensions(buffer, count):
    return _words(buffer[_DIMENSIONS], count)


@njit
def _describe(frame):
    """Answer what XLA asks when a handler is registered: the version of the API that the handler is for.

    What is read here has not changed since version 0.1, so that is XLA's own, where XLA says which.
    """
    extension = _words(frame[_EXTENSION], _METADATA + 1)
    metadata, version = _words(extension[_METADATA], _METADATA_VERSION + 1), _OLDEST_VERSION
    if frame[_API] != 0:
        own = _words(frame[_API], _API_VERSION + 1)[_API_VERSION]
        version = own if own & 0xFFFFFFFF == 0 else version
    metadata[_METADATA_VERSION] = version


@njit(error_model="numpy")
def _settle(G, q, x, status, iterations, precision, floats, integers):
    """Solve one by one what is UNSETTLED."""
    for b in range(q.shape[0]):
        for r in range(q.shape[1]):
            if status[b, r] == UNSETTLED:
                code = solve_one(
                    G[b], q[b, r], x[b, r], True, False, precision[0], precision[1], floats, integers
                )
                status[b, r] = code & 255
                iterations[b, r] += code >> 8


@cfunc(types.voidptr(types.voidptr), cache=True, error_model="numpy")
def solve_nnqp(call):
    """Solve NNQP(G[b], q[b, r]) for all b and r, as a handler of XLA's foreign function interface.

    Arguments: G (B, K, K), q (B, R, K) and the precision (2,), all float64. Results: x (B, R, K) float64,
    statuses (or refusals) int8 and iterations int32 (B, R), and work space in float64 and int64 of the
    sizes that :func:`mojd.kernels.workspace.batch_sizes` gives, or scalar_sizes if those are larger.
    """
    frame = carray(call, (_FRAME_SIZE,), np.int64)
    if frame[_EXTENSION] != 0:
        _describe(frame)
        return _pointer(0)
    arguments, results = frame[_ARGUMENTS], frame[_RESULTS]
    rows = _buffer(arguments, 1)
    shape = _dimensions(rows, 3)
    B, R, K = shape[0], shape[1], shape[2]
    G = carray(_pointer(_buffer(arguments, 0)[_DATA]), (B, K, K), np.float64)
    q = carray(_pointer(rows[_DATA]), (B, R, K), np.float64)
    precision = carray(_pointer(_buffer(arguments, 2)[_DATA]), (2,), np.float64)
    x = carray(_pointer(_buffer(results, 0)[_DATA]), (B, R, K), np.float64)
    status = carray(_pointer(_buffer(results, 1)[_DATA]), (B, R), np.int8)
    iterations = carray(_pointer(_buffer(results, 2)[_DATA]), (B, R), np.int32)
    space = _buffer(results, 3)
    floats = carray(_pointer(space[_DATA]), (_dimensions(space, 1)[0],), np.float64)
    space = _buffer(results, 4)
    integers = carray(_pointer(space[_DATA]), (_dimensions(space, 1)[0],), np.int64)
    floats[:] = 0.0
    lanes = R > 1 and K > LARGEST_SHARED_TABLEAU
    worst = UNSETTLED
    if lanes or K <= LARGEST_TABLEAU:
        none = x[0, :0]
        worst = solve_many(
            G,
            q,
            x,
            status,
            iterations,
            none,
            none,
            True,
            lanes,
            precision[0],
            precision[1],
            floats,
            integers,
        )
    else:
        status[:], iterations[:] = UNSETTLED, 0
    if worst == UNSETTLED:
        _settle(G, q, x, status, iterations, precision, floats, integers)
    return _pointer(0)
