"""No kernel touches memory beyond its arrays, and none reads what nobody has written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import mojd
from mojd._arrays import FLOAT64_PRECISION
from mojd.solvers import get_solver
from mojd.solvers._cuda import plans
from mojd.solvers._cuda.source import source

from . import launches
from .host.compile import build
from .host.launching import guarded
from .on_host import HostDevice
from .problems import assert_close, gramians, hard_problems


class GuardedDevice(HostDevice):
    """All arrays that it makes, results and work space, end where readable memory does."""

    def empty(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        return guarded(super().empty(shape, dtype))


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    copy = guarded(array)
    copy.flags.writeable = False
    return copy


# One problem, and more than a multiple of what warps, tiles and blocks take at a time.
COUNTS = {1: 130, 2: 130, 3: 257, 4: 17, 5: 9, 8: 9, 16: 5, 17: 3, 32: 3, 33: 2, 45: 1}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("k", COUNTS)
def test_nothing_beyond_an_array_is_touched(
    k: int, dtype: type[np.floating[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "BLOCKS_PER_PROCESSOR", 1)
    given = gramians(COUNTS[k], k, dtype)
    given[0, k - 1, :] = given[0, :, k - 1] = 0.0
    rng = np.random.default_rng(k)
    linear = rng.standard_normal((len(given), 1 if k == 3 else 2, k)).astype(dtype)
    matrices = read_only(given)
    device, plain = GuardedDevice(processors=1), HostDevice(processors=1)
    for mine, other in zip(
        launches.solve(device, matrices, read_only(linear)),
        launches.solve(plain, given, linear),
        strict=True,
    ):
        assert np.array_equal(mine, other, equal_nan=True)
    vectors = [rng.random((rows, k)) for rows in (1, len(given))]
    for own in vectors:
        for processors in (1, 10**6):
            device.processors = plain.processors = processors
            weights = launches.upgrad(device, matrices, read_only(own))
            assert_close(weights, launches.upgrad(plain, given, own))
        if 1 < k <= 33:
            tau = own[:, : k - 1].copy()
            weights = launches.pcd(device, matrices, read_only(tau), read_only(own), True)
            assert_close(weights, launches.pcd(plain, given, tau, own, True))


@pytest.mark.parametrize("k", [5, 20, 40])
def test_nor_on_hard_problems(k: int) -> None:
    given, linear = hard_problems(k)
    arrays = read_only(given), read_only(linear)
    mine = launches.solve(GuardedDevice(), *arrays, keep_refusals=True)
    other = launches.solve(HostDevice(), given, linear, keep_refusals=True)
    assert np.array_equal(mine.status, other.status)
    assert np.array_equal(mine.x, other.x, equal_nan=True)


@pytest.mark.parametrize("k", [17, 36])
def test_nor_in_parts_where_the_last_is_the_smallest(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "ROOM", 8 * k * k * 2)
    given, rng = gramians(5, k), np.random.default_rng(k)
    linear, preference = rng.standard_normal((5, 3, k)), rng.random((5, k))
    device = GuardedDevice(processors=10**6)
    weights = launches.upgrad(device, read_only(given), read_only(preference))
    assert_close(weights, mojd.upgrad(given, preference))
    mine = launches.solve(device, read_only(given), read_only(linear))
    expected = get_solver("active_set").solve(given, linear, 1, FLOAT64_PRECISION)
    assert_close(mine.x, expected.x)
    assert mine.status.tolist() == expected.status.tolist()
    if k > 32:
        assert mine.iterations.tolist() == expected.iterations.tolist()


class SanitizedDevice(HostDevice):
    """Undefined behaviour ends a launch."""

    def launch(self, kernel: str, grid: int, block: int, shared: int, arguments: Any) -> None:
        library = build([kernel], source(), sanitize=True)
        library.launch(kernel, grid, block, shared, arguments)


@pytest.mark.parametrize("k", [3, 5, 40])
def test_nothing_undefined_happens(k: int) -> None:
    if k == 3:
        given = gramians(70, k)
        given[::9, 1, :] = given[::9, :, 1] = 0.0
        linear = given[:, :1].copy()
        given[3] *= 1e-300
    else:
        given, linear = hard_problems(k)
    device = SanitizedDevice()
    launches.solve(device, given, linear)
    if k == 3:
        launches.upgrad(device, given, 1.0)
        launches.pcd(device, given, 0.5, 1.0, True)
