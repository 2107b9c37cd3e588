"""How much memory this process holds, as the operating system sees it."""

from __future__ import annotations

import sys
from pathlib import Path

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _status(name: str) -> int:
    lines = dict(line.split(":", 1) for line in STATUS.read_text(encoding="utf-8").splitlines())
    return 1024 * int(lines[name].split()[0])


def peak() -> int:
    """Return the most bytes held so far, or since the peak was forgotten."""
    if STATUS.exists():
        return _status("VmHWM")
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def held() -> int:
    """Return the bytes held now; where the system does not say, the most so far."""
    return _status("VmRSS") if STATUS.exists() else peak()


def forget_peak() -> None:
    """Let the peak start from what is held now.

    Only Linux can; elsewhere an earlier peak, such as that of compiling, may hide a part of a later one.
    """
    if RESET.exists():
        RESET.write_text("5", encoding="utf-8")
