"""Jacobians as pytrees: products and sums leaf by leaf, against one flat float64 matrix."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mojd.jax
from mojd.errors import InvalidInputError, InvalidTypeError
from tests.jax.problems import flat

SHAPES: dict[str, tuple[int, ...]] = {"scalar": (), "row": (7,), "matrix": (4, 6), "kernel": (3, 2, 5, 2)}


def jacobian(size: int = 3, dtype: Any = jnp.float32, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=(size, *shape)), dtype) for name, shape in SHAPES.items()}


def as_matrix(tree: Any) -> np.ndarray[Any, Any]:
    return np.concatenate(
        [np.asarray(leaf, np.float64).reshape(len(leaf), -1) for leaf in jax.tree.leaves(tree)], 1
    )


class TestGramian:
    @pytest.mark.parametrize("size", [1, 2, 3, 8])
    def test_is_that_of_the_flat_jacobian(self, x64: None, size: int) -> None:
        tree = jacobian(size, jnp.float64)
        found = mojd.jax.gramian(tree)
        assert found.dtype == jnp.float64
        np.testing.assert_allclose(found, as_matrix(tree) @ as_matrix(tree).T, rtol=1e-13, atol=1e-13)

    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
    def test_adds_up_narrow_numbers_in_float32(self, dtype: Any) -> None:
        """300² and the sum of 1000 of them are infinite in float16 and have two digits in bfloat16."""
        tree = {"w": jnp.full((2, 10, 100), 301.0, dtype)}
        value = float(tree["w"][0, 0, 0])
        found = mojd.jax.gramian(tree)
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, 1000 * value**2, rtol=1e-5)

    def test_takes_leaves_of_several_dtypes(self) -> None:
        tree = jacobian() | {"half": jnp.ones((3, 2), jnp.bfloat16)}
        np.testing.assert_allclose(
            mojd.jax.gramian(tree), as_matrix(tree) @ as_matrix(tree).T, rtol=1e-5, atol=1e-5
        )

    def test_complex_numbers_are_pairs_of_real_ones(self, x64: None) -> None:
        parts = jacobian(3, jnp.float64, 1), jacobian(3, jnp.float64, 2)
        tree = jax.tree.map(lambda re, im: re + 1j * im, *parts)
        pair = as_matrix(list(parts))
        found = mojd.jax.gramian(tree)
        assert found.dtype == jnp.float64
        np.testing.assert_allclose(found, pair @ pair.T, rtol=1e-13, atol=1e-13)

    def test_forms_no_other_shape_of_a_leaf(self) -> None:
        """A sharded leaf that is brought into the shape (K, n) has to be gathered."""
        text = str(jax.make_jaxpr(mojd.jax.gramian)(jacobian()))
        assert text.count("dot_general") == len(SHAPES)
        for word in ("reshape", "concatenate", "transpose", "broadcast"):
            assert word not in text

    def test_under_vmap(self, x64: None) -> None:
        trees = [jacobian(3, jnp.float64, seed) for seed in range(4)]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
        found = jax.vmap(mojd.jax.gramian)(stacked)
        for tree, each in zip(trees, found, strict=True):
            np.testing.assert_allclose(each, as_matrix(tree) @ as_matrix(tree).T, rtol=1e-12, atol=1e-12)


class TestCombine:
    def test_is_the_sum_of_weighted_gradients(self, x64: None) -> None:
        tree, weights = jacobian(3, jnp.float64), np.array([0.5, 0.0, -2.0])
        found = mojd.jax.combine(tree, weights)
        assert {name: leaf.shape for name, leaf in found.items()} == SHAPES
        np.testing.assert_allclose(flat(found), flat_sum(tree, weights), rtol=1e-13, atol=1e-13)

    def test_leaves_keep_their_dtypes(self) -> None:
        tree = {
            "a": jnp.ones((2, 3), jnp.bfloat16),
            "b": jnp.ones((2, 3)),
            "c": jnp.ones((2, 3), jnp.complex64),
        }
        found = mojd.jax.combine(tree, jnp.array([1.0, 0.25]))
        assert [leaf.dtype for leaf in found.values()] == [jnp.bfloat16, jnp.float32, jnp.complex64]
        assert all(np.allclose(np.asarray(leaf, np.complex64), 1.25) for leaf in found.values())

    def test_sums_of_narrow_numbers_are_rounded_once(self) -> None:
        """256 + 1 − 256 is 0 when it is added up in bfloat16, and 1 in float32."""
        tree = jnp.array([[256.0], [1.0], [256.0]], jnp.bfloat16)
        assert float(mojd.jax.combine(tree, jnp.array([1.0, 1.0, -1.0]))[0]) == 1.0

    def test_weights_keep_their_digits_beside_narrow_gradients(self) -> None:
        tree = jnp.array([[256.0], [256.0]], jnp.bfloat16)
        assert float(mojd.jax.combine(tree, jnp.array([1.00390625, -1.0]))[0]) == 1.0


def flat_sum(tree: Any, weights: Any) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = as_matrix(tree).T @ weights
    return found


class TestErrors:
    @pytest.mark.parametrize(
        ("tree", "error", "message"),
        [
            ({}, InvalidInputError, "no leaves"),
            ({"w": jnp.ones((2, 3)), "x": jnp.ones((3, 3))}, InvalidInputError, r"jacobian\['x'\] holds 3"),
            ({"w": jnp.ones(())}, InvalidInputError, r"jacobian\['w'\] has shape \(\)"),
            ({"w": jnp.ones((0, 3))}, InvalidInputError, "objectives"),
            ({"w": jnp.ones((2, 3), jnp.int32)}, InvalidTypeError, r"jacobian\['w'\] has dtype int32"),
            ({"w": "text"}, InvalidTypeError, "must be an array, got str"),
        ],
    )
    def test_of_jacobians(self, tree: Any, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            mojd.jax.gramian(tree)
        with pytest.raises(error, match=message):
            mojd.jax.combine(tree, jnp.ones(2))

    def test_of_weights(self) -> None:
        with pytest.raises(InvalidInputError, match=r"shape \(3,\); got shape \(2,\)"):
            mojd.jax.combine(jacobian(3), jnp.ones(2))
        with pytest.raises(InvalidTypeError, match="complex64"):
            mojd.jax.combine(jacobian(3), jnp.ones(3, jnp.complex64))
