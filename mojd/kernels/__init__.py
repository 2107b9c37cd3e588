"""Compiled code: arrays in, arrays and integer status out. Nothing in here raises.

Importing a module of this package imports numba and, the first time after an installation or an
edit, compiles. :func:`drop_stale_cache` must run before.
"""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent


def drop_stale_cache() -> None:
    """Delete compiled code that is older than any kernel source.

    Numba's cache notices an edit to the file of a cached function, but not to the files of the
    functions that it calls: it would go on running the old ones.
    """
    newest = max(source.stat().st_mtime_ns for source in _FOLDER.glob("*.py"))
    for compiled in (_FOLDER / "__pycache__").glob("*.nb[ic]"):
        try:
            if compiled.stat().st_mtime_ns < newest:
                compiled.unlink()
        except FileNotFoundError:
            # Another process that starts at the same time has cleared it away.
            continue


def is_cached(module: str, name: str) -> bool:
    """Whether an entry point has been compiled before (and its code is where numba usually keeps it)."""
    return any((_FOLDER / "__pycache__").glob(f"{module}.{name}-*.nbi"))
