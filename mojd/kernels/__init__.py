"""Compiled code: arrays in, arrays and integer status out. Nothing in here raises.

Importing a module of this package imports numba and, the first time after an installation or an
edit, compiles. :func:`drop_stale_cache` must run before.
"""

from __future__ import annotations

from pathlib import Path


def drop_stale_cache() -> bool:
    """Delete compiled code that is older than any kernel source; return whether any is left.

    Numba's cache notices an edit to the file of a cached function, but not to the files of the
    functions that it calls: it would go on running the old ones.
    """
    folder = Path(__file__).parent
    newest = max(source.stat().st_mtime_ns for source in folder.glob("*.py"))
    fresh = False
    for compiled in (folder / "__pycache__").glob("*.nb[ic]"):
        try:
            if compiled.stat().st_mtime_ns >= newest:
                fresh = True
                continue
            compiled.unlink()
        except FileNotFoundError:
            # Another process that starts at the same time has cleared it away.
            continue
    return fresh
