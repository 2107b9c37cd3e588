"""Random methods draw from keys, and states are carried through scans."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mojd
import mojd.jax
from mojd.weightings._draws import normal, uniform, visiting_orders
from mojd.weightings._shared import view
from tests.reference.families import Floats

SIZE = 3


def gramians(count: int = 6) -> Floats:
    rows = np.random.default_rng(2).standard_normal((count, SIZE, 5))
    return rows @ np.swapaxes(rows, -1, -2)


class TestKeys:
    @pytest.mark.parametrize("make", [jax.random.key, jax.random.PRNGKey])
    @pytest.mark.parametrize("name", ["pcgrad", "rgw"])
    def test_draws_are_the_same_wherever_they_are_made(self, name: str, make: Any) -> None:
        method, gramian, key = getattr(mojd, name), gramians()[0].astype(np.float32), make(3)
        wanted = method(gramian, seed=key)
        for found in (
            jax.jit(lambda G, key: method(G, seed=key))(gramian, key),
            jax.jit(lambda key: method(gramian, seed=key))(key),
            mojd.jax.weighting(name, gramian, seed=key),
        ):
            np.testing.assert_allclose(found, wanted, rtol=1e-6)
        with jax.enable_x64(True):
            np.testing.assert_allclose(
                jax.jit(lambda G: method(G, seed=key))(jnp.asarray(gramian)), wanted, rtol=1e-6
            )

    @pytest.mark.parametrize("name", ["pcgrad", "rgw"])
    def test_mapped_keys_give_what_each_gives_alone(self, name: str) -> None:
        method = getattr(mojd, name)
        gramian = np.array([[1.0, -0.7, -0.4], [-0.7, 1.0, 0.1], [-0.4, 0.1, 1.0]])
        keys = jax.random.split(jax.random.key(0), 8)
        found = jax.jit(jax.vmap(lambda key: method(jnp.asarray(gramian), seed=key)))(keys)
        wanted = [method(gramian, seed=key) for key in keys]
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
        assert np.std(found, axis=0).max() > 0.01

    def test_distributions(self) -> None:
        key, count = jax.random.key(0), 40000
        matrix = view(gramians(1)[0])
        drawn, bell = uniform(key, (count,), matrix), normal(key, (count,), matrix)
        for moment in (1, 2, 3, 4):
            assert abs(np.mean(drawn**moment) - 1 / (moment + 1)) < 4 / np.sqrt(count)
        assert abs(np.mean(bell)) < 4 / np.sqrt(count)
        assert abs(np.mean(bell**2) - 1) < 6 / np.sqrt(count)
        assert abs(np.mean(bell**4) - 3) < 40 / np.sqrt(count)
        orders = visiting_orders(key, (4000,), matrix)
        for i in range(SIZE):
            others = sorted(set(range(SIZE)) - {i})
            assert (np.sort(orders[:, i], axis=-1) == others).all()
            assert abs(np.mean(orders[:, i, 0] == others[0]) - 0.5) < 0.04

    @pytest.mark.parametrize("seed", [0, np.random.default_rng(0)])
    @pytest.mark.parametrize("name", ["pcgrad", "rgw"])
    def test_seeds_of_numpy_are_refused_in_programs(self, name: str, seed: Any) -> None:
        with pytest.raises(mojd.InvalidInputError, match=r"drawn from once.*pass a key.*split"):
            jax.jit(lambda G: getattr(mojd, name)(G, seed=seed))(jnp.eye(SIZE))
        with pytest.raises(mojd.InvalidInputError, match=r"drawn from once"):
            mojd.jax.weighting(name, jnp.eye(SIZE), seed=seed)

    def test_what_is_no_key(self) -> None:
        with pytest.raises(mojd.InvalidTypeError, match=r"dtype int32 and shape \(\).*jax\.random\.key"):
            jax.jit(lambda G, step: mojd.pcgrad(G, seed=step))(jnp.eye(SIZE), 3)
        with pytest.raises(mojd.InvalidInputError, match=r"one key, got keys of shape \(2,\)"):
            mojd.pcgrad(np.eye(SIZE), seed=jax.random.split(jax.random.key(0)))


def _normalise(state: Any, gramian: Any, key: Any) -> tuple[Any, Any]:
    scales, state = mojd.normalise(state, gramian)
    return state, scales


def _gradvac(state: Any, gramian: Any, key: Any) -> tuple[Any, Any]:
    weights, state = mojd.gradvac(state, gramian, seed=key, nonfinite="propagate")
    return state, weights


def _famo(state: Any, gramian: Any, key: Any) -> tuple[Any, Any]:
    losses = gramian.diagonal()
    weights = mojd.famo(state, losses, nonfinite="propagate")
    return mojd.update_famo(state, losses, losses + 1.0, nonfinite="propagate"), weights


def _auxinash(state: Any, gramian: Any, key: Any) -> tuple[Any, Any]:
    weights = mojd.auxinash(gramian, state, nonfinite="propagate")
    state = mojd.update_preferences(
        state, gramian, weights, gramian[0], learning_rate=0.1, step_size=0.5, nonfinite="propagate"
    )
    return state, weights


STATEFUL = {
    "normalise": (_normalise, mojd.init_normaliser(SIZE)),
    "gradvac": (_gradvac, mojd.init_gradvac(SIZE)),
    "famo": (_famo, mojd.init_famo(SIZE)),
    "auxinash": (_auxinash, np.full(SIZE, 1 / SIZE)),
}


@pytest.mark.parametrize("name", STATEFUL)
@pytest.mark.parametrize("wide", [False, True])
class TestStates:
    def test_a_scan_is_a_loop_over_numpy(self, name: str, wide: bool) -> None:
        step, start = STATEFUL[name]
        matrices, keys = gramians(), jax.random.split(jax.random.key(1), 6)
        matrices[2, 0, 0] = np.nan
        with jax.enable_x64(wide):
            end, found = jax.lax.scan(lambda state, x: step(state, *x), start, (jnp.asarray(matrices), keys))
        state, wanted = start, []
        for matrix, key in zip(matrices, keys, strict=True):
            before = state
            state, row = step(state, matrix, key)
            wanted.append(row)
            if np.isnan(matrix).any():
                jax.tree.map(np.testing.assert_array_equal, state, before)
        tolerance = 1e-12 if wide else 2e-6
        np.testing.assert_allclose(found, np.stack(wanted), rtol=tolerance, atol=tolerance)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), end, state
        )

    def test_one_compilation_for_all_steps(self, name: str, wide: bool) -> None:
        step, state = STATEFUL[name]
        traces = []

        def traced(state: Any, gramian: Any, key: Any) -> Any:
            traces.append(name)
            return step(state, gramian, key)[0]

        with jax.enable_x64(wide):
            program, key = jax.jit(traced), jax.random.key(0)
            for gramian in gramians():
                state = program(state, gramian, key)
        assert len(traces) == 1


class TestAggregate:
    JACOBIAN = np.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0], [1.0, -2.0, 0.5]])

    @pytest.mark.parametrize("wide", [False, True])
    @pytest.mark.parametrize("name", ["upgrad", "trimmed_mean", "graddrop"])
    def test_directions_of_traced_jacobians(self, name: str, wide: bool) -> None:
        options = {"seed": jax.random.key(0)} if name == "graddrop" else {}
        wanted = mojd.aggregate(self.JACOBIAN, name, **options)
        with jax.enable_x64(wide):
            found = jax.jit(lambda J: mojd.aggregate(J, name, **options))(self.JACOBIAN)
        assert found.dtype == (np.float64 if wide else np.float32)
        np.testing.assert_allclose(found, wanted, rtol=1e-12 if wide else 1e-6)

    def test_gramians_of_integers_and_of_half_precision(self) -> None:
        rows = np.array([[300, -200], [100, 40]])
        for dtype in (np.int16, np.float16):
            found = jax.jit(mojd.gramian)(rows.astype(dtype))
            assert found.dtype == (np.float16 if dtype == np.float16 else np.float32)
        np.testing.assert_array_equal(jax.jit(mojd.gramian)(rows.astype(np.int16)), rows @ rows.T)

    def test_products_of_matrices_are_not_rounded_to_fewer_bits(self) -> None:
        """On a GPU, JAX would take TF32."""
        program = str(jax.make_jaxpr(mojd.gramian)(jnp.ones((2, 3))))
        assert "HIGHEST" in program


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "call"),
        [
            ("c", lambda value: mojd.cagrad(np.eye(2), value)),
            ("alpha", lambda value: mojd.fairgrad(np.eye(2), value)),
            ("max_norm", lambda value: mojd.nash_mtl(np.eye(2), max_norm=value)),
            ("beta", lambda value: mojd.normalise(mojd.init_normaliser(2), np.eye(2), value)),
            ("trim_number", lambda value: mojd.trimmed_mean(np.eye(3), value)),
        ],
    )
    def test_options_that_are_compiled_in(self, name: str, call: Any) -> None:
        with pytest.raises(mojd.InvalidTypeError, match=rf"{name} must be a Python number.*static_argnames"):
            jax.jit(call)(0.5)

    def test_shapes_without_numbers(self) -> None:
        struct = jax.ShapeDtypeStruct((SIZE, SIZE), np.float32)
        for function in (mojd.upgrad, mojd.jax.upgrad, mojd.mean):
            with pytest.raises(mojd.InvalidTypeError, match=r"ShapeDtypeStruct of shape \(3, 3\)"):
                function(struct)
        assert jax.eval_shape(mojd.upgrad, struct).shape == (SIZE,)

    def test_solve_in_float32(self) -> None:
        with pytest.raises(mojd.InvalidTypeError, match=r"jax_enable_x64 is off: call mojd\.jax\.solve"):
            jax.jit(lambda G: mojd.solve(mojd.NNQP(G, -G[0])).x)(jnp.eye(SIZE))

    def test_policies_are_checked_although_programs_cannot_raise(self) -> None:
        program = jax.jit(lambda G: mojd.mean(G, nonfinite="raise"))
        assert np.isnan(program(jnp.full((2, 2), np.nan))).all()
        with pytest.raises(mojd.InvalidInputError, match="nonfinite='ignore'"):
            jax.jit(lambda G: mojd.mean(G, nonfinite="ignore"))(jnp.eye(2))

    def test_a_list_of_traced_rows_is_a_matrix(self) -> None:
        found = jax.jit(lambda a: mojd.upgrad([[a, -a], [-a, 2.0 * a]]))(1.0)
        np.testing.assert_allclose(found, mojd.upgrad([[1.0, -1.0], [-1.0, 2.0]]), rtol=1e-6)
