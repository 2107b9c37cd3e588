"""Numbers of objectives and parameters: one, or the least and the most."""

from __future__ import annotations

from typing import Any

Range = int | tuple[int, int]


def pair_of(value: Any) -> tuple[int, int] | None:
    """Return (least, most), or None if the value is neither an integer nor a pair of them."""
    bounds = (value, value) if isinstance(value, int) else value
    if not isinstance(bounds, tuple) or len(bounds) != 2 or not all(isinstance(b, int) for b in bounds):
        return None
    return bounds
