"""Fixtures for tests that hold several methods to the same statements.

Their module has a table ``METHODS`` from the name of a case to a method and its options, and a fixture
``name`` that goes through it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

import mojd
from mojd.weightings import get_method


@pytest.fixture
def weigh(request: pytest.FixtureRequest, name: str) -> Callable[..., Any]:
    """Weights of the case, from a Gramian."""
    method, options = request.module.METHODS[name]
    return partial(getattr(mojd, method), **options)


@pytest.fixture
def miss(request: pytest.FixtureRequest, name: str) -> Callable[..., Any]:
    """The residual of the case, from weights and a Gramian."""
    method, options = request.module.METHODS[name]
    return partial(get_method(method).residual, **options)  # type: ignore[attr-defined]
