"""What a function says of its options; nothing, where it has no signature to read, as some in C."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

EMPTY = inspect.Parameter.empty


def options_of(function: Callable[..., Any]) -> Mapping[str, Any]:
    """Return the defaults by name, EMPTY where there is none; a partial's settings are defaults too."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}
    return {name: parameter.default for name, parameter in parameters.items()}
