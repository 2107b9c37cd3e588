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
import json, time
import numpy as np
import mojd
G = np.array([[2.0, -1.0, 0.0, 0.0], [-1.0, 2.0, -1.0, 0.0], [0.0, -1.0, 2.0, -1.0], [0.0, 0.0, -1.0, 2.0]])
wall, cpu = time.perf_counter(), time.process_time()
mojd.upgrad(G)
mojd.pcd(G)
mojd.solve(mojd.NNQP(G, -G[0]))
found = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu, "from": mojd.__file__}
print(json.dumps(found))
"""


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
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(PACKAGE, Path(folder, "mojd"), ignore=shutil.ignore_patterns("__pycache__"))

        def run() -> dict[str, Any]:
            found: dict[str, Any] = json.loads(run_python(FIRST_CALL, folder=Path(folder)))
            if not Path(found.pop("from")).resolve().is_relative_to(Path(folder).resolve()):
                raise RuntimeError(f"another mojd was imported than the copy in {folder}")
            return found

        first = run()
        later = [run() for _ in range(PROCESSES)]
    middle = {name: median(run[name] for run in later) for name in first}
    name, bar = "first calls: compile everything", at_most(COMPILE_S)
    yield Figure("startup", "fresh installation", name, first["wall_s"], "s", bar, first)
    name, bar = "first calls: load from the cache", at_most(LOAD_S)
    yield Figure("startup", "later processes", name, middle["wall_s"], "s", bar, middle)
