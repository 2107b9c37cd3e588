"""Where JAX is not installed, there is nothing to test here."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

collect_ignore_glob = [] if find_spec("jax") else ["test_*.py"]


@pytest.fixture
def x64() -> Iterator[None]:
    """Let JAX have float64 for the length of a test."""
    import jax

    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True, scope="module")
def programs_of_one_file() -> Iterator[None]:
    """Let go of what a file has compiled: thousands of programs take gigabytes, and time to look through."""
    yield
    import jax

    jax.clear_caches()
