"""What can be checked of arguments before a program runs: NumPy arrays and numbers, but no array of JAX."""

from __future__ import annotations

from typing import Any

import jax

from mojd import _checks
from mojd._arrays import as_array


def check_nonnegative(value: Any, name: str, meaning: str = "it must be >= 0") -> None:
    """Raise if a vector of the host has a negative entry; nothing waits for a device."""
    if value is not None and not isinstance(value, jax.Array):
        _checks.check_nonnegative(as_array(value, name), name, meaning)


def check_tau(tau: Any) -> None:
    """Raise if τ is of the host and outside of [0, 1]."""
    if not isinstance(tau, jax.Array):
        _checks.check_tau(as_array(tau, "tau"))
