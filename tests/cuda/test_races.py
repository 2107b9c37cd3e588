"""No kernel depends on the order in which threads run between two barriers, which is what a race is."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from mojd.solvers._cuda import plans
from mojd.solvers._cuda.source import names, source

from . import launches
from .host.compile import build
from .host.launching import LaunchError, Order
from .on_host import HostDevice
from .problems import Gramians, gramians, hard_problems

OTHER_ORDERS: tuple[Order, ...] = ("descending", 0, 1)


def same_bits(first: list[Any], second: list[Any]) -> bool:
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(first, second, strict=True))


def solved(device: HostDevice, gramian: Gramians, linear: Any, bounded: bool = False) -> list[Any]:
    return [*launches.solve(device, gramian, linear, bounded=bounded, keep_refusals=True)]


def everything(device: HostDevice) -> list[Any]:
    """Every kernel on a few ordinary problems and a few that go all the way."""
    results = []
    for dtype in (np.float64, np.float32):
        for k in (1, 2, 3, 4, 5, 9, 17, 33):
            # Three warps of closed forms, and two blocks of tiles.
            given = gramians(70 if k < 4 else 17 if k == 4 else 9, k, dtype)[: 2 if k > 32 else None]
            given[1, k - 1, :] = given[1, :, k - 1] = 0.0
            given[-1, 0, 0] = np.nan
            if dtype is np.float64:
                results += solved(device, given, given[:, :1].copy())
            # A tile for each Gramian, and one for each projection.
            for processors in (1, 10**6) if 3 < k < 33 else (1,):
                device.processors = processors
                results.append(launches.upgrad(device, given, 1.0))
            for size in range(max(2, k - 1), k + 1):
                block = np.ascontiguousarray(given[:, :size, :size])
                results.append(launches.pcd(device, block, 0.3, 1.0, True))
    return results


class TestRaces:
    def test_every_kernel_gives_the_same_bits_in_every_order(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(plans, "BLOCKS_PER_PROCESSOR", 1)
        device = HostDevice()
        expected = everything(device)
        assert set(names()) == set(device.launches)
        for order in OTHER_ORDERS[:2]:
            assert same_bits(everything(HostDevice(order)), expected), order

    @pytest.mark.parametrize(("k", "bounded"), [(5, False), (5, True), (20, False), (20, True), (40, False)])
    def test_hard_problems_do_too(self, k: int, bounded: bool) -> None:
        given, linear = hard_problems(k)
        expected = solved(HostDevice(), given, linear, bounded)
        for order in OTHER_ORDERS[:2] if bounded else OTHER_ORDERS:
            assert same_bits(solved(HostDevice(order), given, linear, bounded), expected), order

    @pytest.mark.parametrize("k", [5, 20])
    def test_hard_problems_of_upgrad_and_pcd_do_too(self, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
        given, _ = hard_problems(k)

        monkeypatch.setattr(plans, "BLOCKS_PER_PROCESSOR", 1)

        def weights(order: Order) -> list[Any]:
            device = HostDevice(order, processors=1)
            return [
                launches.upgrad(device, given, 1.0),
                launches.pcd(device, given, 0.3, 1.0, True),
            ]

        expected = weights("ascending")
        for order in OTHER_ORDERS[:2]:
            assert same_bits(weights(order), expected), order


class Planted:
    """A device whose kernels are another text's."""

    def __init__(self, kernel: str, text: str, order: Order) -> None:
        self.host, self.kernel, self.order = HostDevice(order), kernel, order
        self.library = build([kernel], text)
        self.processors, self.empty, self.pointer = 2, self.host.empty, self.host.pointer

    def launch(self, kernel: str, grid: int, block: int, shared: int, arguments: Any) -> None:
        if kernel == self.kernel:
            self.library.launch(kernel, grid, block, shared, arguments, self.order)
        else:
            self.host.launch(kernel, grid, block, shared, arguments)


TILES, BLOCKS = "mojd::solve_tiles<double, 32>", "mojd::solve_blocks<double>"
# A text with a barrier, and the same without it.
RACES = {
    "factor, a panel of forward": (
        TILES,
        "U(i, j);\n                panel.sync();",
        "U(i, j);",
    ),
    "extend, the rows of a strip": (
        TILES,
        "U.inverse[i] : 0.0;\n        }\n        group.sync();",
        "U.inverse[i] : 0.0;\n        }\n",
    ),
    "active set, the indices of a ray": (
        TILES,
        "s[i] = 0.0;\n    group.sync();\n    slack(",
        "s[i] = 0.0;\n    slack(",
    ),
    "tableau, the row of a pivot": (
        TILES,
        "if (own == p) entry = pivot - side;\n        tile.sync();",
        "if (own == p) entry = pivot - side;",
    ),
    "group, shifting down": (
        TILES,
        "value = array[i + 1];\n        group.sync();",
        "value = array[i + 1];",
    ),
    "group, the sum of a block": (
        BLOCKS,
        "total += scratch[i];\n        sync();\n        return total;",
        "total += scratch[i];\n        return total;",
    ),
}


@pytest.mark.parametrize("place", RACES)
def test_a_missing_barrier_is_found(place: str) -> None:
    """In the text of the kernels, one barrier after the other is left out."""
    kernel, before, after = RACES[place]
    assert source().count(before) == 1
    given, linear = hard_problems(20 if kernel == TILES else 40)
    text = source().replace(before, after)
    run = partial(solved, gramian=given, linear=linear)
    expected = run(HostDevice())

    def differs(order: Order) -> bool:
        try:
            return not same_bits(run(Planted(kernel, text, order)), expected)  # type: ignore[arg-type]
        except LaunchError:
            return True

    assert any(differs(order) for order in ("ascending", *OTHER_ORDERS))
