"""What the papers say, for the checks to agree with."""

from __future__ import annotations

JACOBIAN_DESCENT = ("non_conflicting", "linear_under_scaling", "weighted")
"""The columns of Table 1 of the Jacobian-descent paper."""

TABLE_1: dict[str, tuple[bool, bool, bool]] = {
    "mean": (False, True, True),
    "mgda": (True, False, True),
    "dualproj": (True, False, True),
    "pcgrad": (False, True, True),
    "graddrop": (False, False, False),
    "imtl_g": (False, False, True),
    "cagrad": (False, False, True),
    "rgw": (False, True, True),
    "nash_mtl": (True, False, True),
    "aligned_mtl": (False, False, True),
    "upgrad": (True, True, True),
}
"""Its rows (arXiv 2406.16232): which method has which of the three properties."""

PRIORITIES = (
    "secondary_progress",
    "fallback_to_primary",
    "normalised_scale_invariance",
    "composite_stationarity",
    "one_dial",
)
"""The five properties that the paper on PCD (arXiv 2606.29521) proves of it."""

REFUTED: dict[str, tuple[str, ...]] = {
    "secondary_progress": ("mean", "mgda", "pcgrad"),
    "normalised_scale_invariance": ("mean",),
    "composite_stationarity": ("mean", "mgda", "pcgrad", "cagrad"),
}
"""Of which symmetric methods that paper says that they lack a property."""


def expected(method: str, name: str) -> bool | None:
    """Return what a paper says of a method and a property; None if it says nothing."""
    if name in JACOBIAN_DESCENT and method in TABLE_1:
        return TABLE_1[method][JACOBIAN_DESCENT.index(name)]
    if name in PRIORITIES and method == "pcd":
        return True
    return False if method in REFUTED.get(name, ()) else None
