"""From a public function to the kernels and back, for arrays on a device, without a look at their values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import array_api_strict as xp
import numpy as np
import pytest

import mojd
from mojd import NNQP, Status
from mojd._arrays import FLOAT64_PRECISION
from mojd.solvers import cuda, dispatch

from .problems import assert_close, gramians
from .stand_in import DEVICE, Libraries, memory, no_looking, on_device, standing_in


@pytest.fixture
def libraries() -> Any:
    with standing_in() as found:
        yield found


METHODS: dict[str, Callable[..., Any]] = {
    "upgrad": mojd.upgrad,
    "upgrad, own preferences": lambda G, **options: mojd.upgrad(
        G, (on_device if _is_strict(G) else np.asarray)(np.linspace(0.1, 1, G.shape[-1])), **options
    ),
    "pcd": lambda G, **options: mojd.pcd(G, 0.3, **options),
    "pcd, rescaled": lambda G, **options: mojd.pcd(G, 0.3, rescale=True, **options),
    "pcd, own tau": lambda G, **options: mojd.pcd(G, np.linspace(0, 1, G.shape[-1] - 1), **options),
    "pcd, tau beside G": lambda G, **options: mojd.pcd(
        G, (on_device if _is_strict(G) else np.asarray)(np.linspace(0, 1, G.shape[-1] - 1)), **options
    ),
    "pcd, scales": lambda G, **options: mojd.pcd(
        G, 1, scales=(on_device if _is_strict(G) else np.asarray)(np.linspace(0.5, 2, G.shape[-1])), **options
    ),
    "dualproj": mojd.dualproj,
    "project": lambda G, **options: mojd.project(
        (on_device if _is_strict(G) else np.asarray)(np.eye(G.shape[-1])), G, **options
    ),
    "mgda": mojd.mgda,
}


def _is_strict(array: Any) -> bool:
    return not isinstance(array, np.ndarray)


@pytest.mark.parametrize("solver", ["auto", "cuda"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("batch", [(), (5,), (2, 3), (0,)])
@pytest.mark.parametrize("method", METHODS)
def test_weights_are_those_of_numpy_and_nobody_looks(
    method: str, batch: tuple[int, ...], dtype: str, solver: str, libraries: Libraries
) -> None:
    for k in (2, 3, 6, 20):
        count = int(np.prod(batch))
        values = gramians(count, k, np.dtype(dtype).type).reshape(*batch, k, k)
        given = (
            on_device(values, dtype)
            if count
            else xp.zeros((*batch, k, k), dtype=getattr(xp, dtype), device=DEVICE)
        )
        with no_looking():
            weights = METHODS[method](given, solver=solver)
        expected = METHODS[method](values)
        assert weights.device == DEVICE
        assert weights.dtype == given.dtype
        assert_close(memory(weights), expected)
    assert libraries.device.launches or not count


@pytest.mark.parametrize("solver", ["auto", "cuda"])
@pytest.mark.parametrize("k", [1, 2, 5, 36])
def test_solutions_are_those_of_numpy_and_nobody_looks(k: int, solver: str, libraries: Libraries) -> None:
    rng = np.random.default_rng(k)
    for gramian, linear in (
        (gramians(1, k)[0], rng.standard_normal(k)),
        (gramians(1, k)[0], rng.standard_normal((4, k))),
        (gramians(3, k), rng.standard_normal((3, k))),
        (gramians(3, k)[:, None], rng.standard_normal((2, k))),
        (gramians(2, k), rng.standard_normal((3, 1, k))),
    ):
        problem = NNQP(on_device(gramian), on_device(linear))
        with no_looking():
            solution = mojd.solve(problem, solver)
            x = solution.x
        expected = mojd.solve(NNQP(gramian, linear))
        assert x.device == DEVICE
        assert_close(memory(x), expected.x)
        # Reading the status is what waits.
        status = solution.status
        if linear.ndim == gramian.ndim - 1 == 1:
            assert status is Status.OPTIMAL
            assert solution.kkt_residual <= 1e-12
        else:
            assert (memory(status) == expected.status).all()
            assert (memory(solution.kkt_residual) <= 1e-12).all()
    assert libraries.device.launches


def test_batches_of_vectors_broadcast(libraries: Libraries) -> None:
    k, rng = 4, np.random.default_rng(0)
    one, many = gramians(1, k)[0], gramians(3, k)
    preference, tau, scales = rng.random((5, 1, k)), rng.random((5, 3, k - 1)), rng.random((3, k))
    for values in (one, many):
        given = on_device(values)
        with no_looking():
            first = mojd.upgrad(given, on_device(preference))
            second = mojd.pcd(given, on_device(tau), scales=on_device(scales))
        assert_close(memory(first), mojd.upgrad(values, preference))
        assert_close(memory(second), mojd.pcd(values, tau, scales=scales))
    assert any("upgrad_tiles" in name or "solve_tiles" in name for name in libraries.device.launches)


def test_what_is_wrong_becomes_nan_and_a_status(libraries: Libraries) -> None:
    k = 4
    values = gramians(4, k)
    values[1, 0, 0], values[2, 0, 1] = np.nan, 5.0 * values[2, 0, 1] + 9.0
    given = on_device(values)
    with no_looking():
        weights, others = mojd.upgrad(given), mojd.pcd(given, 0.5)
        solution = mojd.solve(NNQP(given, on_device(np.ones((4, k)))))
    for found in (weights, others, solution.x):
        assert np.isnan(memory(found)).all(axis=1).tolist() == [False, True, True, False]
    expected = [Status.OPTIMAL, Status.NONFINITE, Status.MAX_ITER, Status.OPTIMAL]
    assert memory(solution.status).tolist() == expected
    assert libraries.device.launches


def test_a_dtype_says_how_far_rounding_may_go(libraries: Libraries) -> None:
    k = 4
    values = gramians(3, k) * (1.0 + 1e-5 * np.triu(np.ones((k, k)), 1))
    for dtype, refused in (("float32", False), ("float64", True)):
        given = on_device(values, dtype)
        with no_looking():
            weights, others = mojd.upgrad(given), mojd.pcd(given, 0.5)
        for found in (weights, others):
            assert np.isnan(memory(found)).all() == refused
            assert np.isnan(memory(found)).any() == refused
    assert libraries.device.launches


class TestErrors:
    """As for any array: found by shapes and options alone."""

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (
                lambda: mojd.upgrad(on_device(np.ones((2, 3)))),
                r"gramian must have shape .* got shape \(2, 3\)",
            ),
            (lambda: mojd.pcd(on_device(np.ones(3))), r"gramian must have shape .* got shape \(3,\)"),
            (lambda: mojd.upgrad(on_device(np.eye(3)), on_device(np.ones(2))), r"pref_vector .*\(2,\)"),
            (lambda: mojd.upgrad(on_device(np.eye(3)), [1.0, -1.0, 1.0]), "negative entry -1.0 at index"),
            (
                lambda: mojd.upgrad(on_device(np.stack([np.eye(3)] * 2)), np.ones((3, 3))),
                r"do not broadcast: \(2,\) against \(3,\)",
            ),
            (lambda: mojd.pcd(on_device(np.eye(3)), 1.5), r"tau must lie in \[0, 1\], got 1.5"),
            (lambda: mojd.pcd(on_device(np.eye(3)), [0.1] * 3), r"tau must have shape \(\.\.\., 2\)"),
            (lambda: mojd.pcd(on_device(np.eye(3)), scales=[1.0, 2.0]), r"scales must have shape"),
            (
                lambda: mojd.upgrad(on_device(np.eye(3)), threads=0),
                "threads must be an integer of at least 1",
            ),
            (lambda: mojd.pcd(on_device(np.eye(3)), nonfinite="no"), "nonfinite='no' is not one of"),
            (lambda: mojd.upgrad(on_device(np.eye(3)), solver="best"), "solver='best' is not known"),
            (lambda: mojd.upgrad(on_device(np.eye(3)), solver="active_set"), "'active_set' runs on the CPU"),
            (
                lambda: mojd.pcd(on_device(np.stack([np.eye(3)] * 2)), np.full((3, 2), 0.1)),
                r"do not broadcast",
            ),
            (
                lambda: mojd.pcd(on_device(np.eye(3)), np.full((3, 2), 0.1), scales=np.ones((2, 3))),
                r"tau and scales do not broadcast: \(3,\) against \(2,\)",
            ),
        ],
    )
    def test_of_values_that_do_not_fit(
        self, call: Callable[[], Any], message: str, libraries: Libraries
    ) -> None:
        with pytest.raises(mojd.InvalidInputError, match=message):
            call()
        assert not libraries.device.launches

    def test_of_a_tau_that_is_no_number(self, libraries: Libraries) -> None:
        for gramian in (np.eye(3), on_device(np.eye(3))):
            with pytest.raises(mojd.InvalidTypeError, match="tau must hold real numbers, got dtype bool"):
                mojd.pcd(gramian, True)
        assert not libraries.device.launches

    def test_of_dtypes(self, libraries: Libraries) -> None:
        flags = xp.asarray([[True, False], [False, True]], device=DEVICE)
        for method in (mojd.upgrad, mojd.pcd):
            with pytest.raises(mojd.InvalidTypeError, match="must hold real numbers, got dtype bool"):
                method(flags)
        assert not libraries.device.launches

    def test_of_solve_for_what_it_does_not_take(self, libraries: Libraries) -> None:
        linear = -np.ones((1, 1, 2))
        narrow = on_device(np.eye(2)[None], "float32")
        with pytest.raises(
            mojd.InvalidTypeError, match=r"float64, but the gramian of shape \(1, 2, 2\) is float32"
        ):
            cuda.solve(narrow, on_device(linear, "float32"), 1, FLOAT64_PRECISION)
        elsewhere = xp.asarray(np.eye(2)[None].tolist(), device=xp.Device("CPU_DEVICE"))
        with pytest.raises(mojd.InvalidTypeError, match="takes arrays on one CUDA device, or NumPy's, but"):
            cuda.solve(elsewhere, linear, 1, FLOAT64_PRECISION)
        assert not libraries.device.launches

    @pytest.mark.parametrize("shape", [(0, 0), (3, 0, 0)])
    def test_of_no_objectives(self, shape: tuple[int, ...], libraries: Libraries) -> None:
        for method in (mojd.upgrad, mojd.pcd):
            with pytest.raises(mojd.InvalidInputError) as expected:
                method(np.zeros(shape))
            with pytest.raises(mojd.InvalidInputError) as found:
                method(xp.zeros(shape, device=DEVICE))
            assert str(found.value) == str(expected.value)
        assert not libraries.device.launches


def test_more_objectives_than_kernels_take_go_to_array_api(libraries: Libraries) -> None:
    def problem(k: int) -> NNQP:
        return NNQP(xp.eye(k, device=DEVICE), -xp.ones(k, device=DEVICE))

    names = [dispatch._automatic(problem(k), on_device=True, traced=False) for k in (1, 1024, 1025)]
    assert names == ["cuda", "cuda", "array_api"]
    with pytest.raises(mojd.InvalidInputError, match="K <= 1024, but the gramian is 1025 x 1025"):
        mojd.solve(problem(1025), "cuda")
    assert not libraries.device.launches


@pytest.mark.parametrize("k", [1, 34])
def test_pcd_beyond_its_kernel_goes_by_way_of_its_problem(k: int, libraries: Libraries) -> None:
    values = gramians(2, k)
    with no_looking():
        weights = mojd.pcd(on_device(values), 0.3)
    assert_close(memory(weights), mojd.pcd(values, 0.3))
    assert not any("pcd" in name for name in libraries.device.launches)


def test_other_solvers_stay_with_other_code(libraries: Libraries) -> None:
    given = on_device(gramians(3, 4))
    assert_close(memory(mojd.upgrad(given, solver="array_api")), mojd.upgrad(gramians(3, 4)))
    assert not libraries.device.launches


def test_looking_is_noticed() -> None:
    array = on_device([1.0])
    for look in (bool, float, int, np.from_dlpack):
        with no_looking(), pytest.raises(AssertionError, match="looks at values"):
            look(array)


def test_arrays_in_two_places_are_refused(libraries: Libraries, monkeypatch: pytest.MonkeyPatch) -> None:
    given, other = on_device(gramians(1, 4)[0]), on_device(np.ones(4))
    places = {True: "torch on device 0", False: "torch on device 1"}
    monkeypatch.setattr(libraries, "place_of", lambda array: places[array.shape[-2:] == (4, 4)])
    for call in (
        lambda: mojd.upgrad(given, other),
        lambda: mojd.pcd(given, scales=other),
        lambda: mojd.solve(NNQP(given, other)),
    ):
        with pytest.raises(mojd.InvalidInputError, match=r"torch on device 0, but \w+ is one of torch on"):
            call()


def test_a_number_for_tau_is_not_copied_at_any_size(libraries: Libraries) -> None:
    for k in (2, 33, 34, 40):
        values = gramians(1, k)[0]
        given = on_device(values)
        with no_looking():
            weights = mojd.pcd(given, 0.3)
        assert_close(memory(weights), mojd.pcd(values, 0.3))
