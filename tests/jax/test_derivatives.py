"""Derivatives of the weights: against differences, and against those of the operators of PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mojd.jax
from tests.jax.cases import (
    BY_XLA,
    CASES,
    PATHS,
    conflicting,
    gramians,
    random_cotangent,
    symmetric,
    weights_of,
)

each_case = pytest.mark.parametrize("name", CASES)
each_path = pytest.mark.parametrize(("name", "solver"), PATHS)
# One of each kind, where methods share what is tested.
each_kind = pytest.mark.parametrize("name", ["upgrad, preferring", "mgda", "pcd, rescaled", "project"])


def scalar(name: str, cotangent: Any, solver: str = "auto") -> Any:
    """Return a function of the arguments to one number."""
    weights = weights_of(name, solver)
    return lambda *arguments: jnp.sum(weights(*arguments) * cotangent)


def check_derivatives(function: Callable[..., Any], *arguments: Any) -> None:
    """Compare both modes with a difference along one random direction, all three in one program.

    As jax.test_util.check_grads does, which has XLA compile five.
    """
    rng = np.random.default_rng(11)
    along = tuple(rng.standard_normal(argument.shape) for argument in arguments)
    cotangent = random_cotangent(*jax.eval_shape(function, *arguments).shape)

    @jax.jit
    def program(*at: Any) -> tuple[Any, ...]:
        weights, pushed = jax.jvp(function, at, along)
        again, pull = jax.vjp(function, *at)
        return function(*at), weights, again, pushed, pull(cotangent)

    plain, *others, forward, backward = program(*arguments)
    for weights in others:
        np.testing.assert_allclose(weights, plain, rtol=1e-12, atol=1e-13)
    step = 1e-5
    after, before = (
        np.asarray(program(*(a + change for a, change in zip(arguments, changes, strict=True)))[0])
        for changes in ([step * change for change in along], [-step * change for change in along])
    )
    difference = (after - before) / (2.0 * step)
    np.testing.assert_allclose(forward, difference, rtol=1e-7, atol=1e-7)
    pulled = sum(np.vdot(gradient, change) for gradient, change in zip(backward, along, strict=True))
    np.testing.assert_allclose(pulled, np.vdot(cotangent, difference), rtol=1e-7, atol=1e-7)


@pytest.mark.usefixtures("x64")
class TestAgainstDifferences:
    """Third derivatives times 1e-10, and rounding over 1e-5, leave ten digits."""

    @staticmethod
    def check(name: str, solver: str, *shape: int) -> None:
        arguments = CASES[name].arguments(*shape, seed=shape[-1])
        check_derivatives(symmetric(weights_of(name, solver)), *arguments)

    @pytest.mark.parametrize("size", [2, 5])
    @each_case
    def test_one_problem(self, name: str, size: int) -> None:
        self.check(name, "auto", size)

    @pytest.mark.parametrize("shape", [(2, 2, 5)])
    @each_case
    def test_batches(self, name: str, shape: tuple[int, ...]) -> None:
        self.check(name, "auto", *shape)

    @pytest.mark.parametrize("name", BY_XLA)
    def test_by_xla_alone(self, name: str) -> None:
        self.check(name, "xla", 2, 5)

    @pytest.mark.parametrize("name", ["upgrad", "dualproj", "mgda", "pcd"])
    def test_through_the_jacobian(self, name: str) -> None:
        J = conflicting(4, 7)
        check_derivatives(lambda J: weights_of(name)(J @ J.T), J)


@pytest.mark.usefixtures("x64")
class TestAgainstPyTorch:
    """Both are the derivative of the weights of the symmetric part, by different code."""

    @pytest.mark.parametrize("shape", [(2,), (3,), (9,), (4, 6)])
    @each_case
    def test_gradients(self, name: str, shape: tuple[int, ...]) -> None:
        torch = pytest.importorskip("torch")
        import mojd.torch

        arguments = CASES[name].arguments(*shape)
        leaves = [torch.from_numpy(argument).requires_grad_() for argument in arguments]
        weights = CASES[name].call(mojd.torch, *leaves)
        cotangent = random_cotangent(*weights.shape)
        (weights * torch.from_numpy(cotangent)).sum().backward()
        found = jax.jit(jax.grad(scalar(name, cotangent), argnums=tuple(range(len(arguments)))))(*arguments)
        for leaf, gradient in zip(leaves, found, strict=True):
            assert gradient.shape == leaf.shape
            np.testing.assert_allclose(gradient, leaf.grad.numpy(), rtol=1e-10, atol=1e-10)

    @each_case
    def test_dependent_gradients(self, name: str) -> None:
        """K > n: weights are not unique, and d = Jᵀw is, and so is its derivative with respect to J."""
        torch = pytest.importorskip("torch")
        import mojd.torch

        others = CASES[name].arguments(5)[1:]
        for seed in range(3):
            # Much in common, or d would be 0 whatever J is.
            J = conflicting(5, 3, seed=seed) + np.array([3.0, 1.0, 0.0])
            leaf = torch.from_numpy(J).requires_grad_()
            rest = [torch.from_numpy(other) for other in others]
            weights = CASES[name].call(mojd.torch, leaf @ leaf.mT, *rest)
            cotangent = random_cotangent(*weights.shape[:-1], 3)
            ((weights @ leaf) * torch.from_numpy(cotangent)).sum().backward()

            def loss(J: Any, cotangent: Any = cotangent) -> Any:
                return jnp.sum((weights_of(name)(J @ J.T, *others) @ J) * cotangent)

            found = jax.jit(jax.grad(loss))(J)
            scale = np.abs(leaf.grad.numpy()).max()
            assert scale > 1e-3
            np.testing.assert_allclose(found, leaf.grad.numpy(), rtol=1e-9, atol=1e-9 * scale)


class TestShapesOfGradients:
    @pytest.mark.usefixtures("x64")
    @each_path
    def test_that_of_the_gramian_is_symmetric(self, name: str, solver: str) -> None:
        arguments = CASES[name].arguments(5)
        shape = (3, 5) if name == "project" else (5,)
        found = jax.jit(jax.grad(scalar(name, random_cotangent(*shape), solver)))(*arguments)
        assert np.abs(found).max() > 1e-3
        np.testing.assert_allclose(found, found.T, rtol=1e-13, atol=1e-15)

    @pytest.mark.usefixtures("x64")
    @each_kind
    def test_a_batch_is_its_problems(self, name: str) -> None:
        arguments = CASES[name].arguments(4, 5)
        function = jax.jit(jax.jacrev(weights_of(name), argnums=tuple(range(len(arguments)))))
        together = jax.jit(jax.vmap(function))(*arguments)
        for i in range(4):
            alone = function(*(argument[i] for argument in arguments))
            for whole, part in zip(together, alone, strict=True):
                np.testing.assert_allclose(whole[i], part, rtol=1e-12, atol=1e-13)

    @pytest.mark.usefixtures("x64")
    @each_kind
    def test_forward_is_backward_transposed(self, name: str) -> None:
        arguments = CASES[name].arguments(5)
        every = tuple(range(len(arguments)))
        forward = jax.jit(jax.jacfwd(weights_of(name), every))(*arguments)
        backward = jax.jit(jax.jacrev(weights_of(name), every))(*arguments)
        for one, other in zip(forward, backward, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-13)


class TestLittlePrecision:
    @each_path
    def test_float32_without_x64(self, name: str, solver: str) -> None:
        """Computed in float64, and rounded once, whatever JAX is set to."""
        arguments = [argument.astype(np.float32) for argument in CASES[name].arguments(5)]
        shape = (3, 5) if name == "project" else (5,)
        loss = scalar(name, random_cotangent(*shape).astype(np.float32), solver)
        every = tuple(range(len(arguments)))
        found = jax.jit(jax.grad(loss, every))(*arguments)
        with jax.enable_x64(True):
            doubles = [argument.astype(np.float64) for argument in arguments]
            expected = [np.asarray(gradient) for gradient in jax.jit(jax.grad(loss, every))(*doubles)]
        for single, double in zip(found, expected, strict=True):
            assert single.dtype == jnp.float32
            assert np.isfinite(single).all()
            np.testing.assert_allclose(single, double, rtol=1e-4, atol=1e-5 * np.abs(double).max())

    @each_kind
    def test_forward_mode_without_x64(self, name: str) -> None:
        arguments = tuple(argument.astype(np.float32) for argument in CASES[name].arguments(3, 4))
        changes = tuple(argument.astype(np.float32) for argument in CASES[name].arguments(3, 4, seed=1))
        weights, change = jax.jit(lambda a, b: jax.jvp(weights_of(name), a, b))(arguments, changes)
        assert weights.dtype == change.dtype == jnp.float32
        with jax.enable_x64(True):
            at, along = (tuple(a.astype(np.float64) for a in part) for part in (arguments, changes))
            expected = np.asarray(jax.jvp(weights_of(name), at, along)[1])
        np.testing.assert_allclose(change, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())

    @pytest.mark.usefixtures("x64")
    @each_kind
    def test_float32_with_x64(self, name: str) -> None:
        arguments = [argument.astype(np.float32) for argument in CASES[name].arguments(5)]
        every = tuple(range(len(arguments)))
        for gradient in jax.jit(jax.grad(lambda *given: weights_of(name)(*given).sum(), every))(*arguments):
            assert gradient.dtype == jnp.float32
            assert np.isfinite(gradient).all()


@pytest.mark.usefixtures("x64")
class TestWhatIsNotFinite:
    @each_path
    def test_one_problem_of_a_batch(self, name: str, solver: str) -> None:
        """Its gradient is NaN, and those of the others are what they are alone."""
        arguments = CASES[name].arguments(3, 5)
        shape = (3, 3, 5) if name == "project" else (3, 5)
        gradient = jax.jit(jax.grad(scalar(name, random_cotangent(*shape), solver)))
        expected = np.asarray(gradient(*arguments))
        arguments[0][1, 0, 0] = np.nan
        found = np.asarray(gradient(*arguments))
        assert np.isnan(found[1]).all()
        assert np.isfinite(expected).all()
        np.testing.assert_allclose(found[[0, 2]], expected[[0, 2]], rtol=1e-13, atol=1e-15)


@pytest.mark.usefixtures("x64")
class TestDegenerate:
    """Where the derivative does not exist, it is finite."""

    @each_case
    def test_everywhere_finite(self, name: str) -> None:
        opposite, zero, none = [[1.0, 0.0], [-1.0, 0.0]], [[0.0, 0.0], [1.0, 2.0]], [[0.0, 0.0], [0.0, 0.0]]
        orthogonal = [[1.0, 0.0], [0.0, 1.0]]
        rows = np.array([opposite, opposite[::-1], zero, none, orthogonal])
        self.check(name, rows)
        self.check(name, np.array([[[1.0, 0.0], [1.0, 0.0], [-2.0, 0.0]], [[0.0, 0.0]] * 3]))

    @staticmethod
    def check(name: str, rows: Any) -> None:
        others = CASES[name].arguments(rows.shape[-2])[1:]

        def loss(J: Any) -> Any:
            return jnp.sum(weights_of(name)(J @ J.T, *others) @ J)

        assert np.isfinite(jax.jit(jax.vmap(jax.grad(loss)))(jnp.asarray(rows))).all()

    def test_a_gradient_of_zero_for_what_does_not_matter(self) -> None:
        """Orthogonal gradients, before they conflict: weights do not depend on the Gramian there."""
        G = 2.0 * np.eye(3) + 0.5
        found = jax.jit(jax.grad(lambda G: mojd.jax.upgrad(G) @ jnp.arange(3.0)))(G)
        assert not found.any()

    def test_large_and_small(self) -> None:
        """w(c·G) = w(G), so that the gradient is divided by c, exactly for powers of two."""
        G, gradient = gramians(5), jax.jit(jax.grad(lambda G: mojd.jax.upgrad(G)[0]))
        for factor in (2.0**-400, 2.0**400):
            np.testing.assert_allclose(gradient(G * factor) * factor, gradient(G), rtol=1e-10, atol=1e-14)
