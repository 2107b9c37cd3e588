"""The compiled kernels as a call that XLA makes on the CPU: no Python runs, and no array is copied."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import jax
import jax.numpy as jnp

from mojd._arrays import Precision
from mojd.solvers._kernels import handler_address, handler_sizes
from mojd.solvers._xla.varying import vary, varying_axes

_TARGET = "mojd_solve_nnqp"


@functools.cache
def _register() -> None:
    """Tell XLA where the handler is, once in a process."""
    capsule = ctypes.pythonapi.PyCapsule_New
    capsule.restype, capsule.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    jax.ffi.register_ffi_target(_TARGET, capsule(handler_address(), None, None), platform="cpu")


def solve_by_kernels(gramian: Any, linear: Any, precision: Precision) -> tuple[Any, Any, Any]:
    """Return x (B, R, K), status and iterations (B, R) of float64 G (B, K, K) and q (B, R, K)."""
    _register()
    floats, integers = handler_sizes(linear.shape[-1])
    shapes: list[tuple[tuple[int, ...], Any]] = [
        (linear.shape, jnp.float64),
        (linear.shape[:-1], jnp.int8),
        (linear.shape[:-1], jnp.int32),
        # Work space, which XLA gives to somebody else afterwards.
        ((floats,), jnp.float64),
        ((integers,), jnp.int64),
    ]
    results = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes]  # type: ignore[no-untyped-call]
    # No vmap_method: batches are gathered before, so that right-hand sides go on sharing a Gramian.
    call = jax.ffi.ffi_call(_TARGET, results)
    found = call(gramian, linear, jnp.asarray(precision, jnp.float64))[:3]
    # XLA does not look into a call, and JAX takes its results to be the same on all devices.
    x, status, iterations = vary(found, sorted(varying_axes(gramian) | varying_axes(linear), key=str))
    return x, status, iterations
