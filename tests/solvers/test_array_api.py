"""The array-API solver: against exact answers, in every array library, and what it does with bad input."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from mojd._arrays import FLOAT64_PRECISION, FloatArray, Precision
from mojd.errors import InvalidTypeError
from mojd.kernels import active_set as kernel_active_set
from mojd.kernels import block_pivoting as kernel_block_pivoting
from mojd.kernels import factor, gradient
from mojd.kernels.status import INFEASIBLE, MAX_ITER, NONFINITE, OPTIMAL
from mojd.solvers import _masked, _masked_active_set, _masked_scaling, active_set, array_api
from mojd.solvers._registry import RawSolution
from tests.reference import certify, exact
from tests.reference.families import FAMILIES, grid, linear_terms, power_of_two_scales, symmetric_gramian

# Rows that are 1e-8 apart have a difference of norm² 1e-16, which the Gramian does not resolve. To
# take them for dependent leaves a slack of the size of that difference.
UNRESOLVED = {"near_antiparallel": 2e-8, "nearly_weakly_stationary_1e-8": 2e-8}
# The eigenvalues of these are negative by 1e-7, and KKT points need not exist.
INDEFINITE = {"float32_low_rank": 1e-3}
FLOAT32_PRECISION = Precision(2.0**-11.5, 2.0**-126)

Convert = Callable[[FloatArray], Any]


def bar(family: str) -> float:
    return 1e-12 if FAMILIES[family].well_posed else {**UNRESOLVED, **INDEFINITE}.get(family, 1e-9)


def problems(family: str, size: int, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    """A Gramian (1, K, K) of the family and its linear terms (1, R, K)."""
    rng = np.random.default_rng([seed, size])
    sample = FAMILIES[family].sample(size, rng)
    linear = np.stack([q for _, q in linear_terms(sample, rng)])
    return sample.gramian[None], linear[None]


def run(gramian: FloatArray, linear: FloatArray, precision: Precision = FLOAT64_PRECISION) -> RawSolution:
    """Solve with arrays that must not be written to, and look at the shapes and dtypes."""
    inputs = gramian.copy(), linear.copy()
    for array in inputs:
        array.flags.writeable = False
    raw = array_api.solve(*inputs, 1, precision)
    assert raw.x.shape == linear.shape and raw.x.dtype == np.float64
    assert raw.status.shape == raw.iterations.shape == linear.shape[:2]
    assert raw.status.dtype == np.int8 and raw.iterations.dtype == np.int32
    return raw


def worst_residual(gramian: FloatArray, linear: FloatArray, raw: RawSolution) -> float:
    return max(
        certify.kkt_residual(G, q, x)
        for G, qs, xs in zip(gramian, linear, raw.x, strict=True)
        for q, x in zip(qs, xs, strict=True)
    )


@pytest.fixture(params=["numpy", "torch", "array_api_strict", pytest.param("jax", marks=pytest.mark.slow)])
def convert(request: pytest.FixtureRequest) -> Iterator[Convert]:
    """A function that turns NumPy arrays into float64 arrays of each library."""
    library = pytest.importorskip(request.param)
    if request.param == "torch":
        yield library.from_numpy
    elif request.param == "jax":
        # It compiles every operation for every shape, some 400 times, and so is slow the first time.
        before = library.config.jax_enable_x64
        library.config.update("jax_enable_x64", True)
        yield importlib.import_module("jax.numpy").asarray
        library.config.update("jax_enable_x64", before)
    else:
        yield library.asarray


def to_numpy(array: Any) -> Any:
    return np.asarray(array) if hasattr(array, "__array__") else np.from_dlpack(array)


def opposite(cost: float) -> tuple[FloatArray, FloatArray]:
    """Two gradients in opposite directions: x = (t, t) changes the objective by t·cost."""
    return np.array([[[1.0, -1.0], [-1.0, 1.0]]]), np.array([[[cost, 0.0]]])


@pytest.mark.parametrize("family", FAMILIES)
def test_families_are_solved(family: str) -> None:
    for size in (1, 2, 3, 4, 5, 8, 17):
        if size < FAMILIES[family].min_size:
            continue
        gramian, linear = problems(family, size)
        raw = run(gramian, linear, FLOAT32_PRECISION if family in INDEFINITE else FLOAT64_PRECISION)
        assert (raw.status == OPTIMAL).all()
        assert (raw.x >= 0).all()
        assert worst_residual(gramian, linear, raw) <= bar(family)


@pytest.mark.parametrize(
    "family",
    [
        "random",
        "rank_half",
        "hilbert",
        "near_duplicates_grid",
        "cycling",
        "row_scales_low_rank",
        "fathi",
        "ties",
    ],
)
def test_larger_problems_are_solved(family: str) -> None:
    gramian, linear = problems(family, 64)
    raw = run(gramian, linear)
    assert (raw.status == OPTIMAL).all()
    assert worst_residual(gramian, linear, raw) <= bar(family)


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in INDEFINITE])
def test_statuses_are_those_of_the_compiled_solver(family: str) -> None:
    for size in (4, 9):
        gramian, linear = problems(family, size, seed=1)
        compiled = active_set.solve(gramian, linear, 1, FLOAT64_PRECISION)
        assert np.array_equal(run(gramian, linear).status, compiled.status)


@pytest.mark.parametrize("largest", [1, 3])
def test_unbounded_problems_are_told_from_bounded_ones(largest: int, rng: np.random.Generator) -> None:
    unbounded = 0
    for size in (1, 2, 3, 4, 5):
        jacobians = [grid(size, int(rng.integers(1, size + 1)), rng, largest) for _ in range(40)]
        gramian = np.stack([symmetric_gramian(J) for J in jacobians])
        linear = rng.integers(-3, 4, (40, 2, size)).astype(np.float64)
        raw = run(gramian, linear)
        for b, r in np.ndindex(raw.status.shape):
            found = exact.solve_nnqp(gramian[b], linear[b, r])
            if found.status == "optimal":
                assert raw.status[b, r] == OPTIMAL
                floor = exact.rounding_floor(found.x, gramian[b])
                assert exact.direction_error(raw.x[b, r], found.x, gramian[b]) <= 1e-12 + 10 * floor
            else:
                assert raw.status[b, r] == INFEASIBLE
                assert certify.is_ray(gramian[b], linear[b, r], raw.x[b, r])
                unbounded += 1
    assert unbounded > 50


def test_larger_unbounded_problems_are_found(rng: np.random.Generator) -> None:
    """Rounding errors in a null direction must not hide that it is a ray."""
    J = rng.integers(-2, 3, (20, 20, 12)).astype(np.float64)
    J[:, 0] = -J[:, 1]
    gramian = np.stack([symmetric_gramian(rows) for rows in J])
    linear = rng.integers(-3, 4, (20, 1, 20)).astype(np.float64)
    linear[:, 0, :2] = -1.0
    raw = run(gramian, linear)
    assert (raw.status == INFEASIBLE).all()
    assert all(certify.is_ray(G, q[0], x[0]) for G, q, x in zip(gramian, linear, raw.x, strict=True))


@pytest.mark.parametrize("cost", [-1.0, 0.0, 1.0])
def test_opposite_gradients(cost: float) -> None:
    raw = run(*opposite(cost))
    assert raw.status.item() == (INFEASIBLE if cost < 0 else OPTIMAL)
    assert np.array_equal(raw.x[0, 0], [1.0, 1.0] if cost < 0 else [0.0, 0.0])


def test_zero_rows_are_dropped_or_unbounded() -> None:
    gramian = np.diag([0.0, 4.0, 0.0])[None]
    linear = np.array([[[1.0, -2.0, 0.0], [1.0, -2.0, -1e-300], [0.0, 0.0, 0.0]]])
    raw = run(gramian, linear)
    assert raw.status.tolist() == [[OPTIMAL, INFEASIBLE, OPTIMAL]]
    assert raw.x.tolist() == [[[0.0, 0.5, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]]


@pytest.mark.parametrize(
    "family", ["random", "rank_half", "hilbert", "cycling_singular", "strongly_stationary"]
)
def test_power_of_two_scales_change_no_bit(family: str, rng: np.random.Generator) -> None:
    gramian, linear = problems(family, 9)
    d = power_of_two_scales(9, rng, span=60)
    plain, scaled = run(gramian, linear), run(d[:, None] * gramian * d, d * linear)
    assert np.array_equal(plain.status, scaled.status)
    assert np.array_equal(plain.x / d, scaled.x)


def test_rays_scale_by_powers_of_two(rng: np.random.Generator) -> None:
    gramian, linear = opposite(-1.0)
    d = np.array([2.0**30, 2.0**-7])
    raw = run(d[:, None] * gramian * d, d * linear)
    assert raw.status.item() == INFEASIBLE
    assert np.array_equal(raw.x[0, 0] * d, [1.0, 1.0])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nonfinite_problems_are_marked_and_leave_the_others_alone(bad: float) -> None:
    G = np.random.default_rng(3).standard_normal((4, 5, 8))
    gramian = G @ G.transpose(0, 2, 1)
    linear = np.ascontiguousarray(-gramian[:, :3])
    clean = run(gramian, linear)
    gramian[1, 2, 3] = gramian[1, 3, 2] = bad
    linear[2, 1, 4] = bad
    raw = run(gramian, linear)
    hit = np.zeros((4, 3), bool)
    hit[1] = hit[2, 1] = True
    assert np.array_equal(raw.status == NONFINITE, hit)
    assert np.isnan(raw.x[hit]).all()
    assert not raw.iterations[hit].any()
    assert np.array_equal(raw.status[~hit], clean.status[~hit])
    assert np.allclose(raw.x[~hit], clean.x[~hit], rtol=1e-13, atol=0.0)


@pytest.mark.parametrize(
    "gramian",
    [
        [[1.0, 0.0], [0.0, -1.0]],
        [[1.0, 0.5], [0.25, 1.0]],
        [[1.0, 2.0], [2.0, 1.0]],
        [[1.0, 0.1], [0.1, 0.0]],
        [[1e-200, 1e300], [1e300, 1e-200]],
    ],
)
def test_what_is_no_gramian_is_not_solved(gramian: list[list[float]]) -> None:
    pair = np.array([gramian, np.eye(2)])
    raw = run(pair, -np.ones((2, 1, 2)))
    assert raw.status.tolist() == [[MAX_ITER], [OPTIMAL]]
    assert np.isnan(raw.x[0]).all()
    assert np.array_equal(raw.x[1, 0], [1.0, 1.0])


def test_asymmetry_by_rounding_is_averaged() -> None:
    gramian = np.array([[[2.0, 1.0 + 1e-12], [1.0 - 1e-12, 2.0]]])
    assert np.array_equal(
        run(gramian, -np.ones((1, 1, 2))).x,
        run(np.array([[[2.0, 1.0], [1.0, 2.0]]]), -np.ones((1, 1, 2))).x,
    )


@pytest.mark.parametrize("size", [8, 16, 33])
def test_indefinite_gramians_get_bounded_weights(size: int) -> None:
    """Two rows that only rounding tells apart would otherwise get weights of some hundreds."""
    gramian, linear = problems("float32_low_rank", size, seed=1)
    norms = certify.row_norms(gramian[0])
    for precision in (FLOAT32_PRECISION, FLOAT64_PRECISION):
        raw = run(gramian, linear, precision)
        assert (raw.status == OPTIMAL).all()
        assert np.abs(raw.x * norms).max() <= 10 * np.abs(linear / norms).max()
        assert worst_residual(gramian, linear, raw) <= 1e-3


@pytest.mark.parametrize(("size", "seed"), [(6, 31), (20, 3), (20, 6)])
def test_signs_are_checked_with_accurate_weights(size: int, seed: int) -> None:
    """Block pivoting ends here with a weight whose sign is wrong, at a condition number of 1e8."""
    gramian, linear = problems("equicorrelated_near_one", size, seed)
    assert worst_residual(gramian, linear, run(gramian, linear)) <= 1e-15


def test_a_null_direction_that_leads_nowhere_is_taken_back() -> None:
    """An index drives out five others and then proves to have no way down: this went round in circles."""
    gramian, linear = problems("nearly_weakly_stationary_1e-8", 64, seed=3)
    raw = run(gramian, linear)
    assert (raw.status == OPTIMAL).all()
    assert worst_residual(gramian, linear, raw) <= bar("nearly_weakly_stationary_1e-8")


@pytest.mark.parametrize("family", ["hilbert", "random_grid"])
def test_weights_are_correctly_rounded(family: str) -> None:
    for size in (2, 3, 4, 5, 6):
        gramian, linear = problems(family, size)
        raw = run(gramian, linear)
        for q, x in zip(linear[0], raw.x[0], strict=True):
            expected = np.array([float(value) for value in exact.solve_nnqp(gramian[0], q).x])
            assert np.abs(x - expected).max() <= 2.0**-52 * expected.max()


@pytest.mark.parametrize("shape", [(0, 2, 3), (2, 0, 3)])
def test_no_problems(shape: tuple[int, int, int]) -> None:
    raw = run(np.ones((shape[0], 3, 3)), np.ones(shape))
    assert raw.x.size == raw.status.size == 0


def test_batches_agree_with_single_problems() -> None:
    families = ("random_grid", "integers_rank_deficient", "antiparallel_grid", "cycling", "zero_rows_grid")
    gramian = np.concatenate([problems(family, 8)[0] for family in families])
    linear = np.ascontiguousarray(gramian[:, :4])
    raw = run(gramian, linear)
    assert (raw.status == OPTIMAL).all()
    for b, r in np.ndindex(raw.status.shape):
        single = run(gramian[b : b + 1], linear[b : b + 1, r : r + 1])
        difference = gramian[b] @ (raw.x[b, r] - single.x[0, 0])
        assert np.abs(difference).max() <= 1e-12 * np.abs(gramian[b]).max()


@pytest.mark.parametrize("room", [1, 2, 5])
def test_chunks_make_no_difference(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    J = np.random.default_rng(4).standard_normal((5, 4, 6))
    gramian = J @ J.transpose(0, 2, 1)
    linear = np.ascontiguousarray(gramian[:, :3])
    whole = run(gramian, linear)
    monkeypatch.setattr(array_api, "CHUNK", room * 8 * 4 * 4)
    parts = run(gramian, linear)
    assert np.array_equal(parts.status, whole.status)
    assert np.allclose(parts.x, whole.x, rtol=1e-13, atol=1e-15)


def mixed_problems() -> tuple[FloatArray, FloatArray]:
    """Ordinary, singular, cycling, unbounded and non-finite problems, of one shape."""
    names = ("random_grid", "integers_rank_deficient", "cycling", "antiparallel_grid")
    gramian = np.concatenate([problems(name, 4)[0] for name in names])
    linear = np.stack([gramian[:, 0], gramian[:, 1]], axis=1)
    linear[3, 1] = -np.sqrt(np.diagonal(gramian[3]))
    gramian = np.concatenate([gramian, np.full((1, 4, 4), np.nan)])
    return gramian, np.concatenate([linear, np.ones((1, 2, 4))])


def test_libraries_agree(convert: Convert) -> None:
    gramian, linear = mixed_problems()
    expected = run(gramian, linear)
    assert set(expected.status.ravel()) == {OPTIMAL, INFEASIBLE, NONFINITE}
    inputs = convert(gramian), convert(linear)
    raw = array_api.solve(*inputs, 1, FLOAT64_PRECISION)
    assert all(type(array) is type(inputs[0]) for array in raw)
    assert [str(array.dtype).rsplit(".", 1)[-1] for array in raw] == ["float64", "int8", "int32"]
    assert np.array_equal(to_numpy(raw.status), expected.status)
    assert np.allclose(to_numpy(raw.x), expected.x, rtol=1e-12, atol=1e-14, equal_nan=True)


def test_arrays_stay_on_their_device() -> None:
    xp = pytest.importorskip("array_api_strict")
    device = xp.Device("device1")
    gramian, linear = mixed_problems()
    raw = array_api.solve(
        xp.asarray(gramian, device=device), xp.asarray(linear, device=device), 1, FLOAT64_PRECISION
    )
    assert {array.device for array in raw} == {device}
    assert np.array_equal(
        np.from_dlpack(xp.asarray(raw.status, device=xp.Device("CPU_DEVICE"))), run(gramian, linear).status
    )


@pytest.mark.gpu
def test_cuda_tensors_stay_on_the_device() -> None:
    torch = pytest.importorskip("torch")
    gramian, linear = mixed_problems()
    expected = run(gramian, linear)
    raw = array_api.solve(
        torch.from_numpy(gramian).cuda(), torch.from_numpy(linear).cuda(), 1, FLOAT64_PRECISION
    )
    assert all(array.is_cuda for array in raw)
    assert np.array_equal(raw.status.cpu().numpy(), expected.status)
    assert np.allclose(raw.x.cpu().numpy(), expected.x, rtol=1e-12, atol=1e-14, equal_nan=True)


def test_reads_from_the_device_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each waits for the device: up to three per iteration, whatever the size of the batch."""
    xp = pytest.importorskip("array_api_strict")
    reads = []
    cls = type(xp.asarray(0.0))
    for name in ("__bool__", "__int__", "__float__", "__index__"):
        original = getattr(cls, name)

        def counted(self: Any, original: Any = original) -> Any:
            reads.append(self)
            return original(self)

        monkeypatch.setattr(cls, name, counted)
    J = np.random.default_rng(5).standard_normal((20, 12, 24))
    gramian = J @ J.transpose(0, 2, 1)
    raw = array_api.solve(xp.asarray(gramian), xp.asarray(gramian[:, :2]), 1, FLOAT64_PRECISION)
    assert len(reads) <= 3 * int(xp.max(raw.iterations)) + 5


