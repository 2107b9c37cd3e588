"""The weightings as functions of JAX: values, transformations, dtypes, and how they say no."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mojd
import mojd.jax
from tests.jax.cases import BY_XLA, CASES, PATHS, expected, gramians, weights_of

each_case = pytest.mark.parametrize("name", CASES)
each_path = pytest.mark.parametrize(("name", "solver"), PATHS)


def assert_same(found: Any, truth: Any) -> None:
    """Compare two ways to the same numbers, on well-conditioned problems."""
    np.testing.assert_allclose(found, truth, rtol=1e-12, atol=1e-13)


@pytest.mark.usefixtures("x64")
class TestValues:
    @staticmethod
    def check(name: str, solver: str, *shape: int) -> None:
        arguments = CASES[name].arguments(*shape)
        found = jax.jit(weights_of(name, solver))(*arguments)
        truth = expected(name, *arguments)
        assert isinstance(found, jax.Array)
        assert found.dtype == jnp.float64
        assert found.shape == truth.shape
        assert_same(found, truth)

    @pytest.mark.parametrize("shape", [(2,), (3,), (5,), (17,), (40, 4), (2, 3, 6), (0, 3)])
    @each_case
    def test_those_of_the_core(self, name: str, shape: tuple[int, ...]) -> None:
        self.check(name, "auto", *shape)

    @pytest.mark.parametrize("name", [*BY_XLA, "dualproj", "mgda", "project"])
    def test_by_xla_alone(self, name: str) -> None:
        self.check(name, "xla", 40, 4)

    @pytest.mark.parametrize("shape", [(3,), (17,), (2, 3, 6), (0, 3)])
    def test_shapes_by_xla_alone(self, shape: tuple[int, ...]) -> None:
        self.check("upgrad", "xla", *shape)

    @each_case
    def test_outside_of_programs(self, name: str) -> None:
        """NumPy in or JAX in, JAX out."""
        arguments = CASES[name].arguments(4, 5)
        truth = expected(name, *arguments)
        for convert in (np.asarray, jnp.asarray):
            found = weights_of(name)(*map(convert, arguments))
            assert isinstance(found, jax.Array)
            assert found.dtype == jnp.float64
            assert_same(found, truth)

    @each_case
    def test_one_objective(self, name: str) -> None:
        for square in (4.0, 0.0):
            arguments = (np.full((1, 1), square), *CASES[name].arguments(1)[1:])
            assert_same(jax.jit(weights_of(name))(*arguments), expected(name, *arguments))

    def test_preferences_that_broadcast(self) -> None:
        G, u = gramians(2, 3, 4), np.array([[1.0, 0.0, 2.0, 0.5]] * 3)
        for function in ("upgrad", "dualproj"):
            found = jax.jit(getattr(mojd.jax, function))(G, u)
            assert_same(found, getattr(mojd, function)(G, u))

    def test_vectors_and_stacks_of_rows(self) -> None:
        G, rng = gramians(3, 4), np.random.default_rng(0)
        for shape in ((4,), (2, 4), (3, 2, 4), (5, 1, 2, 4)):
            U = rng.standard_normal(shape)
            found = jax.jit(mojd.jax.project)(U, G)
            assert found.shape == mojd.project(U, G).shape
            assert_same(found, mojd.project(U, G))

    def test_contradictions(self) -> None:
        """Opposite secondaries: PCD drops the constraints of that problem, and of no other."""
        J = np.array([[1.0, 0.3], [0.0, 1.0], [0.0, -1.0]])
        G = np.stack([J @ J.T, gramians(3), J @ J.T])
        found = jax.jit(partial(mojd.jax.pcd, tau=0.5))(G)
        assert found[0].tolist() == found[2].tolist() == [1.0, 0.0, 0.0]
        assert_same(found[1], mojd.pcd(G[1], 0.5))


@pytest.mark.usefixtures("x64")
class TestTransformations:
    @each_path
    def test_mapped(self, name: str, solver: str) -> None:
        arguments = CASES[name].arguments(6, 5)
        function = weights_of(name, solver)
        found = jax.jit(jax.vmap(function))(*arguments)
        assert_same(found, expected(name, *arguments))

    @each_case
    def test_mapped_over_the_last_axis(self, name: str) -> None:
        arguments = CASES[name].arguments(6, 4)
        moved = [np.moveaxis(argument, 0, -1) for argument in arguments]
        found = jax.jit(jax.vmap(weights_of(name), in_axes=-1, out_axes=-1))(*moved)
        assert_same(np.moveaxis(found, -1, 0), expected(name, *arguments))

    @pytest.mark.parametrize("name", [name for name in CASES if len(CASES[name].arguments(3)) > 1])
    def test_one_argument_for_all(self, name: str) -> None:
        arguments = CASES[name].arguments(6, 4)
        for fixed in range(len(arguments)):
            given = [argument[0] if i == fixed else argument for i, argument in enumerate(arguments)]
            axes = tuple(None if i == fixed else 0 for i in range(len(arguments)))
            found = jax.jit(jax.vmap(weights_of(name), in_axes=axes))(*given)
            truth = [
                expected(name, *(a if i == fixed else a[b] for i, a in enumerate(given))) for b in range(6)
            ]
            assert_same(found, np.stack(truth))

    @each_path
    def test_nested(self, name: str, solver: str) -> None:
        """Over the second axis inside, and over the first outside; batches inside of both."""
        arguments = CASES[name].arguments(2, 3, 4, 5)
        found = jax.jit(jax.vmap(jax.vmap(weights_of(name, solver), in_axes=1, out_axes=1)))(*arguments)
        assert_same(found, expected(name, *arguments))

    @each_path
    def test_scanned(self, name: str, solver: str) -> None:
        arguments = CASES[name].arguments(20, 5)

        @jax.jit
        def run(*arguments: Any) -> Any:
            def step(total: Any, given: Any) -> Any:
                weights = weights_of(name, solver)(*given)
                return total + weights, weights

            shape = (3, 5) if name == "project" else (5,)
            return jax.lax.scan(step, jnp.zeros(shape), arguments)

        total, found = run(*arguments)
        truth = expected(name, *arguments)
        assert_same(found, truth)
        assert_same(total, truth.sum(axis=0))

    @each_case
    def test_in_a_loop_and_in_a_branch(self, name: str) -> None:
        arguments = CASES[name].arguments(5)
        truth = expected(name, *arguments)

        @jax.jit
        def run(times: Any, *given: Any) -> Any:
            weights = jax.lax.fori_loop(
                0, times, lambda i, w: weights_of(name)(*given), jnp.zeros(truth.shape)
            )
            return jax.lax.cond(times > 2, lambda: weights_of(name)(*given), lambda: weights)

        for times in (1, 3):
            assert_same(run(times, *arguments), truth)

    @each_case
    def test_checkpointed(self, name: str) -> None:
        arguments = CASES[name].arguments(5)
        plain = jax.grad(lambda *given: weights_of(name)(*given).max())
        again = jax.grad(jax.checkpoint(lambda *given: weights_of(name)(*given).max()))
        assert_same(jax.jit(again)(*arguments), jax.jit(plain)(*arguments))

    @each_case
    def test_many_problems(self, name: str) -> None:
        arguments = CASES[name].arguments(3000, 3)
        found = jax.jit(weights_of(name))(*arguments)
        np.testing.assert_allclose(found, expected(name, *arguments), rtol=1e-9, atol=1e-10)


class TestDtypes:
    @each_path
    def test_float32_without_x64(self, name: str, solver: str) -> None:
        """Solved in float64: what is lost is what rounding to float32 loses."""
        arguments = [argument.astype(np.float32) for argument in CASES[name].arguments(4, 5)]
        truth = expected(name, *arguments)
        for function in (weights_of(name, solver), jax.vmap(weights_of(name, solver))):
            found = jax.jit(function)(*arguments)
            assert found.dtype == jnp.float32
            np.testing.assert_allclose(found, truth, rtol=1e-6, atol=1e-6)

    @pytest.mark.usefixtures("x64")
    @each_case
    def test_float32_with_x64(self, name: str) -> None:
        arguments = [argument.astype(np.float32) for argument in CASES[name].arguments(4, 5)]
        found = jax.jit(weights_of(name))(*arguments)
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected(name, *arguments), rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
    @each_case
    def test_half_precision(self, name: str, dtype: Any) -> None:
        """Weights of the rounded Gramian, which stays one: gradients of few bits that cancel nowhere."""
        rng = np.random.default_rng(0)
        J = rng.integers(-2, 3, (3, 4)) + 4.0 * np.eye(3, 4)
        arguments = [jnp.asarray(argument, dtype) for argument in (J @ J.T, *CASES[name].arguments(3)[1:])]
        found = jax.jit(weights_of(name))(*arguments)
        assert found.dtype == dtype
        precision = float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(
            found.astype(jnp.float32), expected(name, *arguments), rtol=precision, atol=precision
        )

    @each_case
    def test_scales_that_float32_can_not_square(self, name: str) -> None:
        """Entries near the ends of its range."""
        arguments = [argument.astype(np.float32) for argument in CASES[name].arguments(5)]
        for factor in (np.float32(2.0**-120), np.float32(2.0**120)):
            given = [arguments[0] * factor, *arguments[1:]]
            np.testing.assert_allclose(
                jax.jit(weights_of(name))(*given), expected(name, *given), rtol=1e-6, atol=1e-6
            )


@pytest.mark.usefixtures("x64")
class TestWhatIsNotFinite:
    @each_path
    def test_one_problem_of_a_batch(self, name: str, solver: str) -> None:
        """Nothing is raised inside of a program; the others get what they get without it."""
        arguments = CASES[name].arguments(3, 5)
        truth = expected(name, *arguments)
        function = jax.jit(weights_of(name, solver))
        for place, bad in (((2, 2), np.nan), ((0, 0), np.inf), ((1, 3), np.nan), ((4, 1), -np.inf)):
            given = arguments[0].copy()
            given[1][place] = given[1][place[::-1]] = bad
            found = np.asarray(function(given, *arguments[1:]))
            assert np.isnan(found[1]).all()
            assert_same(found[[0, 2]], truth[[0, 2]])

    @pytest.mark.parametrize("name", [name for name in CASES if len(CASES[name].arguments(3)) > 1])
    def test_beside_the_gramian(self, name: str) -> None:
        arguments = CASES[name].arguments(3, 5)
        truth = expected(name, *arguments)
        for i in range(1, len(arguments)):
            given = [argument.copy() for argument in arguments]
            given[i][1] = np.nan
            found = np.asarray(jax.jit(weights_of(name))(*given))
            # PCD's primary need not be touched, but d = Jᵀw is.
            assert np.isnan(found[1]).any()
            assert_same(found[[0, 2]], truth[[0, 2]])


@pytest.mark.usefixtures("x64")
class TestTheCore:
    """The functions of mojd itself find their way when they are given something traced."""

    @each_case
    def test_in_programs(self, name: str) -> None:
        arguments = CASES[name].arguments(4, 5)
        call = partial(CASES[name].call, mojd)
        truth = weights_of(name)(*arguments)
        assert np.array_equal(jax.jit(call)(*arguments), truth)
        assert np.array_equal(jax.vmap(call)(*arguments), truth)

    @each_case
    def test_differentiated(self, name: str) -> None:
        arguments = CASES[name].arguments(5)
        call = partial(CASES[name].call, mojd)
        found = jax.grad(lambda *given: call(*given).max())(*arguments)
        truth = jax.grad(lambda *given: weights_of(name)(*given).max())(*arguments)
        assert np.array_equal(found, truth)

    def test_arrays_that_nothing_traces(self) -> None:
        G = gramians(4)
        found = mojd.upgrad(jnp.asarray(G))
        assert isinstance(found, jax.Array)
        assert np.array_equal(found, mojd.upgrad(G))

    def test_normalise(self) -> None:
        """PCD's moving average as the carry of a scan."""
        G = gramians(20, 3) * np.linspace(0.1, 2.0, 20)[:, None, None]

        def step(state: Any, gramian: Any) -> Any:
            scales, state = mojd.normalise(state, gramian, beta=0.9)
            return state, scales

        state, found = mojd.init_normaliser(3), []
        for gramian in G:
            scales, state = mojd.normalise(state, gramian, beta=0.9)
            found.append(scales)
        empty = mojd.weightings.normaliser.NormaliserState(jnp.zeros(3), jnp.zeros((), jnp.int32))
        last, scales = jax.jit(lambda G: jax.lax.scan(step, empty, G))(G)
        assert_same(scales, np.stack(found))
        assert_same(last.mean_square, state.mean_square)
        assert int(last.steps) == state.steps == 20
