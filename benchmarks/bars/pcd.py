"""PCD against TorchJD's PCDWeighting.

Their class keeps the moving average of gradient norms and rescales the direction, so that the step
which compares with it is normalise and pcd with its scales and rescaling. pcd alone is shown too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import gramians
from figures import Figure, Settings, Task, at_least
from gramians import FloatArray
from peers import torchjd_pcd

import mojd
from bars.ratios import times_faster

FASTER = {2: 30.0, 3: 30.0, 8: 30.0, 32: 100.0}
TAU = 0.02
# How far the two directions may be apart, relatively, to count as the same step.
SAME = 1e-4


def tasks(settings: Settings) -> list[Task]:
    """List what to measure: random Gramians, recorded ones, and from K = 8 on, those of equals."""
    found = []
    for size in FASTER:
        random = gramians.random(size, gramians.random_count(size))
        found.append(_task(f"K = {size}, random", random, settings))
        with_primary = gramians.recorded(size, with_primary=True)
        stack = with_primary if len(with_primary) else gramians.recorded(size)
        found.append(_task(f"K = {size}, recorded", stack, settings))
    return found


def _task(case: str, stack: FloatArray, settings: Settings) -> Task:
    return Task(f"pcd, {case}", partial(_compare, case, stack, settings))


def _step(gramian: FloatArray) -> Callable[[], FloatArray]:
    """Return a training step's call: the moving average moves on, and the weights follow."""
    state = mojd.init_normaliser(len(gramian))

    def call() -> FloatArray:
        nonlocal state
        scales, state = mojd.normalise(state, gramian)
        weights: FloatArray = mojd.pcd(gramian, TAU, scales=scales, rescale=True)
        return weights

    return call


def _distance(gramian: FloatArray, weights: FloatArray, reference: FloatArray) -> float:
    """Return ‖Jᵀ(w − w*)‖ / ‖Jᵀw*‖."""
    error = weights - reference
    square = float(reference @ gramian @ reference)
    return math.sqrt(max(float(error @ gramian @ error), 0.0) / square) if square > 0 else 0.0


def _compare(case: str, stack: FloatArray, settings: Settings) -> list[Figure]:
    bar = at_least(FASTER[stack.shape[-1]])
    theirs = [torchjd_pcd(gramian, TAU) for gramian in stack]
    apart = sum(
        _distance(gramian, peer(), _step(gramian)()) > SAME
        for gramian, peer in zip(stack, theirs, strict=True)
    )
    step = times_faster([_step(gramian) for gramian in stack], theirs, settings, "torchjd")
    alone = times_faster([partial(mojd.pcd, gramian, TAU) for gramian in stack], theirs, settings, "torchjd")
    note = f"the directions differ by more than {SAME:g} on {apart} of {len(stack)}" if apart else ""
    return [
        Figure("pcd", case, "step: times faster than TorchJD", step.median, "×", bar, step.details, note),
        Figure("pcd", case, "pcd alone, without normaliser", alone.median, "×", None, alone.details),
    ]
