"""The CUDA kernels, compiled for the CPU, give what the compiled code for NumPy's arrays gives."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

import mojd
from mojd import NNQP
from mojd._arrays import FLOAT64_PRECISION, precision_of
from mojd.kernels.status import (
    ASYMMETRIC,
    INFEASIBLE,
    MAX_ITER,
    NEGATIVE_DIAGONAL,
    NONFINITE,
    NOT_PSD,
    OPTIMAL,
)
from mojd.solvers import cuda, get_solver
from mojd.solvers._cuda import plans
from mojd.solvers._registry import RawSolution
from tests.reference.bounds import residual_bar, stored_gramian
from tests.reference.certify import indefiniteness
from tests.reference.families import FAMILIES

from . import launches
from .on_host import HostDevice
from .problems import HARD, SEEDS, Gramians, assert_close, direction_gap, gramians, hard_problems, low_rank

# On both sides of every change of kernel, tile and panel.
UPGRAD_SIZES = (1, 2, 3, 4, 5, 8, 9, 16, 17, 31, 32, 33, 40, 70, 130)
PCD_SIZES = (2, 3, 4, 5, 6, 9, 10, 17, 18, 32, 33)
DTYPES = (np.float64, np.float32)


# A GPU that few Gramians keep busy, so that each is one tile's, and one where each projection gets a tile.
FEW, MANY = 1, 10**6


def upgrad(gramian: Gramians, preference: Any = None, processors: int = MANY) -> Any:
    with patch.object(plans, "BLOCKS_PER_PROCESSOR", 1):
        return launches.upgrad(HostDevice(processors=processors), gramian, preference)


def pcd(
    gramian: Gramians, tau: Any = 0.3, scales: Any = None, rescale: bool = False, processors: int = 2
) -> Any:
    device = HostDevice(processors=processors)
    return launches.pcd(device, gramian, tau, 1.0 if scales is None else scales, rescale)


def solve(gramian: Gramians, linear: Any, processors: int = 2) -> RawSolution:
    """G (B, K, K) and q (B, R, K)."""
    device = HostDevice(processors=processors)
    return launches.solve(device, gramian, linear, keep_refusals=True)


def compiled(gramian: Gramians, linear: Any) -> RawSolution:
    """The same by the code for the CPU, with its codes for what is refused."""
    return get_solver("active_set").solve(gramian, linear, 1, precision_of(gramian))


def assert_same_solutions(raw: RawSolution, expected: RawSolution) -> None:
    assert [array.dtype for array in raw] == [np.float64, np.int8, np.int32]
    assert raw.status.tolist() == expected.status.tolist()
    assert_close(raw.x, expected.x)


class TestSizes:
    """Every size and dtype, by every kernel that takes it."""

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("k", UPGRAD_SIZES)
    def test_upgrad(self, k: int, dtype: type[np.floating[Any]]) -> None:
        few = gramians(2 if k < 50 else 1, k, dtype)
        assert_close(upgrad(few), mojd.upgrad(few))
        if 2 <= k <= 32:
            many = gramians(17, k, dtype)
            assert_close(upgrad(many, processors=FEW), mojd.upgrad(many))

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("rescale", [False, True])
    @pytest.mark.parametrize("k", PCD_SIZES)
    def test_pcd(self, k: int, rescale: bool, dtype: type[np.floating[Any]]) -> None:
        given = gramians(33, k, dtype)
        assert_close(pcd(given, 0.3, rescale=rescale), mojd.pcd(given, 0.3, rescale=rescale))

    @pytest.mark.parametrize("rows", [1, 3])
    @pytest.mark.parametrize("k", UPGRAD_SIZES)
    def test_solve(self, k: int, rows: int) -> None:
        count = 33 if k <= 33 else 2
        given, linear = gramians(count, k), np.random.default_rng(k).standard_normal((count, rows, k))
        raw, expected = solve(given, linear), compiled(given, linear)
        assert_same_solutions(raw, expected)
        if k > 33:
            # Step by step the same method; below, CPU and GPU have tableaus of their own.
            assert raw.iterations.tolist() == expected.iterations.tolist()

    def test_more_indices_than_threads_of_a_block(self) -> None:
        given, linear = gramians(1, 300), np.random.default_rng(0).standard_normal((1, 2, 300))
        raw, expected = solve(given, linear), compiled(given, linear)
        assert_same_solutions(raw, expected)
        assert raw.iterations.tolist() == expected.iterations.tolist()


class TestBatches:
    @pytest.mark.parametrize("count", [1, 2, 33, 127, 128, 129, 1000])
    @pytest.mark.parametrize("k", [1, 2, 3, 4])
    def test_of_any_number(self, k: int, count: int) -> None:
        given, linear = gramians(count, k), np.random.default_rng(k).standard_normal((count, 1, k))
        assert_same_solutions(solve(given, linear), compiled(given, linear))
        assert_close(upgrad(given), mojd.upgrad(given))
        if k > 1:
            assert_close(pcd(given), mojd.pcd(given, 0.3))

    @pytest.mark.parametrize("k", [1, 2, 3, 7, 20, 40])
    def test_of_nothing(self, k: int) -> None:
        device = HostDevice()
        for count, rows in ((0, 3), (4, 0)):
            raw = cuda.solve_on(
                device, np.zeros((count, k, k)), np.zeros((count, rows, k)), FLOAT64_PRECISION
            )
            assert raw.x.shape == (count, rows, k)
            assert raw.status.shape == raw.iterations.shape == (count, rows)
        assert device.launches == []

    def test_more_problems_than_threads(self) -> None:
        """One multiprocessor: threads, tiles and blocks go on to the next problem, and the next."""
        for k, count in ((2, 9000), (3, 8300), (4, 600), (20, 70)):
            given = gramians(count, k)
            given[::997] = low_rank(len(given[::997]), k)
            expected = mojd.upgrad(given)
            weights = upgrad(given, processors=1)
            assert (direction_gap(weights, expected, given) <= 1e-12).all()
            linear = np.random.default_rng(k).standard_normal((count, 1, k))
            raw, same = solve(given, linear, 1), compiled(given, linear)
            assert raw.status.tolist() == same.status.tolist()
            optimal = same.status[:, 0] == OPTIMAL
            gap = direction_gap(raw.x[optimal, 0], same.x[optimal, 0], given[optimal])
            assert (gap <= 1e-12).all()
            assert_close(pcd(gramians(count, k), processors=1), mojd.pcd(gramians(count, k), 0.3))

    def test_more_right_hand_sides_than_blocks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        given, linear = gramians(2, 40), np.random.default_rng(0).standard_normal((2, 9, 40))
        expected = compiled(given, linear)
        assert_same_solutions(solve(given, linear, processors=1), expected)
        monkeypatch.setattr(plans, "FACTOR_ROOM", 1)
        plans.solve.cache_clear()
        assert_same_solutions(solve(given, linear), expected)
        # All of them by one block, whose factor is all that there is room for.
        few = plans.solve(plans.Shape(2, 9, 40, "double", 2, FLOAT64_PRECISION))
        one = plans.solve(plans.Shape(2, 1, 40, "double", 2, FLOAT64_PRECISION))
        assert few.steps[-1].grid == 1
        assert few.room == one.room

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("parts", [1, 2, 3, 7])
    def test_in_parts_where_there_is_little_room(
        self, parts: int, dtype: type[np.floating[Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        k, count = 36, 7
        monkeypatch.setattr(plans, "ROOM", 8 * k * k * -(-count // parts))
        given = gramians(count, k, dtype)
        preference = np.random.default_rng(0).random((count, k))
        device = HostDevice()
        weights = launches.upgrad(device, given, preference)
        assert sum("solve_blocks" in name for name in device.launches) == -(-count // -(-count // parts))
        assert_close(weights, mojd.upgrad(given, preference))
        if dtype is np.float64:
            linear = np.random.default_rng(1).standard_normal((count, 2, k))
            assert_same_solutions(solve(given, linear), compiled(given, linear))
            # Few Gramians of a size that tiles take are cut into parts as well.
            monkeypatch.setattr(plans, "ROOM", 8 * 17 * 17 * 2)
            small = gramians(5, 17)
            assert_close(upgrad(small, preference[:5, :17].copy()), mojd.upgrad(small, preference[:5, :17]))


class TestVectors:
    """Numbers for all, one vector for all, and a vector for each."""

    @pytest.mark.parametrize("processors", [FEW, MANY])
    @pytest.mark.parametrize("k", [1, 2, 3, 6, 20, 36])
    def test_preferences(self, k: int, processors: int) -> None:
        count = 40 if k < 20 else 3
        given, rng = gramians(count, k), np.random.default_rng(k)
        given[1] = low_rank(1, k)[0]
        for preference in (rng.random((1, k)), rng.random((count, k))):
            preference[0, 0] = 0.0
            weights = upgrad(given, preference, processors)
            assert (direction_gap(weights, mojd.upgrad(given, preference), given) <= 1e-13).all()

    @pytest.mark.parametrize("rescale", [False, True])
    @pytest.mark.parametrize("k", [2, 3, 6, 18, 33])
    def test_tau_and_scales(self, k: int, rescale: bool) -> None:
        count, rng = 40, np.random.default_rng(k)
        given = gramians(count, k)
        # What a closed form can't settle.
        given[3] *= 2.0**300
        given[37, 1, :] = given[37, :, 1] = 0.0
        taus: list[Any] = [0.0, 1.0, rng.random((1, k - 1)), rng.random((count, k - 1))]
        for tau in taus:
            for scales in (None, rng.uniform(0.1, 3, (1, k)), rng.uniform(0.1, 3, (count, k))):
                weights = pcd(given, tau, scales, rescale)
                assert_close(weights, mojd.pcd(given, tau, scales=scales, rescale=rescale))

    @pytest.mark.parametrize("exponent", [-1000, -700, 700])
    @pytest.mark.parametrize("k", [2, 3, 6])
    def test_scales_of_extreme_size(self, k: int, exponent: int) -> None:
        given = gramians(40, k)
        scale, units = 2.0**exponent, 2.0 ** (200.0 * np.sign(exponent))
        assert_close(pcd(given, 0.3, np.full((1, k), scale)), pcd(given, 0.3) * scale)
        # One secondary alone, whose weight then is all that counts.
        for at in range(1, k):
            scales, extreme = np.where(np.arange(k) == at, scale, 1.0)[None], given * units
            assert_close(pcd(extreme, 0.3, scales), mojd.pcd(extreme, 0.3, scales=scales))

    def test_scales_of_zero(self) -> None:
        for k in (2, 3, 7):
            given, scales = gramians(5, k), np.ones((5, k))
            scales[1, 0] = scales[2, 1] = 0.0
            scales[3] = 0.0
            for rescale in (False, True):
                weights = pcd(given, 0.5, scales, rescale)
                assert_close(weights, mojd.pcd(given, 0.5, scales=scales, rescale=rescale))


def hard(k: int) -> Gramians:
    """One Gramian that closed forms leave to tiles, as one gradient is 2⁻²⁰⁰ times as long as others."""
    scale = np.ones(k)
    scale[1] = 2.0**-200
    gramian: Gramians = gramians(1, k)[0] * scale[:, None] * scale
    return gramian


class TestLeftovers:
    """A few unsettled problems among many, where warps, tiles and blocks begin and end."""

    PLACES = (
        (0,),
        (31,),
        (32,),
        (127, 128),
        (255, 256, 511, 512),
        (1022,),
        (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 31, 32, 33, 63, 64, 127, 128, 1022),
        tuple(range(100, 170)),
    )

    @pytest.mark.parametrize("places", PLACES)
    def test_each_is_found_once_and_solved(self, places: tuple[int, ...]) -> None:
        count = 1023
        for k in (2, 3):
            given = gramians(count, k)
            linear = np.random.default_rng(k).standard_normal((count, 1, k))
            chosen = list(places)
            given[chosen] = hard(k) * (1.0 + np.arange(len(chosen)))[:, None, None]
            linear[chosen] = -given[chosen, :, :1].transpose(0, 2, 1)
            for processors in (FEW, MANY):
                raw, expected = solve(given, linear, processors), compiled(given, linear)
                assert_same_solutions(raw, expected)
                assert_close(upgrad(given, processors=processors), mojd.upgrad(given))
                for rescale in (False, True):
                    weights = pcd(given, 0.3, rescale=rescale, processors=processors)
                    assert_close(weights, mojd.pcd(given, 0.3, rescale=rescale))


class TestZeroGradients:
    """Of masked losses: closed forms need no tiles for them."""

    @pytest.mark.parametrize("k", [1, 2, 3])
    @pytest.mark.parametrize("zeros", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)])
    def test_are_no_detour(self, k: int, zeros: tuple[int, ...]) -> None:
        given = gramians(40, k)
        for i in zeros:
            if i < k:
                given[:, i, :] = given[:, :, i] = 0.0
        linear = np.abs(np.random.default_rng(k).standard_normal((40, 1, k)))
        linear -= 2.0 * (np.diagonal(given, axis1=1, axis2=2) > 0)[:, None, :]
        raw = solve(given, linear)
        assert_same_solutions(raw, compiled(given, linear))
        assert_close(upgrad(given), mojd.upgrad(given))
        if k > 1:
            for rescale in (False, True):
                assert_close(pcd(given, 0.3, rescale=rescale), mojd.pcd(given, 0.3, rescale=rescale))
            device = HostDevice()
            with patch.object(HostDevice, "launch", only_closed_forms):
                for weights in (launches.upgrad(device, given), launches.pcd(device, given, 0.3)):
                    assert np.isfinite(weights).all()
        assert (raw.iterations == 0).all()

    def test_with_a_way_down_are_unbounded(self) -> None:
        given = gramians(3, 3)
        given[:, 1, :] = given[:, :, 1] = 0.0
        raw = solve(given, -np.ones((3, 1, 3)))
        assert (raw.status == INFEASIBLE).all()


def only_closed_forms(
    device: HostDevice, kernel: str, grid: int, block: int, shared: int, arguments: tuple[Any, ...]
) -> None:
    """Launch no tiles, which would finish what closed forms leave."""
    if "_closed" in kernel:
        launch(device, kernel, grid, block, shared, arguments)


launch = HostDevice.launch


class TestSubnormalNumbers:
    """Of float32: CuPy compiles so that converting one gives 0."""

    @pytest.mark.parametrize("k", [2, 3, 4, 17, 34])
    def test_are_what_they_are(self, k: int) -> None:
        with np.errstate(under="ignore"):
            given = (gramians(3, k) * 1e-40).astype(np.float32)
        assert 0 < np.abs(given).max() < np.finfo(np.float32).tiny
        assert_close(upgrad(given), mojd.upgrad(given))
        if k < 34:
            assert_close(pcd(given), mojd.pcd(given, 0.3))


class TestNonFinite:
    @pytest.mark.parametrize(
        ("value", "dtype"), [(np.nan, np.float64), (np.inf, np.float32), (-np.inf, np.float64)]
    )
    @pytest.mark.parametrize("k", [2, 3, 5, 20, 33])
    def test_in_one_gramian_leaves_the_others_alone(
        self, k: int, value: float, dtype: type[np.floating[Any]]
    ) -> None:
        count = 20 if k < 20 else 4
        given = gramians(count, k, dtype)
        for at, place in ((1, (0, 0)), (2, (k - 1, 0)), (3, (k - 1, k - 1)))[: 1 if k > 32 else 3]:
            spoilt = given.copy()
            spoilt[(at, *place)] = value
            clean = np.arange(count) != at
            for processors in (FEW, MANY) if k <= 32 else (MANY,):
                weights = upgrad(spoilt, processors=processors)
                assert np.isnan(weights[at]).all()
                assert np.array_equal(weights[clean], upgrad(given[clean], processors=processors))
            if k <= 33:
                for rescale in (False, True):
                    weights = pcd(spoilt, rescale=rescale)
                    assert np.isnan(weights[at]).all()
                    assert np.array_equal(weights[clean], pcd(given, rescale=rescale)[clean])
            raw = solve(spoilt.astype(np.float64), given[:, :2].astype(np.float64))
            assert (raw.status[at] == NONFINITE).all()
            assert (raw.status[clean] == OPTIMAL).all()
            assert np.isnan(raw.x[at]).all()
            assert not np.isnan(raw.x[clean]).any()

    @pytest.mark.parametrize("k", [1, 2, 3, 5, 20, 36])
    def test_in_one_right_hand_side(self, k: int) -> None:
        given, linear = gramians(3, k), -np.ones((3, 4, k))
        linear[0, 1, 0], linear[1, 3, k - 1], linear[2, 0, k // 2] = np.nan, np.inf, -np.inf
        raw = solve(given, linear)
        bad = ~np.isfinite(linear).all(axis=-1)
        assert np.array_equal(raw.status == NONFINITE, bad)
        assert np.array_equal(np.isnan(raw.x).all(axis=-1), bad)
        assert_same_solutions(raw, compiled(given, linear))


def no_gramians(k: int) -> dict[str, tuple[Gramians, int]]:
    """What is no Gramian, and why it is refused."""
    good = gramians(1, k)[0]
    asymmetric, negative, excessive = good.copy(), good.copy(), good.copy()
    asymmetric[0, k - 1] += 1e-3 * good[0, 0]
    negative[k - 1, k - 1] *= -1.0
    excessive[0, 1] = excessive[1, 0] = 1.01 * np.sqrt(good[0, 0] * good[1, 1])
    beside_zero = good.copy()
    beside_zero[0, 0] = 0.0
    cases = {
        "asymmetric": (asymmetric, ASYMMETRIC),
        "negative diagonal": (negative, NEGATIVE_DIAGONAL),
        "too large an entry": (excessive, NOT_PSD),
        "entries beside a zero": (beside_zero, NOT_PSD),
    }
    if k > 3:
        # Each pair of rows is possible, all of them are not: what closed forms for K = 3 do not see.
        cases["indefinite"] = np.where(np.eye(k, dtype=bool), 1.0, -0.9), NOT_PSD
    return cases


class TestNoGramians:
    @pytest.mark.parametrize("k", [2, 3, 4, 16, 34])
    def test_codes_say_why(self, k: int) -> None:
        for reason, (matrix, code) in no_gramians(k).items():
            given, linear = np.stack([gramians(1, k)[0], matrix]), -np.ones((2, 2, k))
            raw = solve(given, linear)
            assert raw.status.tolist() == [[OPTIMAL] * 2, [code] * 2], reason
            assert np.isnan(raw.x[1]).all()
            assert raw.status.tolist() == compiled(given, linear).status.tolist(), reason
            hidden = launches.solve(HostDevice(), given, linear)
            assert hidden.status.tolist() == [[OPTIMAL] * 2, [MAX_ITER] * 2], reason
            assert np.isnan(hidden.x[1]).all()

    @pytest.mark.parametrize(
        ("k", "processors"), [*((k, p) for k in (2, 3, 4, 16) for p in (FEW, MANY)), (33, MANY)]
    )
    def test_weights_are_nan(self, k: int, processors: int) -> None:
        for reason, (matrix, _) in no_gramians(k).items():
            given = np.concatenate([gramians(20 if k < 33 else 1, k), matrix[None]])
            weights = upgrad(given, processors=processors)
            assert np.isnan(weights[-1]).all(), reason
            assert not np.isnan(weights[:-1]).any(), reason
            if k <= 33:
                weights = pcd(given, 0.9, processors=processors)
                assert np.isnan(weights[-1]).all(), reason
                assert not np.isnan(weights[:-1]).any(), reason

    @pytest.mark.parametrize("k", [3, 4, 20, 34])
    def test_what_a_tile_solved_before_does_not_show(self, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """One block, whose tiles find the answer to another problem in their memory."""
        monkeypatch.setattr(plans, "WAVES", 1)
        monkeypatch.setattr(plans, "FACTOR_ROOM", 1)
        given = np.tile(hard(k), (80 if k < 34 else 4, 1, 1))
        bad = np.arange(len(given)) % 40 >= 37 if k < 34 else np.arange(4) == 2
        given[bad, 0, 2] += given[bad, 0, 0]
        for matrix in (given, np.where(bad[:, None, None], np.nan, hard(k))):
            with patch.object(plans, "BLOCKS_PER_PROCESSOR", 1):
                raw = solve(matrix, -matrix[:, :1], processors=1)
            assert np.isnan(raw.x).all(axis=(1, 2)).tolist() == bad.tolist()
            assert np.isnan(raw.x).any(axis=(1, 2)).tolist() == bad.tolist()
            weights = [upgrad(matrix, processors=1)]
            if k <= 33:
                weights += [pcd(matrix, processors=1, rescale=rescale) for rescale in (False, True)]
            for found in weights:
                assert np.isnan(found).all(axis=1).tolist() == bad.tolist()
                assert np.isnan(found).any(axis=1).tolist() == bad.tolist()

    @pytest.mark.parametrize("k", [2, 3, 4, 9, 34])
    def test_every_pair_is_looked_at(self, k: int) -> None:
        pairs = [(i, j) for i in range(min(k, 9)) for j in range(min(k, 9)) if i != j]
        good = gramians(1, k)[0]
        given = np.stack([good] * (2 * len(pairs)))
        for at, (i, j) in enumerate(pairs):
            given[at, i, j] += 1e-3 * np.sqrt(good[i, i] * good[j, j])
            given[len(pairs) + at, [i, j], [j, i]] = 1.001 * np.sqrt(good[i, i] * good[j, j])
        expected = [[ASYMMETRIC]] * len(pairs) + [[NOT_PSD]] * len(pairs)
        assert solve(given, -np.ones((len(given), 1, k))).status.tolist() == expected
        assert np.isnan(upgrad(given)).all()
        if k <= 33:
            assert np.isnan(upgrad(given, processors=FEW)).all()
            assert np.isnan(pcd(given, 0.9)).all()

    @pytest.mark.parametrize("k", [2, 3, 4, 9, 34, 70])
    def test_what_is_not_finite_matters_most(self, k: int) -> None:
        """Nothing else can be said of such a Gramian: its rows disagree on what is wrong."""
        places = [(i, i) for i in range(k)] + [(0, k - 1), (k - 1, 0), (k // 2, 0), (0, k // 2)]
        given = gramians(2 * len(places), k)
        for at, place in enumerate(places * 2):
            given[at, 0, 1] += given[at, 0, 0]
            given[at, k - 1, k - 1] *= -1.0
            given[(at, *place)] = np.nan if at < len(places) else np.inf
        linear = -np.ones((len(given), 1, k))
        assert solve(given, linear).status.tolist() == [[NONFINITE]] * len(given)
        assert launches.solve(HostDevice(), given, linear).status.tolist() == [[NONFINITE]] * len(given)

    @pytest.mark.parametrize("k", [2, 3, 5, 18, 33])
    def test_entries_beside_a_zero_may_underflow(self, k: int) -> None:
        """Float32 resolves no square below 2^-126: a product with its root says nothing, and counts as 0."""
        given = gramians(6, k, np.float32)
        given[:, 1, :] = given[:, :, 1] = 0.0
        clean = given.copy()
        limits = 2.0**-63 * np.sqrt(given[:, 0, 0].astype(np.float64))
        for at, sign in ((0, -1.0), (1, 1.0)):
            given[at, 0, 1] = given[at, 1, 0] = sign * 0.9 * limits[at]
        given[2, 0, 1], given[3, 1, 0] = -1.1 * limits[2], -1.1 * limits[3]
        bad = np.isin(np.arange(6), (2, 3))
        for rescale in (False, True):
            weights = pcd(given, 0.3, rescale=rescale)
            assert np.isnan(weights[bad]).all()
            assert np.array_equal(weights[~bad], pcd(clean, 0.3, rescale=rescale)[~bad])
        expected = mojd.upgrad(clean)
        for processors in (FEW, MANY) if k <= 32 else (MANY,):
            weights = upgrad(given, processors=processors)
            assert np.isnan(weights[bad]).all()
            assert_close(weights[~bad], expected[~bad])
        assert_close(mojd.upgrad(given[~bad]), expected[~bad])

    def test_what_a_dtype_rounds_is_no_reason(self) -> None:
        """Float32 Gramians of dependent gradients are asymmetric and indefinite by their rounding."""
        for k, count in ((2, 20), (3, 20), (6, 9), (20, 2), (34, 1)):
            rows = np.random.default_rng(k).standard_normal((count, k, max(1, k // 2))).astype(np.float32)
            given = rows @ rows.transpose(0, 2, 1)
            given *= 1 + np.float32(2**-22) * np.random.default_rng(0).integers(-1, 2, given.shape)
            given = given.astype(np.float32)
            assert np.isfinite(upgrad(given)).all()
            assert np.isfinite(upgrad(given, processors=FEW)).all()
            if k <= 33:
                assert np.isfinite(pcd(given)).all()


class TestEdges:
    @pytest.mark.parametrize("k", [2, 3, 4, 9, 20, 33])
    def test_secondaries_that_contradict_each_other_leave_the_primary_alone(self, k: int) -> None:
        rows = np.random.default_rng(k).integers(-5, 6, (4, k, 2 * k)).astype(np.float64)
        rows[:, k - 1] = -3.0 * rows[:, 1] if k > 2 else 0.0
        given = rows @ rows.transpose(0, 2, 1)
        scales = np.random.default_rng(0).uniform(0.5, 2.0, (4, k))
        if k > 2:
            assert np.array_equal(pcd(given, 0.5), np.tile(np.eye(k)[0], (4, 1)))
            assert np.array_equal(pcd(given, 0.5, scales), scales * np.eye(k)[0])
        for rescale in (False, True):
            assert_close(pcd(given, 0.5, rescale=rescale), mojd.pcd(given, 0.5, rescale=rescale))

    @pytest.mark.parametrize("k", [2, 3, 6, 20])
    def test_a_primary_of_zero_halts(self, k: int) -> None:
        given = gramians(3, k)
        given[:, 0, :] = given[:, :, 0] = 0.0
        assert not pcd(given, rescale=True).any()
        assert_close(pcd(given), mojd.pcd(given, 0.3))

    @pytest.mark.parametrize("k", [2, 3, 6, 20])
    def test_a_direction_that_vanishes_but_for_rounding_halts(self, k: int) -> None:
        rows = np.random.default_rng(k).standard_normal((40, k, 2 * k))
        rows[:, 1] = -3.0 * rows[:, 0]
        given = rows @ rows.transpose(0, 2, 1)
        weights = pcd(given, 0.0)
        assert (weights[:, 0] == 1.0).all()
        np.testing.assert_allclose(weights[:, 1], 1 / 3, rtol=1e-13)
        assert not pcd(given, 0.0, rescale=True).any()
        # With a longer primary there is a direction, however short.
        scales = np.where(np.arange(k) == 0, 1.0, 2.0)[None]
        assert_close(pcd(given, 0.5, scales, True), mojd.pcd(given, 0.5, scales=scales, rescale=True))

    @pytest.mark.parametrize("k", [4, 8, 16, 32, 34])
    def test_all_of_many_nearly_parallel_gradients(self, k: int) -> None:
        """Pivots too small for a tableau, and a passive set that fills the memory of a tile."""
        rng = np.random.default_rng(k)
        own = 2.0 ** rng.integers(-15, -9, (40, 1, k))
        given = 1.0 + np.eye(k) * own * own
        wanted = rng.uniform(0.5, 2.0, (40, k))
        # In half of them the first gradient, which comes in early, has to leave again.
        wanted[:, 0] = np.where(np.arange(40) % 2, 0.01, -0.01)
        linear = -(wanted[:, None] @ given)
        raw, expected = solve(given, linear), compiled(given, linear)
        assert_same_solutions(raw, expected)
        assert ((raw.x > 0).all(axis=-1)[:, 0] == np.arange(40) % 2).all()

    @pytest.mark.parametrize("k", [1, 2, 3, 6, 20, 36])
    def test_zero_gradients(self, k: int) -> None:
        given = gramians(6, k)
        for at in range(4):
            zero = np.arange(k) % (at + 1) == 0
            given[at][zero] = given[at][:, zero] = 0.0
        for processors in (FEW, MANY):
            assert_close(upgrad(given, processors=processors), mojd.upgrad(given))
        if 1 < k <= 33:
            assert_close(pcd(given), mojd.pcd(given, 0.3))
        linear = np.where(np.diagonal(given, axis1=1, axis2=2) > 0, -1.0, 1.0)[:, None]
        assert_same_solutions(solve(given, linear), compiled(given, linear))
        downhill = solve(given[:1], np.full((1, 1, k), -1.0))
        assert downhill.status.tolist() == [[INFEASIBLE]]
        assert downhill.x[0, 0].tolist() == np.eye(k)[0].tolist()

    @pytest.mark.parametrize("factor", [1e-150, 1e-75, 1e75, 1e150, 2.0**-1000])
    @pytest.mark.parametrize("k", [1, 2, 3, 6, 20, 36])
    def test_extreme_units(self, k: int, factor: float) -> None:
        given = gramians(3, k) * factor
        for processors in (FEW, MANY):
            assert_close(upgrad(given, processors=processors), mojd.upgrad(given))
        if 1 < k <= 33:
            for rescale in (False, True):
                assert_close(pcd(given, rescale=rescale), mojd.pcd(given, 0.3, rescale=rescale))
        linear = np.random.default_rng(k).standard_normal((3, 2, k)) * np.sqrt(factor)
        assert_same_solutions(solve(given, linear), compiled(given, linear))

    @pytest.mark.parametrize("k", [1, 2, 3, 6, 20, 36])
    def test_rows_of_very_different_length(self, k: int) -> None:
        norms = 2.0 ** np.linspace(-60, 60, k).round()
        given = gramians(3, k) * norms[:, None] * norms
        weights, expected = upgrad(given), mojd.upgrad(given)
        assert (direction_gap(weights, expected, given) <= 1e-12).all()

    @pytest.mark.parametrize("k", [2, 3, 5, 20, 34])
    def test_what_is_asymmetric_within_rounding_is_symmetrised(self, k: int) -> None:
        given = gramians(3, k)
        given *= 1.0 + 1e-9 * np.triu(np.ones((k, k)), 1)
        for processors in (FEW, MANY):
            assert_close(upgrad(given, processors=processors), mojd.upgrad(given))
        if k <= 33:
            assert_close(pcd(given), mojd.pcd(given, 0.3))
        linear = np.random.default_rng(k).standard_normal((3, 2, k))
        assert_same_solutions(solve(given, linear), compiled(given, linear))

    def test_one_objective_needs_no_kernel_of_its_own(self) -> None:
        assert upgrad(np.array([[[7.0]], [[0.0]], [[-1.0]], [[np.nan]]])).ravel().tolist()[:2] == [1.0, 1.0]
        assert np.isnan(upgrad(np.array([[[-1.0]], [[np.nan]]]))).all()


def bar_of(family: str, given: Gramians) -> float:
    """The residual that each of two exact solvers may leave: see `residual_bound`."""
    if given.dtype == np.float64:
        return residual_bar(family)
    return max(
        float(np.finfo(np.float32).eps), *(100 * indefiniteness(g.astype(np.float64)) for g in given), 0.0
    )


class TestHardFamilies:
    """UPGrad and PCD on the Gramians on which solvers go wrong; the contract tests have `solve`."""

    @pytest.mark.parametrize("name", FAMILIES)
    def test_the_same_directions(self, name: str) -> None:
        family = FAMILIES[name]
        for k, count in ((2, 3), (3, 3), (6, 9), (20, 2), (34, 1)):
            if k < family.min_size:
                continue
            samples = [family.sample(k, np.random.default_rng([k, i])) for i in range(count)]
            given = np.stack([stored_gramian(name, sample) for sample in samples])
            bar = bar_of(name, given)
            expected = mojd.upgrad(given)
            for processors in (FEW, MANY) if k <= 32 else (MANY,):
                weights = upgrad(given, processors=processors)
                assert (direction_gap(weights, expected, given) <= bar).all(), k
            if k <= 33:
                weights, expected = pcd(given), mojd.pcd(given, 0.3)
                assert (direction_gap(weights, expected, given) <= bar).all(), k


# For K = 20 one of them, `cancelling(20, 11)`, is unbounded but for rounding: solutions and rays look alike.
@pytest.mark.parametrize("k", [5, 40])
def test_statuses_of_hard_problems(k: int) -> None:
    """Hidden rays, what rounding made indefinite, and what is no Gramian are told apart as on the CPU."""
    given, linear = hard_problems(k)
    raw, expected = solve(given, linear), compiled(given, linear)
    assert raw.status.tolist() == expected.status.tolist()
    assert np.array_equal(np.isnan(raw.x), np.isnan(expected.x))


@pytest.mark.parametrize("k", [5, 20, 40])
def test_solutions_scale_with_the_linear_term_and_rays_do_not(k: int) -> None:
    given, linear = hard_problems(k)
    raw = solve(given, linear)
    factors = np.where(raw.status == INFEASIBLE, 1.0, 2.0**40)
    larger = solve(given, 2.0**40 * linear)
    assert larger.status.tolist() == raw.status.tolist()
    assert np.array_equal(larger.x, raw.x * factors[..., None], equal_nan=True)


@pytest.mark.parametrize("k", [5, 20])
def test_of_many_solutions_one_is_taken_as_small_as_on_the_cpu(k: int) -> None:
    """Float32 Gramians of dependent gradients: without the walk to smaller weights, sums differ by a half."""
    at = slice(len(HARD), len(HARD) + len(SEEDS[k][0]))
    given, linear = (array[at] for array in hard_problems(k))
    raw, expected = solve(given, linear), compiled(given, linear)
    optimal = expected.status == OPTIMAL
    assert optimal.any()
    sums, smallest = (solution.x.sum(axis=-1)[optimal] for solution in (raw, expected))
    np.testing.assert_allclose(sums, smallest, rtol=1e-6)


def test_attempts_that_end_without_a_solution_are_counted() -> None:
    """Six steps until there is none, and as many once more after the diagonal has been raised."""
    given = np.where(np.eye(40, dtype=bool), 1.0, -0.9)[None]
    raw = solve(given, -np.ones((1, 1, 40)))
    assert raw.status.tolist() == [[NOT_PSD]]
    assert raw.iterations.tolist() == [[12]]


def test_solve_through_the_public_door_is_the_same() -> None:
    """`mojd.solve` computes in float64 whatever the dtype, and so do its kernels."""
    given, linear = gramians(3, 6), np.random.default_rng(0).standard_normal((3, 6))
    solution = mojd.solve(NNQP(given, linear))
    assert_close(solve(given, linear[:, None]).x[:, 0], solution.x)
