"""What JAX makes of the weightings: what is in the program, and how often it is compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr

import mojd
import mojd.jax
from tests.jax.cases import CASES, PATHS, gramians, weights_of

each_case = pytest.mark.parametrize("name", CASES)
each_path = pytest.mark.parametrize(("name", "solver"), PATHS)
# Every one leaves the program for Python.
CALLBACKS = {"pure_callback", "io_callback", "debug_callback"}


def primitives(jaxpr: Jaxpr) -> Iterator[str]:
    """Iterate over the names of all primitives of a program, those of its parts included."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for value in equation.params.values():
            for part in value if isinstance(value, tuple | list) else (value,):
                if isinstance(part, ClosedJaxpr):
                    yield from primitives(part.jaxpr)
                elif isinstance(part, Jaxpr):
                    yield from primitives(part)


def program(function: Callable[..., Any], arguments: tuple[Any, ...]) -> set[str]:
    return set(primitives(jax.make_jaxpr(function)(*arguments).jaxpr))


def variants(name: str, solver: str) -> dict[str, Callable[..., Any]]:
    """The weights, and what computes both kinds of derivatives."""
    weights = weights_of(name, solver)

    def gradient(*arguments: Any) -> Any:
        return jax.grad(lambda *given: weights(*given).sum())(*arguments)

    def tangent(*arguments: Any) -> Any:
        return jax.jvp(weights, arguments, arguments)

    return {"weights": weights, "gradient": gradient, "tangent": tangent}


class TestWhatIsInAProgram:
    def test_a_callback_is_found(self) -> None:
        """In a loop, in a branch and in a function with a derivative of its own."""

        def call(x: Any) -> Any:
            return jax.pure_callback(np.sin, jax.ShapeDtypeStruct((), np.float32), x)

        loop = jax.jit(lambda x: jax.lax.fori_loop(0, 3, lambda i, x: call(x), x))
        branch = jax.jit(lambda x: jax.lax.cond(x > 0, call, lambda x: x, x))
        custom = jax.custom_vjp(call)
        custom.defvjp(lambda x: (call(x), None), lambda _, change: (change,))
        for function in (call, loop, branch, custom):
            assert program(function, (jnp.float32(1.0),)) & CALLBACKS

    @each_path
    def test_no_callback(self, name: str, solver: str) -> None:
        for x64 in (False, True):
            with jax.enable_x64(x64):
                arguments = CASES[name].arguments(4, 5)
                for function in variants(name, solver).values():
                    assert not program(function, arguments) & CALLBACKS
                    assert not program(jax.vmap(function), arguments) & CALLBACKS

    @each_case
    def test_xla_alone(self, name: str) -> None:
        """No function of mojd's is called from the program: it runs wherever XLA does."""
        arguments = CASES[name].arguments(5)
        for function in variants(name, "xla").values():
            assert not {found for found in program(function, arguments) if "ffi" in found}
            targets = set(_targets(jax.jit(function).lower(*arguments).as_text()))
            assert not {target for target in targets if not target.startswith("lapack_")}

    def test_kernels_on_the_cpu(self) -> None:
        assert "ffi_call" in program(weights_of("upgrad"), CASES["upgrad"].arguments(5))

    @pytest.mark.parametrize("platform", ["cuda", "tpu"])
    @each_case
    def test_other_platforms_have_no_kernels(
        self, name: str, platform: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where JAX has more than a CPU, the platform that a program is compiled for decides."""
        monkeypatch.setattr(jax, "default_backend", lambda: platform)
        # A size of its own, as JAX keeps what it has traced with another backend.
        arguments = tuple(argument.astype(np.float32) for argument in CASES[name].arguments(6))
        traced = jax.jit(weights_of(name)).trace(*arguments)
        for target in ("cpu", platform):
            called = set(_targets(traced.lower(lowering_platforms=(target,)).as_text()))
            assert any("mojd" in function for function in called) == (target == "cpu")
            assert not any("callback" in function for function in called)


def _targets(text: str) -> Iterator[str]:
    for piece in text.split("custom_call @")[1:]:
        yield piece.split("(")[0]


class Compilations:
    """Counts what XLA compiles."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        self.count += event == "/jax/core/compile/backend_compile_duration"


@pytest.fixture
def compilations() -> Iterator[Compilations]:
    counter = Compilations()
    jax.monitoring.register_event_duration_secs_listener(counter)
    yield counter
    jax.monitoring.unregister_event_duration_listener(counter)


class TestCompilation:
    @each_path
    def test_once_for_a_hundred_steps(self, name: str, solver: str, compilations: Compilations) -> None:
        """Whatever the active sets are."""
        traces = 0

        @jax.jit
        def step(*arguments: Any) -> Any:
            nonlocal traces
            traces += 1
            return weights_of(name, solver)(*arguments)

        problems = CASES[name].arguments(100, 5)
        first, *rest = zip(*problems, strict=True)
        step(*first)
        compilations.count = 0
        for arguments in rest:
            step(*arguments)
        active = np.asarray(mojd.solve(mojd.upgrad_problem(problems[0])).active)
        assert len(np.unique(active.reshape(100, -1), axis=0)) > 30
        assert traces == 1
        assert compilations.count == 0

    @each_case
    def test_outside_of_programs(self, name: str, compilations: Compilations) -> None:
        """Nothing is compiled again for arrays of the same shape."""
        problems = [tuple(map(jnp.asarray, CASES[name].arguments(4, seed=seed))) for seed in range(5)]
        weights_of(name)(*problems[0])
        assert compilations.count
        compilations.count = 0
        for arguments in problems[1:]:
            weights_of(name)(*arguments)
        assert compilations.count == 0

    def test_numbers_are_no_constants(self, compilations: Compilations) -> None:
        """τ can follow a schedule."""

        @jax.jit
        def step(G: Any, tau: Any) -> Any:
            return mojd.jax.pcd(G, tau)

        G = gramians(4).astype(np.float32)
        taus = np.linspace(0.0, 0.5, 20, dtype=np.float32)
        step(G, taus[0])
        compilations.count = 0
        found = [step(G, tau) for tau in taus]
        assert compilations.count == 0
        for tau, weights in zip(taus, found, strict=True):
            np.testing.assert_allclose(weights, mojd.pcd(G.astype(float), float(tau)), rtol=1e-5, atol=1e-6)
