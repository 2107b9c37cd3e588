"""The memory that UPGrad needs beyond its Gramian, as the operating system sees it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from children import run_python
from figures import Figure, Settings, Task, at_most

SIZE = 1024
MEGABYTES = 200.0

# Peak less what is held just before the call.
CODE = """
import json, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import mojd
from resident import forget_peak, peak

size = int(sys.argv[2])
mojd.upgrad(np.eye(8))
J = np.random.default_rng(0).standard_normal((size, 2 * size))
G = J @ J.T
forget_peak()
before = peak()
mojd.upgrad(G)
print(json.dumps({"before_MB": before / 1e6, "peak_MB": peak() / 1e6, "gramian_MB": G.nbytes / 1e6}))
"""


def tasks(settings: Settings) -> list[Task]:
    """List the one thing to measure."""
    size = SIZE // 8 if settings.quick else SIZE
    return [Task(f"memory, K = {size}", lambda: _measure(size))]


def _measure(size: int) -> Iterable[Figure]:
    details = json.loads(run_python(CODE, str(Path(__file__).parents[1]), str(size)))
    beyond = details["peak_MB"] - details["before_MB"]
    case, bar = f"K = {size}, random", at_most(MEGABYTES)
    yield Figure("memory", case, "upgrad: peak memory beyond G", beyond, "MB", bar, details)
