"""What the docstring of every method has."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

from mojd.weightings import Method

PARTS = (".. math::", "Parameters", "Returns", "Raises", "Notes", "References", "Examples", ">>>")


def assert_it_says_what_it_is(method: Method, function: Callable[..., Any]) -> None:
    """Check the registration's texts, and the parts of the docstring of the public function."""
    for text in (method.title, method.summary, method.source):
        assert text
        assert "\n" not in text
    documentation = inspect.getdoc(function)
    assert documentation is not None
    for part in PARTS:
        assert part in documentation
    claims = re.findall(
        r"Properties: non-conflicting [✓✗], linear under scaling [✓✗], weighted [✓✗]\.", documentation
    )
    assert len(claims) == 1