def test_other_precisions_are_refused() -> None:
    with pytest.raises(InvalidTypeError, match=r"gramian of shape \(1, 2, 2\) is float32.*jax_enable_x64"):
        array_api.solve(np.ones((1, 2, 2), np.float32), np.ones((1, 1, 2), np.float32), 1, FLOAT64_PRECISION)


def test_constants_are_those_of_the_kernels() -> None:
    assert _masked.NOISE == factor.ROUNDINGS * 2.0**-52 == gradient.NOISE
    assert (_masked.SUSPECT_PIVOT, _masked.ROUNDINGS) == (factor.SUSPECT_PIVOT, factor.ROUNDINGS)
    assert array_api.PATIENCE == kernel_block_pivoting.PATIENCE
    assert _masked_active_set.RAY == kernel_active_set.RAY


@pytest.mark.parametrize("base", [2, 4])
def test_powers_of_two_are_exact(base: int, rng: np.random.Generator) -> None:
    below, above = np.nextafter(1.0, 0.0), np.nextafter(1.0, 2.0)
    mantissas = np.concatenate([[below, 1.0, above], rng.uniform(0.5, 2.0, 100)])
    values = np.ldexp(mantissas[:, None], np.arange(-1000, 1000, 7))
    powers = _masked_scaling.power_of_two(np, values, base)
    assert (np.frexp(powers)[0] == 0.5).all()
    scaled = values * powers if base == 2 else values * powers * powers
    assert (scaled >= 0.5).all() and (scaled < base / 2).all()
    assert _masked_scaling.power_of_two(np, np.zeros(2), base).tolist() == [1.0, 1.0]


