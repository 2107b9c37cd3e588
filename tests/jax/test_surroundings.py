"""What users set, wrap and pass around mojd.jax, and what must not come of it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mojd
import mojd.jax

METHODS = ("upgrad", "dualproj", "mgda", "pcd")
GRAMIAN = np.array([[1.0, -0.5, 0.1], [-0.5, 2.0, -0.3], [0.1, -0.3, 0.5]], np.float32)


def losses(params: Any, x: Any) -> Any:
    return jnp.stack([((x @ params) ** 2).mean(), ((x @ params - 1) ** 2).mean()])


class TestSettings:
    @pytest.mark.parametrize("x64", [False, True])
    @pytest.mark.parametrize("name", METHODS)
    def test_strict_promotion_of_dtypes(self, name: str, x64: bool) -> None:
        function = getattr(mojd.jax, name)
        with jax.enable_x64(x64), jax.numpy_dtype_promotion("strict"):
            G = jnp.asarray(GRAMIAN)
            weights = function(G)
            assert jnp.isfinite(jax.grad(lambda G: function(G)[0])(G)).all()
            assert jnp.array_equal(jax.vmap(function)(G[None])[0], weights)
        np.testing.assert_allclose(weights, getattr(mojd, name)(GRAMIAN), rtol=1e-6)

    @pytest.mark.parametrize("x64", [False, True])
    def test_strict_promotion_in_training(self, x64: bool) -> None:
        with jax.enable_x64(x64), jax.numpy_dtype_promotion("strict"):
            params, x = jnp.ones(3, jnp.float32), jnp.ones((4, 3), jnp.float32)
            _, direction = mojd.jax.value_and_direction(losses)(params, x)
        assert direction.dtype == jnp.float32

    def test_debug_nans_stops_at_nothing_that_is_right(self) -> None:
        with jax.debug_nans(True):
            assert mojd.jax.solve(jnp.eye(2), jnp.ones(2)).status == mojd.Status.OPTIMAL
            assert not mojd.jax.certified("upgrad", jnp.eye(2)).solution.ray.any()


class TestShapes:
    @pytest.mark.parametrize("name", METHODS)
    def test_mapping_over_nothing(self, name: str) -> None:
        none = jnp.zeros((0, 4, 4))
        assert jax.vmap(getattr(mojd.jax, name))(none).shape == (0, 4)
        assert jax.vmap(jax.grad(lambda G: getattr(mojd.jax, name)(G)[0]))(none).shape == (0, 4, 4)

    def test_mapping_over_no_rows_of_one_gramian(self) -> None:
        found = jax.vmap(lambda U: mojd.jax.project(U, jnp.eye(4)))(jnp.zeros((0, 4)))
        assert found.shape == (0, 4)


class TestNumbersOfNumPy:
    def test_are_numbers(self) -> None:
        G = jnp.asarray(GRAMIAN)
        expected = mojd.jax.pcd(G, 0.5)
        for tau in (np.float64(0.5), np.float32(0.5)):
            assert jnp.array_equal(mojd.jax.pcd(G, tau), expected)
            assert jnp.array_equal(jax.jit(lambda G, tau=tau: mojd.pcd(G, tau))(G), expected)
        picked = mojd.jax.weighting("krum", jnp.eye(5), n_byzantine=np.int64(1))
        assert jnp.array_equal(picked, mojd.jax.weighting("krum", jnp.eye(5), n_byzantine=1))

    def test_in_options_of_training(self) -> None:
        params, x = jnp.ones(3), jnp.ones((4, 3))
        whole = mojd.jax.value_and_direction(losses)(params, x)
        count: Any = np.int64(2)
        parts = mojd.jax.value_and_direction(losses, micro_batches=count)(params, x)
        np.testing.assert_allclose(whole[1], parts[1], rtol=1e-6)


class TestStates:
    def test_are_arguments_that_others_see(self) -> None:
        """jax.jit and Equinox look names of arguments up in signatures."""
        weighting = mojd.jax.pcd_weighting(tau=np.float64(0.1))
        function = mojd.jax.value_and_direction(losses, weighting)
        params, x, state = jnp.ones(3), jnp.ones((4, 3)), weighting.init(2)
        _, expected, _ = function(params, x, state=state)
        donating = jax.jit(function, donate_argnames=("state",))
        np.testing.assert_allclose(donating(params, x, state=weighting.init(2))[1], expected, rtol=1e-6)
        equinox = pytest.importorskip("equinox")
        np.testing.assert_allclose(
            equinox.filter_jit(function)(params, x, state=state)[1], expected, rtol=1e-6
        )

    def test_none_is_no_state(self) -> None:
        function = mojd.jax.value_and_direction(losses, mojd.jax.pcd_weighting())
        with pytest.raises(mojd.InvalidTypeError, match=r"state=weighting\.init\(K\)"):
            function(jnp.ones(3), jnp.ones((4, 3)), state=None)


class TestDerivativesOfPCD:
    def test_are_zero_where_a_primary_of_zero_halts(self) -> None:
        def weights(G: Any) -> Any:
            return mojd.jax.pcd(G, 0.1, rescale=True)

        for G in (jnp.zeros((2, 2)), jnp.array([[0.0, 0.0], [0.0, 5.0]])):
            assert not jax.jacrev(weights)(G).any()
            assert not jax.jacfwd(weights)(G).any()


class TestWhatIsNoGramian:
    @pytest.mark.parametrize(
        "matrix",
        [
            [[1.0, -0.5], [-0.2, 1.0]],
            [[-1.0, 0.5], [0.5, 1.0]],
            [[1.0, -0.5], [-0.5, -1.0]],
            [[1.0, -2.0], [-2.0, 1.0]],
            [[1.0, -0.5, 0.0], [-0.5, 1.0, 0.5], [0.0, 0.1, 1.0]],
        ],
    )
    @pytest.mark.parametrize("name", METHODS)
    def test_has_weights_of_nan(self, name: str, matrix: list[list[float]]) -> None:
        assert jnp.isnan(getattr(mojd.jax, name)(jnp.array(matrix))).all()


class TestDerivativesAreSymmetric:
    @pytest.mark.parametrize("name", [*METHODS, "imtl_g"])
    def test_as_those_of_the_symmetric_part(self, name: str) -> None:
        def weights(G: Any) -> Any:
            return mojd.jax.weighting(name, G)

        found = jax.jacrev(weights)(jnp.asarray(GRAMIAN))
        np.testing.assert_allclose(found, jnp.swapaxes(found, -1, -2), atol=1e-6)
        expected = jax.jacrev(lambda G: weights(0.5 * (G + G.T)))(jnp.asarray(GRAMIAN))
        np.testing.assert_allclose(found, expected, atol=1e-6)


class TestOptions:
    def test_a_misspelt_one_is_an_error(self) -> None:
        with pytest.raises(mojd.InvalidTypeError, match="taus is no option of pcd; did you mean 'tau'"):
            mojd.jax.certified("pcd", jnp.eye(2), taus=0.5)
