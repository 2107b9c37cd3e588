"""The shim that runs kernels on the CPU needs POSIX: its memory, its signals, its locks on files."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from mojd.solvers._cuda import plans

collect_ignore_glob = [] if os.name == "posix" else ["test_*.py"]


@pytest.fixture(autouse=True)
def fresh_plans() -> Iterator[None]:
    """Forget the plans of other tests, which may have been made with other constants."""
    made = (plans.solve, plans.upgrad, plans.pcd)
    for plan in made:
        plan.cache_clear()
    yield
    for plan in made:
        plan.cache_clear()
