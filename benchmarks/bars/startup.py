"""What the first import and the first calls cost, in a fresh installation and in later processes."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

from children import run_python
from figures import Figure, Settings, Task, at_most

import mojd

PACKAGE = Path(mojd.__file__).parent
OPTIONAL = (
    *("torch", "jax", "cupy", "torchjd", "typer", "rich", "matplotlib"),
    *("osqp", "cvxpy", "qpsolvers", "quadprog", "daqp", "piqp", "proxsuite", "highspy", "scs", "clarabel"),
)
IMPORT_S, COMPILE_S, LOAD_S = 0.3, 10.0, 0.5
PROCESSES = 7

IMPORT = """
import json, sys, time
import numpy
start = time.perf_counter()
import mojd
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "optional": sorted(set(sys.argv[1:]) & set(sys.modules))}))
"""

FIRST_CALL = """
import json, sys, time
import numpy as np
import mojd
rng = np.random.default_rng(0)
def gramian(K):
    J = rng.standard_normal((K, 2 * K))
    return J @ J.T
wall = time.perf_counter()
for call in sys.argv[1:]:
    name, K = call.split()
    G = gramian(int(K))
    if name == "solve":
        mojd.solve(mojd.NNQP(G, -G[0]))
    elif name == "normalise":
        mojd.normalise(mojd.init_normaliser(len(G)), G)
    else:
        getattr(mojd, name)(G)
found = {"wall_s": time.perf_counter() - wall, "from": mojd.__file__}
print(json.dumps(found))
"""
# Together they need every kernel: one for small K, one for large, and those of the methods.
CALLS = ("upgrad 2", "upgrad 64", "pcd 3", "solve 8", "normalise 2")


def tasks(settings: Settings) -> list[Task]:
    """List the import and the first calls."""
    found = [Task("import mojd", _import)]
    if not settings.quick:
        found.append(Task("first calls of a fresh installation", _first_calls))
    return found


def _import() -> Iterable[Figure]:
    runs = [json.loads(run_python(IMPORT, *OPTIONAL)) for _ in range(1 + PROCESSES)][1:]
    seconds, found = median(run["seconds"] for run in runs), runs[0]["optional"]
    yield Figure("startup", "import mojd", "beyond importing NumPy", seconds, "s", at_most(IMPORT_S))
    name, note = "optional packages imported", ", ".join(found)
    yield Figure("startup", "import mojd", name, len(found), "", at_most(0), {}, note)


def _first_calls() -> Iterable[Figure]:
    alone = {call: _timed(call) for call in CALLS}
    first = {call: pair[0] for call, pair in alone.items()}
    later = {call: pair[1] for call, pair in alone.items()}
    name, bar = "slowest first call: compile", at_most(COMPILE_S)
    yield Figure("startup", "fresh installation", name, max(first.values()), "s", bar, first)
    name, bar = "slowest first call: load from the cache", at_most(LOAD_S)
    yield Figure("startup", "later processes", name, max(later.values()), "s", bar, later)
    every_first, every_later = _timed(*CALLS)
    name, bar = "all of them: compile", at_most(COMPILE_S)
    yield Figure("startup", "fresh installation", name, every_first, "s", bar)
    name, bar = "all of them: load from the cache", at_most(LOAD_S)
    yield Figure("startup", "later processes", name, every_later, "s", bar)


def _timed(*calls: str) -> tuple[float, float]:
    """Return the seconds of the first calls in a fresh installation, and the median of later processes."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(PACKAGE, Path(folder, "mojd"), ignore=shutil.ignore_patterns("__pycache__"))

        def run() -> float:
            found: dict[str, Any] = json.loads(run_python(FIRST_CALL, *calls, folder=Path(folder)))
            if not Path(found["from"]).resolve().is_relative_to(Path(folder).resolve()):
                raise RuntimeError(f"another mojd was imported than the copy in {folder}")
            return float(found["wall_s"])

        first = run()
        return first, median(run() for _ in range(PROCESSES))
