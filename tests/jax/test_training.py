"""Values and directions of tasks and of examples, against jax.jacrev, NumPy and mojd.upgrad."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mojd
import mojd.jax
from mojd.errors import InvalidInputError, InvalidTypeError
from tests.jax.problems import (
    EXAMPLES,
    TASKS,
    batch,
    errors,
    exact_direction,
    example_loss,
    example_losses,
    flat,
    flat_jacobian,
    one_task,
    parameters,
    softened,
    task_losses,
)

SEQUENCE = [one_task(task) for task in range(TASKS)]
# One way of computing it each: (losses, options).
TASK_FORMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "vector": (task_losses, {}),
    "vector, sequential": (task_losses, {"sequential": True}),
    "vector, 1 part": (task_losses, {"micro_batches": 1}),
    "vector, 4 parts": (task_losses, {"micro_batches": 4}),
    "vector, 12 parts": (task_losses, {"micro_batches": 12}),
    "sequence": (SEQUENCE, {}),
    "sequence, 3 parts": (SEQUENCE, {"micro_batches": 3}),
}
EXAMPLE_FORMS: dict[str, dict[str, Any]] = {
    "at once": {},
    **{f"{parts} parts": {"micro_batches": parts} for parts in (1, 2, 3, 4, 12)},
}


def assert_close(found: Any, expected: Any, tolerance: float = 1e-12) -> None:
    scale = float(np.abs(expected).max())
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.usefixtures("x64")
class TestTasks:
    @pytest.mark.parametrize("form", TASK_FORMS)
    @pytest.mark.parametrize("jit", [True, False])
    def test_same_as_the_flat_jacobian(self, form: str, jit: bool) -> None:
        losses, options = TASK_FORMS[form]
        params, data = parameters(), batch()
        step = mojd.jax.value_and_direction(losses, softened, info=True, **options)
        values, direction, info = (jax.jit(step) if jit else step)(params, *data)
        jacobian = flat_jacobian(task_losses, params, *data)
        weights = np.asarray(softened(jnp.asarray(jacobian @ jacobian.T)))
        assert jax.tree.map(jnp.shape, direction) == jax.tree.map(jnp.shape, params)
        assert_close(values, task_losses(params, *data))
        assert_close(info.gramian, jacobian @ jacobian.T)
        assert_close(info.weights, weights)
        assert_close(info.slopes, jacobian @ (jacobian.T @ weights))
        assert_close(flat(direction), jacobian.T @ weights)

    @pytest.mark.parametrize("weighting", ["upgrad", mojd.upgrad, partial(mojd.upgrad, pref_vector=None)])
    @pytest.mark.parametrize("jit", [True, False])
    def test_upgrad_by_name_and_as_a_function(self, weighting: Any, jit: bool) -> None:
        params, data = parameters(), batch()
        step = mojd.jax.value_and_direction(task_losses, weighting)
        _, direction = (jax.jit(step) if jit else step)(params, *data)
        assert_close(flat(direction), exact_direction(flat_jacobian(task_losses, params, *data)), 1e-10)

    def test_parameters_that_a_loss_does_not_reach(self) -> None:
        params = {"a": jnp.array([1.0, 2.0]), "b": jnp.array(3.0)}
        losses = [lambda p: (p["a"] ** 2).sum(), lambda p: p["b"] ** 2]
        values, jacobian = mojd.jax.value_and_jacobian(losses)(params)
        np.testing.assert_array_equal(values, [5.0, 9.0])
        np.testing.assert_array_equal(jacobian["a"], [[2.0, 4.0], [0.0, 0.0]])
        np.testing.assert_array_equal(jacobian["b"], [0.0, 6.0])

    def test_a_sequence_costs_a_pass_for_each_loss(self) -> None:
        """Vectorised over all K, the pass of each would be taken K times."""
        text = str(
            jax.make_jaxpr(mojd.jax.value_and_jacobian([lambda p, x: jnp.sin(p @ x).sum()] * 3))(
                jnp.ones(4), jnp.ones((4, 5))
            )
        )
        assert text.count("cos ") == 3
        assert "f64[3,4,5]" not in text


@pytest.mark.usefixtures("x64")
class TestExamples:
    @pytest.mark.parametrize("form", EXAMPLE_FORMS)
    @pytest.mark.parametrize("jit", [True, False])
    def test_same_as_the_flat_jacobian(self, form: str, jit: bool) -> None:
        params, data = parameters(), batch()
        step = mojd.jax.value_and_direction(
            example_loss, softened, per_example=True, info=True, **EXAMPLE_FORMS[form]
        )
        values, direction, info = (jax.jit(step) if jit else step)(params, *data)
        jacobian = flat_jacobian(example_losses, params, *data)
        weights = np.asarray(softened(jnp.asarray(jacobian @ jacobian.T)))
        assert_close(values, example_losses(params, *data))
        assert_close(info.gramian, jacobian @ jacobian.T)
        np.testing.assert_array_equal(info.gramian, info.gramian.T)
        assert_close(flat(direction), jacobian.T @ weights)

    @pytest.mark.parametrize("form", EXAMPLE_FORMS)
    def test_upgrad(self, form: str) -> None:
        params, data = parameters(), batch()
        step = jax.jit(mojd.jax.value_and_direction(example_loss, per_example=True, **EXAMPLE_FORMS[form]))
        _, direction = step(params, *data)
        assert_close(flat(direction), exact_direction(flat_jacobian(example_losses, params, *data)), 1e-9)

    def test_keyword_arguments_are_shared(self) -> None:
        def loss(params: Any, x: Any, *, shift: Any) -> Any:
            assert shift.shape == (2,)
            return (params * x).sum() + shift.sum()

        step = mojd.jax.value_and_direction(loss, "mean", per_example=True)
        values, _ = step(jnp.ones(3), jnp.ones((4, 3)), shift=jnp.ones(2))
        np.testing.assert_array_equal(values, np.full(4, 5.0))

    def test_random_keys_are_examples_too(self) -> None:
        def loss(params: Any, key: Any) -> Any:
            return (params * jax.random.normal(key, (3,))).sum()

        keys = jax.random.split(jax.random.key(0), 6)
        whole, parts = (
            mojd.jax.value_and_direction(loss, softened, per_example=True, micro_batches=count)
            for count in (None, 3)
        )
        for one, other in zip(whole(jnp.ones(3), keys), parts(jnp.ones(3), keys), strict=True):
            assert_close(one, other)


@pytest.mark.usefixtures("x64")
class TestAux:
    def test_of_a_vector(self) -> None:
        def losses(params: Any, x: Any, targets: Any) -> Any:
            return task_losses(params, x, targets), {"largest": errors(params, x, targets).max()}

        params, data = parameters(), batch()
        step = mojd.jax.value_and_direction(losses, softened, has_aux=True)
        (values, aux), direction = jax.jit(step)(params, *data)
        assert_close(aux["largest"], errors(params, *data).max())
        plain = mojd.jax.value_and_direction(task_losses, softened)(params, *data)
        assert_close(values, plain[0])
        assert_close(flat(direction), flat(plain[1]))

    def test_of_a_sequence_is_a_tuple(self) -> None:
        losses = [lambda p: (p.sum(), "one"), lambda p: ((p**2).sum(), "two")]
        (values, aux), _ = mojd.jax.value_and_direction(losses, softened, has_aux=True)(jnp.ones(2))
        np.testing.assert_array_equal(values, [2.0, 2.0])
        assert aux == ("one", "two")

    def test_of_parts_is_stacked(self) -> None:
        step = mojd.jax.value_and_direction(
            lambda p, x: (jnp.stack([(p * x).mean(), (x - p).mean()]), x.sum()),
            softened,
            has_aux=True,
            micro_batches=2,
        )
        (_, aux), _ = step(jnp.array(3.0), jnp.array([1.0, 10.0, 100.0, 1000.0]))
        np.testing.assert_array_equal(aux, [101.0, 1010.0])

    @pytest.mark.parametrize("form", EXAMPLE_FORMS)
    def test_of_examples_has_their_order(self, form: str) -> None:
        def loss(params: Any, x: Any, targets: Any) -> Any:
            return example_loss(params, x, targets), (x[0], targets["y"])

        data = batch()
        step = mojd.jax.value_and_direction(
            loss, softened, per_example=True, has_aux=True, **EXAMPLE_FORMS[form]
        )
        (_, aux), _ = jax.jit(step)(parameters(), *data)
        np.testing.assert_array_equal(aux[0], data[0][:, 0])
        np.testing.assert_array_equal(aux[1], data[1]["y"])


class TestCompiled:
    def test_compiles_once_for_100_steps(self) -> None:
        params, data = parameters(), batch()
        pcd = mojd.jax.pcd_weighting()
        step = mojd.jax.value_and_direction(task_losses, pcd)
        traces = 0

        @partial(jax.jit, donate_argnums=(0, 1))
        def train(params: Any, state: Any) -> Any:
            nonlocal traces
            traces += 1
            values, direction, state = step(params, *data, state=state)
            return jax.tree.map(lambda p, d: p - 1e-3 * d, params, direction), state, values

        state = pcd.init(TASKS)
        first = None
        for _ in range(100):
            params, state, values = train(params, state)
            first = values if first is None else first
        assert traces == 1
        assert int(state.steps) == 100
        assert first is not None and float(values[0]) < float(first[0])

    def test_scan_is_the_loop(self, x64: None) -> None:
        data = batch()
        step = mojd.jax.value_and_direction(task_losses, "upgrad")

        def train(params: Any, _: Any) -> Any:
            values, direction = step(params, *data)
            return jax.tree.map(lambda p, d: p - 0.01 * d, params, direction), values

        looped, steps = parameters(), []
        for _ in range(5):
            looped, values = train(looped, None)
            steps.append(values)
        scanned, values = jax.jit(lambda p: jax.lax.scan(train, p, length=5))(parameters())
        assert_close(values, np.stack(steps), 1e-10)
        assert_close(flat(scanned), flat(looped), 1e-10)

    @pytest.mark.parametrize("options", [{}, {"per_example": True, "micro_batches": 3}])
    def test_vmap_trains_an_ensemble(self, x64: None, options: dict[str, Any]) -> None:
        members = [parameters(seed) for seed in range(3)]
        data = batch()
        losses = example_loss if options else task_losses
        step = mojd.jax.value_and_direction(losses, "upgrad", **options)
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
        _, directions = jax.jit(jax.vmap(step, in_axes=(0, None, None)))(stacked, *data)
        for index, member in enumerate(members):
            one = jax.tree.map(lambda leaf, at=index: leaf[at], directions)
            assert_close(flat(one), flat(step(member, *data)[1]), 1e-9)

    def test_two_chunks_are_held_at_a_time(self) -> None:
        """In 12 chunks; the compiler makes a copy of each of the two for the product."""
        params = {"w": jnp.ones((100, 200))}
        x = jnp.ones((48, 100))

        def temporary(micro_batches: int | None) -> int:
            step = mojd.jax.value_and_direction(
                lambda p, x: jnp.tanh(x @ p["w"]).sum(),
                softened,
                per_example=True,
                micro_batches=micro_batches,
            )
            analysis: Any = jax.jit(step).lower(params, x).compile().memory_analysis()
            return int(analysis.temp_size_in_bytes)

        chunk = 4 * 4 * 100 * 200
        assert temporary(None) > 12 * chunk
        assert temporary(12) < 6 * chunk


class TestNonFinite:
    @pytest.mark.parametrize(
        "weighting", ["upgrad", "mean", softened, mojd.jax.pcd_weighting(), lambda G: jnp.array([0.0, 1.0])]
    )
    @pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
    def test_spreads_to_the_direction_and_not_to_the_state(self, weighting: Any, bad: float) -> None:
        has_state = isinstance(weighting, mojd.jax.StatefulWeighting)
        losses = [lambda p, x: (p * x).sum(), lambda p, x: (p**2).sum()]
        step = jax.jit(mojd.jax.value_and_direction(losses, weighting))
        state = {"state": weighting.init(2)} if has_state else {}
        _, direction, *rest = step(jnp.ones(2), jnp.ones(2), **state)
        assert np.isfinite(direction).all()
        state = {"state": rest[0]} if has_state else {}
        _, direction, *rest = step(jnp.ones(2), jnp.array([1.0, bad]), **state)
        assert np.isnan(direction).all()
        if has_state:
            assert int(rest[0].steps) == 1
            np.testing.assert_array_equal(rest[0].mean_square, state["state"].mean_square)


class TestPCD:
    def test_is_that_of_the_core(self, x64: None) -> None:
        """The average, the scales and the weights of mojd.normalise and mojd.pcd over 30 steps."""
        rng = np.random.default_rng(0)
        pcd = mojd.jax.pcd_weighting(tau=[0.1, 0.3], beta=0.9, eps=1e-6)
        state, own = pcd.init(3), mojd.init_normaliser(3)
        update = jax.jit(pcd.update)
        for step in range(30):
            jacobian = rng.normal(size=(3, 5)) * 10.0 ** rng.uniform(-3, 3, size=(3, 1))
            gramian = jacobian @ jacobian.T
            if step % 7 == 3:
                gramian[0, 1] = np.nan
            weights, state = update(jnp.asarray(gramian), state)
            scales, own = mojd.normalise(own, gramian, beta=0.9, eps=1e-6)
            expected = mojd.pcd(gramian, [0.1, 0.3], scales=scales, rescale=True, nonfinite="propagate")
            np.testing.assert_allclose(weights, expected, rtol=1e-9)
            np.testing.assert_allclose(state.mean_square, own.mean_square, rtol=1e-13)
            assert int(state.steps) == own.steps

    def test_scales_keep_their_digits_in_float32(self) -> None:
        """In float32, 1 − 0.999ᵗ by subtraction is wrong in its fifth digit; rescaling would hide that."""
        gramian = np.array([[4.0, -1.0], [-1.0, 9.0]])
        scales, _ = mojd.normalise(mojd.init_normaliser(2), gramian)
        expected = mojd.pcd(gramian, scales=scales)
        pcd = mojd.jax.pcd_weighting(rescale=False)
        weights, state = jax.jit(pcd.update)(jnp.asarray(gramian, jnp.float32), pcd.init(2))
        assert state.mean_square.dtype == jnp.float32
        np.testing.assert_allclose(weights, expected, rtol=1e-6)

    def test_a_gradient_that_has_always_been_zero(self) -> None:
        pcd = mojd.jax.pcd_weighting(eps=0.0)
        weights, _ = jax.jit(pcd.update)(jnp.diag(jnp.array([4.0, 0.0])), pcd.init(2))
        assert np.isfinite(weights).all()
        assert float(weights[0]) == 1.0

    def test_refuses_the_state_of_others(self) -> None:
        pcd = mojd.jax.pcd_weighting()
        with pytest.raises(InvalidInputError, match=r"init\(3\)"):
            pcd.update(jnp.eye(3), pcd.init(2))

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"beta": 1.0}, InvalidInputError),
            ({"eps": -1.0}, InvalidInputError),
            ({"beta": "x"}, InvalidTypeError),
            ({"rescale": 1}, InvalidTypeError),
        ],
    )
    def test_refuses_options(self, options: dict[str, Any], error: type[Exception]) -> None:
        with pytest.raises(error, match=next(iter(options))):
            mojd.jax.pcd_weighting(**options)


def scalar(p: Any) -> Any:
    return p.sum()


class TestErrors:
    @pytest.mark.parametrize(
        ("losses", "options", "error", "message"),
        [
            ([], {}, InvalidInputError, "losses is empty"),
            (3.0, {}, InvalidTypeError, "got float"),
            ([scalar, 3], {}, InvalidTypeError, r"losses\[1\] must be a function"),
            ([scalar], {"per_example": True}, InvalidTypeError, "one function of the parameters"),
            (scalar, {"micro_batches": 0}, InvalidInputError, "micro_batches"),
            (scalar, {"micro_batches": 2.0}, InvalidInputError, "micro_batches"),
            (scalar, {"weighting": 3}, InvalidTypeError, "name of a method"),
            (scalar, {"weighting": "upgrade"}, InvalidInputError, "upgrad"),
            (scalar, {"weighting": "famo"}, InvalidInputError, "famo"),
            (scalar, {"weighting": "gradvac"}, InvalidInputError, "has a state"),
            (scalar, {"weighting": "rgw"}, InvalidInputError, "random"),
            (scalar, {"weighting": mojd.gradvac}, InvalidInputError, "has a state"),
            (scalar, {"weighting": mojd.jax.StatefulWeighting}, InvalidTypeError, "name of a method"),
        ],
    )
    def test_when_it_is_made(
        self, losses: Any, options: dict[str, Any], error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            mojd.jax.value_and_direction(losses, **options)

    @pytest.mark.parametrize(
        ("losses", "options", "error", "message"),
        [
            (scalar, {}, InvalidInputError, r"shape \(\); one function must return a vector"),
            ([scalar, lambda p: p], {}, InvalidInputError, r"losses\[1\] returned shape \(3,\); a loss must"),
            (lambda p: p[:0], {}, InvalidInputError, r"shape \(0,\)"),
            (lambda p: None, {}, InvalidTypeError, "returned NoneType"),
            (lambda p: [p[0], p[1]], {}, InvalidTypeError, "returned list"),
            (lambda p: jnp.ones(2, jnp.int32), {}, InvalidTypeError, "int32"),
            (lambda p: p + 1j, {}, InvalidTypeError, "complex64"),
            (lambda p: p, {"has_aux": True}, InvalidTypeError, "pair"),
            (lambda p: p, {"weighting": lambda G: G}, InvalidInputError, r"shape \(3, 3\) for a Gramian"),
            (lambda p: p, {"weighting": lambda G: None}, InvalidTypeError, "NoneType"),
            (lambda p: p, {"weighting": lambda G: G[0] + 1j}, InvalidTypeError, "real"),
            (lambda p: p, {"weighting": mojd.jax.pcd_weighting()}, InvalidTypeError, "state=weighting.init"),
            (scalar, {"per_example": True}, InvalidInputError, "there must be examples"),
            (lambda p: p, {"micro_batches": 2}, InvalidInputError, "there must be examples"),
        ],
    )
    def test_when_it_is_called(
        self, losses: Any, options: dict[str, Any], error: type[Exception], message: str
    ) -> None:
        step = mojd.jax.value_and_direction(losses, **options)
        for function in (step, jax.jit(step)):
            with pytest.raises(error, match=message):
                function(jnp.ones(3))

    @pytest.mark.parametrize(
        ("args", "message"),
        [
            ((jnp.ones((4, 2)), {"y": jnp.ones(3)}), r"argument 2\['y'\] has 3 examples .* before it 4"),
            ((jnp.ones((4, 2)), 1.0), r"argument 2 has shape \(\)"),
            ((jnp.ones((0, 2)),), r"argument 1 has shape \(0, 2\)"),
        ],
    )
    def test_of_batches(self, args: tuple[Any, ...], message: str) -> None:
        step = mojd.jax.value_and_direction(lambda p, *args: p.sum(), per_example=True)
        with pytest.raises(InvalidInputError, match=message):
            step(jnp.ones(2), *args)

    @pytest.mark.parametrize("per_example", [True, False])
    def test_of_parts_that_do_not_divide_the_batch(self, per_example: bool) -> None:
        losses = example_loss if per_example else task_losses
        step = mojd.jax.value_and_direction(losses, per_example=per_example, micro_batches=5)
        with pytest.raises(
            InvalidInputError, match=f"micro_batches=5 does not divide the {EXAMPLES} examples"
        ):
            step(parameters(), *batch())

    @pytest.mark.parametrize(
        ("params", "error", "message"),
        [
            ({}, InvalidInputError, "params has no leaves"),
            ({"w": jnp.ones(2), "n": jnp.arange(2)}, InvalidTypeError, r"params\['n'\] has dtype int32"),
        ],
    )
    def test_of_parameters(self, params: Any, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            mojd.jax.value_and_direction(lambda p: p["w"])(params)

    def test_of_an_update_that_returns_no_pair(self) -> None:
        update: Any = lambda gramian, state: gramian[0]  # noqa: E731
        weighting = mojd.jax.StatefulWeighting(lambda size: (), update)
        with pytest.raises(InvalidTypeError, match=r"must return \(weights, state\)"):
            mojd.jax.value_and_direction(lambda p: p, weighting)(jnp.ones(2), state=())

    @pytest.mark.parametrize("options", [{"micro_batches": 2}, {"batch_axis_name": "data"}])
    def test_of_jacobians_of_examples(self, options: dict[str, Any]) -> None:
        with pytest.raises(InvalidInputError, match="all examples at once"):
            mojd.jax.value_and_jacobian(example_loss, per_example=True, **options)
