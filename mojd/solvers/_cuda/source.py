"""The text of the CUDA kernels, and the names of all that are to be had of them."""

from __future__ import annotations

import functools
import re
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "kernels" / "cuda"
# Tiles of so many lanes; a problem goes to the narrowest that holds it.
WIDTHS = (4, 8, 16, 32)
NUMBERS = ("double", "float")
_INCLUDE = re.compile(r'#include "(.+)"\n')


@functools.cache
def source() -> str:
    """Return all kernels as one text, each file in it once and before those that need it.

    Compilers at run time know no folders, and what they keep of earlier runs they find again by the text.
    """
    seen: set[str] = set()

    def text_of(name: str) -> str:
        if name in seen:
            return ""
        seen.add(name)
        text = (FOLDER / name).read_text(encoding="utf-8").replace("#pragma once\n", "")
        return _INCLUDE.sub(lambda found: text_of(found[1]), text)

    return text_of("kernels.cu")


def names() -> tuple[str, ...]:
    """Return the C++ expressions that name kernels."""
    found = []
    for number in NUMBERS:
        found += [f"mojd::{kernel}_closed<{number}, {K}>" for kernel in ("upgrad", "pcd") for K in (2, 3)]
        found += [f"mojd::{kernel}_tiles<{number}, {W}>" for kernel in ("upgrad", "pcd") for W in WIDTHS]
        found += [f"mojd::solve_tiles<{number}, {W}>" for W in WIDTHS]
        found += [
            f"mojd::{kernel}<{number}>" for kernel in ("add_projections", "equilibrate_rows", "solve_blocks")
        ]
    # Problems come in float64, but for those of whole methods, which have closed forms of their own.
    found += [f"mojd::solve_closed<double, {K}>" for K in (1, 2, 3)]
    return tuple(found)
