"""What a ridge of 1e-4 of the trace, and a threshold on it, make of UPGrad's directions.

TorchJD normalises the Gramian by its trace, or to zero where that is below 1e-4, and adds 1e-4 to the
diagonal. Its solution is then that of another problem; how far off, these figures say. The exact one is
certified: the bound on its error is computed from the Gramian and the solution alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial

import gramians
import numpy as np
import torch
from figures import Figure, Settings, Task, at_most
from gramians import FloatArray
from peers import torchjd_upgrad
from qpsolvers import ProblemError, SolverError
from torchjd.aggregation import UPGradWeighting
from torchjd.linalg import QuadprogProjector

import mojd

SHOWN = ("digits-mlp-32-late", "digits-mlp-128-late", "digits-mlp-256-late")
# The cosine with a gradient below which a direction opposes it, beyond what rounding could do.
OPPOSED = -1e-9
# The example of the paper, in units that make ‖J‖_F < 1e-2: rows whose gradients conflict.
SMALL = 1e-3 * np.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])


def tasks(settings: Settings) -> list[Task]:
    """List the recorded Gramians that are shown, all of them, and the small norm."""
    shown = SHOWN[:1] if settings.quick else SHOWN
    found = [Task(f"TorchJD's ridge on {name}", partial(_recorded, name)) for name in shown]
    if not settings.quick:
        found.append(Task("TorchJD's ridge on all recorded Gramians", _all_recorded))
    found.append(Task("TorchJD on a small Jacobian", _small_norm))
    return found


def _length(gramian: FloatArray, weights: FloatArray) -> float:
    """Return ‖Jᵀw‖."""
    return math.sqrt(max(float(weights @ gramian @ weights), 0.0))


def _error(gramian: FloatArray, weights: FloatArray, exact: FloatArray) -> float:
    """Return the distance of the two directions over the length of the exact one, in per cent."""
    return 100 * _length(gramian, weights - exact) / _length(gramian, exact)


def _opposed(gramian: FloatArray, weights: FloatArray) -> int:
    """Return how many gradients the direction opposes."""
    length = _length(gramian, weights) * np.sqrt(np.diagonal(gramian))
    return int((gramian @ weights < OPPOSED * length).sum())


def _certified(gramian: FloatArray) -> float:
    """Return a rigorous bound on the error of mojd's direction, in per cent of its length."""
    bounds = mojd.solve(mojd.upgrad_problem(gramian)).direction_error_bound
    return 100 * float(bounds.sum()) / _length(gramian, mojd.upgrad(gramian))


def _recorded(name: str) -> Iterable[Figure]:
    gramian = gramians.recorded_names()[name][0]
    ridged, exact = torchjd_upgrad(gramian)(), mojd.upgrad(gramian)
    details = {"certified_bound_%": _certified(gramian), "K": float(len(gramian))}

    def figure(quantity: str, value: float, unit: str, own: dict[str, float]) -> Figure:
        return Figure("torchjd-fault", name, quantity, value, unit, details=own)

    yield figure("TorchJD: error of the direction", _error(gramian, ridged, exact), "%", details)
    yield figure("TorchJD: gradients opposed", _opposed(gramian, ridged), "", details)
    bar = at_most(0)
    opposed = _opposed(gramian, exact)
    yield Figure("torchjd-fault", name, "mojd: gradients opposed", opposed, "", bar, details)


def _all_recorded() -> Iterable[Figure]:
    stacks = gramians.recorded_names().values()
    every = [gramian for stack in stacks for gramian in stack]
    faulty = sum(_opposed(gramian, torchjd_upgrad(gramian)()) > 0 for gramian in every)
    exact = sum(_opposed(gramian, mojd.upgrad(gramian)) > 0 for gramian in every)
    without_ridge = UPGradWeighting(projector=QuadprogProjector(norm_eps=0.0, reg_eps=0.0))
    refused = sum(not _runs(without_ridge, gramian) for gramian in every)
    case, details = "all recorded Gramians", {"Gramians": float(len(every))}
    yield Figure("torchjd-fault", case, "TorchJD: opposes some gradient on", faulty, "", None, details)
    yield Figure("torchjd-fault", case, "TorchJD without the ridge: raises on", refused, "", None, details)
    yield Figure("torchjd-fault", case, "mojd: opposes some gradient on", exact, "", at_most(0), details)


def _runs(weighting: UPGradWeighting, gramian: FloatArray) -> bool:
    """Whether the solver takes the Gramian."""
    try:
        weighting(torch.from_numpy(gramian))
    except (ProblemError, SolverError, ValueError):
        return False
    return True


def _small_norm() -> Iterable[Figure]:
    gramian = SMALL @ SMALL.T
    theirs, exact = torchjd_upgrad(gramian)(), mojd.upgrad(gramian)
    section, case = "torchjd-fault", "[[-4, 1, 1], [6, 1, 1]] / 1000"
    details = {"norm_of_J": float(np.linalg.norm(SMALL)), "certified_bound_%": _certified(gramian)}
    details |= {"weight_1": float(theirs[0]), "weight_2": float(theirs[1])}
    error, note = _error(gramian, theirs, exact), "it is the mean"
    yield Figure(section, case, "TorchJD: error of the direction", error, "%", None, details, note)
    yield Figure(section, case, "TorchJD: gradients opposed", _opposed(gramian, theirs), "", None, details)
    yield Figure(section, case, "mojd: gradients opposed", _opposed(gramian, exact), "", at_most(0))
