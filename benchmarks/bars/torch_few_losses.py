"""What a few losses cost beyond their backward passes, on a ResNet-18; beside TorchJD.

It is found in two ways: as the difference of the step and of its forward and backward passes alone, which
have to be long and steady for that, and by timing its parts one by one.
"""

from __future__ import annotations

from functools import partial
from statistics import median

from figures import Figure, Settings, Task, at_most
from multitask_steps import OURS, THEIRS, WEIGHTINGS, Beyond, Problem, Step, passes
from timing import interleaved

SECTION = "torch-few-losses"
SIZES = (2, 4, 8)
IMAGES = 64
# What comes on top of the passes is the same for any number of images: the gradients are as large.
FEW_IMAGES = 8
# Per cent of the step.
MOST = 2.0


def tasks(settings: Settings) -> list[Task]:
    """List what to measure: a step for each number of losses."""
    sizes = SIZES[:1] if settings.quick else SIZES
    return [Task(f"{SECTION}, K = {size}", partial(_measure, size, settings)) for size in sizes]


def _measure(size: int, settings: Settings) -> list[Figure]:
    problem = Problem(size, FEW_IMAGES if settings.quick else IMAGES)
    calls: dict[str, Step] = {"passes": passes(problem)}
    calls |= {name: make(problem) for name, make in (OURS | THEIRS).items()}
    for name in OURS:
        calls[name]()  # which compiles
    seconds = interleaved(calls, settings.seconds * len(calls), settings.least)
    found = []
    for name in OURS:
        case = f"{name}, ResNet-18, K = {size}"
        parts = _parts(size, name, settings)
        beyond = {f"{part}_ms": 1e3 * taken for part, taken in parts.items()}
        directly = 100.0 * sum(parts.values()) / seconds[name]
        difference = 100.0 * (1.0 - seconds["passes"] / seconds[name])
        whole = {f"{side}_ms": 1e3 * seconds[side] for side in ("passes", name, *THEIRS)}
        found += [
            Figure(
                SECTION, case, "beyond the passes: parts of the step", directly, "%", at_most(MOST), beyond
            ),
            Figure(SECTION, case, "beyond the passes: difference", difference, "%", at_most(MOST), whole),
        ]
    return found


def _parts(size: int, name: str, settings: Settings) -> dict[str, float]:
    """Return the median seconds of what a step does on top of its passes; the first run is left out."""
    beyond = Beyond(Problem(size, FEW_IMAGES), WEIGHTINGS[name]())
    beyond.seconds()
    samples = [beyond.seconds() for _ in range(settings.least)]
    return {part: median(sample[part] for sample in samples) for part in samples[0]}