def test_the_root_follows_its_passive_set(rng: np.random.Generator) -> None:
    """Indices join and leave in blocks; the root stays a square root of the inverse."""
    count, size = 6, 12
    J = rng.standard_normal((2, size, 20))
    gramian = J @ J.transpose(0, 2, 1) / 20
    batch = _masked.Batch(np, gramian, np.ones((count, size)), np.full(count, _masked.NOISE))
    inverse = _masked.empty_inverse(batch)
    for _ in range(8):
        target = rng.random((count, size)) < 0.5
        leaving = int((inverse.passive & ~target).sum(axis=1).max())
        inverse = _masked.move_to(
            batch, inverse, target, leaving, int((target & ~inverse.passive).sum(axis=1).max())
        )
        assert np.array_equal(inverse.passive, target)
        for n, P in enumerate(target):
            product = inverse.root[n] @ inverse.root[n].T
            assert not product[~P].any() and not product[:, ~P].any()
            block = gramian[n // 3][np.ix_(P, P)]
            assert np.allclose(product[np.ix_(P, P)] @ block, np.eye(P.sum()), atol=1e-10)


def test_a_worn_root_is_polished() -> None:
    """An index that nearly depends on another leaves: what it leaves behind is cleaned up."""
    rows = np.eye(4)
    rows[1] = rows[0] + 1e-7 * rows[1]
    gramian = (rows @ rows.T)[None]
    batch = _masked.Batch(np, gramian, np.ones((1, 4)), np.full(1, _masked.NOISE))
    full = _masked.move_to(batch, _masked.empty_inverse(batch), np.full((1, 4), True), 0, 4)
    assert full.passive.all()
    target = np.array([[True, False, True, True]])
    index = ~target
    worn = _masked.delete(batch, full, index)
    assert worn.drift[0] > _masked.DRIFT
    inverse = _masked.move_to(batch, full, target, 1, 0)
    assert inverse.drift[0] == 0.0
    kept = inverse.root[0] @ inverse.root[0].T
    assert np.allclose(kept[np.ix_(target[0], target[0])], np.eye(3), rtol=0.0, atol=1e-14)


def test_the_active_set_keeps_its_root_accurate(rng: np.random.Generator) -> None:
    """It starts with pairs of rows that are 1e-6 apart, and has to let one of each go."""
    rows = np.repeat(rng.standard_normal((5, 20)), 2, axis=0)
    rows[::2] += 1e-6 * rng.standard_normal((5, 20))
    rows /= np.linalg.norm(rows, axis=1)[:, None]
    gramian, kept = (rows @ rows.T)[None], np.arange(10) % 2 == 0
    linear = np.where(kept, 0.0, 0.1) - gramian @ kept
    batch = _masked.Batch(np, gramian, linear, np.full(1, _masked.NOISE))
    x = np.ones((1, 10))
    state = _masked_active_set.active_set(batch, x > 0, x, np.array([False]))
    assert state.status[0] == OPTIMAL
    assert np.array_equal(state.inverse.passive[0], kept)
    root = state.inverse.root[0][np.ix_(kept, kept)]
    assert np.allclose(root.T @ gramian[0][np.ix_(kept, kept)] @ root, np.eye(5), rtol=0.0, atol=1e-10)
