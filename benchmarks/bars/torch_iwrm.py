"""A step of UPGrad with one loss per example: against plain SGD, beside TorchJD, in time and in memory."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from children import run_python
from figures import Figure, Settings, Task, at_most
from iwrm_steps import CASES, SIDES, mojd_gramian, torchjd_gramian
from timing import interleaved

import mojd

SECTION = "torch-iwrm"
SLOWER = {
    "MLP 1024-1024-1024-10, K = 64": 1.3,
    "MLP 1024-1024-1024-10, K = 256": 2.5,
    "CNN for SVHN, K = 32": 1.6,
    "transformer block, K = 32": 1.8,
}
LARGER = 1.5
MEASURED_MEMORY = ("MLP 1024-1024-1024-10, K = 64",)
# TorchJD's Gramian in float32 may differ from mojd's by this, relatively, to count as the same.
SAME = 1e-4

# The network is part of what is held before: left are gradients, activations, and whatever else a step
# keeps or needs for a moment. A step of a small network loads all code first.
MEMORY = """
import json, sys
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
from iwrm_steps import CASES, SIDES, Case
from networks import mlp
from resident import forget_peak, held, peak

# As many losses, so that all code is loaded.
small = SIDES[sys.argv[2]](Case(lambda: mlp(16), (16,), CASES[sys.argv[3]].size))
small(), small()
step = SIDES[sys.argv[2]](CASES[sys.argv[3]])
forget_peak()
before = held()
for _ in range(5):
    step()
print(json.dumps((peak() - before) / 1e6))
"""


def tasks(settings: Settings) -> list[Task]:
    """List what to measure: the time of every case, and the memory of the MLP's step."""
    cases = [case for case in SLOWER if not (settings.quick and case.endswith("K = 256"))]
    times = [Task(f"{SECTION}, {case}", partial(_time, case, settings)) for case in cases]
    memory = [Task(f"{SECTION}, memory, {case}", partial(_memory, case)) for case in MEASURED_MEMORY]
    return times + memory


def _time(name: str, settings: Settings) -> list[Figure]:
    case = CASES[name]
    gramian, theirs = mojd_gramian(case), torchjd_gramian(case)
    apart = float((gramian - theirs).norm() / theirs.norm())
    note = f"TorchJD's Gramian differs by {apart:.0e}" if not apart <= SAME else ""
    calls = {side: step(case) for side, step in SIDES.items()}
    calls["upgrad alone"] = partial(mojd.upgrad, gramian)
    calls["mojd"]()  # which compiles
    seconds = interleaved(calls, settings.seconds * len(calls), settings.least)
    details = {f"{side}_ms": 1e3 * taken for side, taken in seconds.items()}
    details["torchjd_ratio"] = seconds["torchjd"] / seconds["plain"]
    ratio = seconds["mojd"] / seconds["plain"]
    return [Figure(SECTION, name, "step, times plain SGD", ratio, "×", at_most(SLOWER[name]), details, note)]


def _memory(name: str) -> list[Figure]:
    folder = str(Path(__file__).parents[1])
    details = {f"{side}_MB": float(json.loads(run_python(MEMORY, folder, side, name))) for side in SIDES}
    details["torchjd_ratio"] = details["torchjd_MB"] / details["plain_MB"]
    ratio = details["mojd_MB"] / details["plain_MB"]
    what = "peak memory beyond the network, times plain SGD"
    return [Figure(SECTION, name, what, ratio, "×", at_most(LARGER), details)]
