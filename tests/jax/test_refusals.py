"""How the weightings of JAX say no: in programs for shapes and types, outside of them for values too."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mojd
import mojd.jax
from mojd.weightings import Weighting, registered_weightings


def named(method: Weighting) -> str:
    return method.name


class TestRefusals:
    @pytest.mark.parametrize("name", ["upgrad", "dualproj", "mgda", "pcd"])
    @pytest.mark.parametrize("shape", [(3,), (2, 3), (4, 3, 2), (0, 0)])
    def test_shapes(self, name: str, shape: tuple[int, ...]) -> None:
        """In a program too: shapes are known there."""
        function = getattr(mojd.jax, name)
        for call in (function, jax.jit(function)):
            with pytest.raises(mojd.InvalidInputError, match=r"gramian.*\(" + ", ".join(map(str, shape))):
                call(jnp.ones(shape))

    @pytest.mark.parametrize("transform", [lambda function: function, jax.jit])
    def test_shapes_beside_the_gramian(self, transform: Any) -> None:
        G = jnp.eye(3)
        for function in (mojd.jax.upgrad, mojd.jax.dualproj):
            with pytest.raises(mojd.InvalidInputError, match=r"pref_vector.*\(2,\)"):
                transform(function)(G, jnp.ones(2))
        with pytest.raises(mojd.InvalidInputError, match=r"tau.*\(3,\)"):
            transform(mojd.jax.pcd)(G, jnp.full(3, 0.1))
        with pytest.raises(mojd.InvalidInputError, match=r"scales.*\(2,\)"):
            transform(lambda G, scales: mojd.jax.pcd(G, scales=scales))(G, jnp.ones(2))
        with pytest.raises(mojd.InvalidInputError, match=r"U.*\(2, 4\)"):
            transform(mojd.jax.project)(jnp.ones((2, 4)), G)
        with pytest.raises(mojd.InvalidInputError, match="pref_vector"):
            transform(mojd.jax.upgrad)(jnp.ones((2, 3, 3)), jnp.ones((4, 3)))

    def test_types(self) -> None:
        torch = pytest.importorskip("torch")
        with pytest.raises(mojd.InvalidTypeError, match=r"torch\.Tensor.*mojd\.upgrad"):
            mojd.jax.upgrad(torch.eye(3))
        with pytest.raises(mojd.InvalidTypeError, match="gramian"):
            mojd.jax.upgrad("G")

    def test_values_where_they_are_known(self) -> None:
        """Those of NumPy and of Python; for an array of JAX, one would have to wait."""
        G = jnp.eye(3)
        for function in (mojd.jax.upgrad, mojd.jax.dualproj):
            with pytest.raises(mojd.InvalidInputError, match=r"pref_vector.*-1"):
                function(G, np.array([1.0, -1.0, 1.0]))
        for tau in (1.5, -0.1, np.array([0.5, 1.5])):
            with pytest.raises(mojd.InvalidInputError, match=r"tau.*\[0, 1\]"):
                mojd.jax.pcd(G, tau)
        with pytest.raises(mojd.InvalidInputError, match=r"scales.*-1"):
            mojd.jax.pcd(G, scales=np.array([1.0, 1.0, -1.0]))

    @pytest.mark.parametrize("name", ["upgrad", "dualproj"])
    def test_what_is_no_gramian(self, name: str) -> None:
        """Every pair of rows could be gradients, all of them can't: NaN, as nothing can be raised."""
        G = np.eye(4)
        G[:3, :3] += -0.9 * (1.0 - np.eye(3))
        found = np.asarray(jax.jit(getattr(mojd.jax, name))(np.stack([G, np.eye(4)])))
        assert np.isnan(found[0]).all()
        assert np.isfinite(found[1]).all()

    def test_solvers(self) -> None:
        with pytest.raises(mojd.InvalidInputError, match=r"solver='xls' is not known.*xla"):
            mojd.jax.upgrad(jnp.eye(3), solver="xls")
        with pytest.raises(mojd.InvalidInputError, match="solver 'osqp'"):
            jax.jit(partial(mojd.jax.upgrad, solver="osqp"))(jnp.eye(3))

    @pytest.mark.parametrize("method", [m for m in registered_weightings() if m.is_stateful], ids=named)
    def test_methods_with_a_state(self, method: Weighting) -> None:
        with pytest.raises(mojd.InvalidInputError, match=rf"'{method.name}' has a state"):
            mojd.jax.weighting(method.name, jnp.eye(3))

    def test_options(self) -> None:
        with pytest.raises(mojd.InvalidTypeError, match=r"radius is no option of cagrad, which has: c"):
            mojd.jax.weighting("cagrad", jnp.eye(3), radius=0.5)

    def test_unknown_methods(self) -> None:
        with pytest.raises(mojd.InvalidInputError, match=r"'upgard' is not known.*upgrad"):
            mojd.jax.weighting("upgard", jnp.eye(3))
