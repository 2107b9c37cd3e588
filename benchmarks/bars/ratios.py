"""How many times faster one of two calls is, over several Gramians."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

from figures import Settings
from timing import interleaved

Call = Callable[[], object]


class Ratios(NamedTuple):
    """Times per Gramian, and what they say.

    Attributes
    ----------
    median, worst : float
        The peer's time over mojd's, the median over the Gramians and the least.
    details : dict of str to float
        The median times in µs, and the worst ratio.
    """

    median: float
    worst: float
    details: dict[str, float]


def times_faster(ours: Sequence[Call], peer: Sequence[Call], settings: Settings, name: str) -> Ratios:
    """Time two calls per Gramian in turns; `name` is what the details call the peer."""
    calls: dict[tuple[str, int], Call] = {}
    for index, (our_call, peer_call) in enumerate(zip(ours, peer, strict=True)):
        calls["mojd", index], calls[name, index] = our_call, peer_call
    seconds = interleaved(calls, settings.seconds, settings.least)
    ratios = [seconds[name, index] / seconds["mojd", index] for index in range(len(ours))]
    details = {
        f"{side}_us": 1e6 * median(seconds[side, index] for index in range(len(ours)))
        for side in ("mojd", name)
    }
    return Ratios(median(ratios), min(ratios), details | {"worst_ratio": min(ratios)})
