"""The memory that UPGrad needs beyond its Gramian, as the operating system sees it."""

from __future__ import annotations

import json
from collections.abc import Iterable

from children import run_python
from figures import Figure, Settings, Task, at_most

SIZE = 1024
MEGABYTES = 200.0

# Peak less what is held just before the call. Linux can forget the peak so far, such as that of
# compiling; elsewhere an earlier peak may hide a part of the call's own.
CODE = """
import json, resource, sys
from pathlib import Path
import numpy as np
import mojd

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")

def peak():
    if STATUS.exists():
        lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
        return 1024 * int(lines["VmHWM"].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

size = int(sys.argv[1])
mojd.upgrad(np.eye(8))
J = np.random.default_rng(0).standard_normal((size, 2 * size))
G = J @ J.T
if RESET.exists():
    RESET.write_text("5")
before = peak()
mojd.upgrad(G)
print(json.dumps({"before_MB": before / 1e6, "peak_MB": peak() / 1e6, "gramian_MB": G.nbytes / 1e6}))
"""


def tasks(settings: Settings) -> list[Task]:
    """List the one thing to measure."""
    size = SIZE // 8 if settings.quick else SIZE
    return [Task(f"memory, K = {size}", lambda: _measure(size))]


def _measure(size: int) -> Iterable[Figure]:
    details = json.loads(run_python(CODE, str(size)))
    beyond = details["peak_MB"] - details["before_MB"]
    case, bar = f"K = {size}, random", at_most(MEGABYTES)
    yield Figure("memory", case, "upgrad: peak memory beyond G", beyond, "MB", bar, details)
