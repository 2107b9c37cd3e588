"""Solutions as arrays: statuses, residuals, rays and active sets of programs are those of the core."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mojd
import mojd.jax
from mojd import NNQP, Status
from tests.jax.cases import gramians
from tests.reference import certify
from tests.reference.families import Floats, symmetric_gramian

SOLVERS = ("auto", "xla")


def mixed_problems() -> tuple[Floats, Floats]:
    """Return problems with a solution, with a ray, with NaN, and a matrix that is no Gramian."""
    opposite = symmetric_gramian(np.array([[1.0, 2.0], [-1.0, -2.0], [2.0, -1.0], [0.0, 1.0]]))
    unbounded = opposite @ np.array([1.0, 2.0, 0.5, 0.25]) - np.array([0.01, 0.0, 0.0, 0.0])
    plain = gramians(4)
    indefinite = np.eye(4)
    indefinite[:3, :3] += -0.9 * (1.0 - np.eye(3))
    G = np.stack([plain, opposite, opposite, np.full((4, 4), np.nan), indefinite])
    return G, np.stack([-plain[0], unbounded, opposite[2], np.ones(4), indefinite[0]])


@pytest.mark.usefixtures("x64")
class TestSolve:
    @pytest.mark.parametrize(
        "transform", [jax.jit, lambda function: jax.jit(jax.vmap(function)), lambda f: f]
    )
    def test_all_statuses(self, transform: Any) -> None:
        G, q = mixed_problems()
        found = transform(mojd.jax.solve)(G, q)
        assert found.status.tolist() == [
            *(Status.OPTIMAL, Status.INFEASIBLE, Status.OPTIMAL, Status.NONFINITE, Status.MAX_ITER)
        ]
        assert np.isnan(found.x[jnp.array([1, 3, 4])]).all()
        assert np.isnan(found.kkt_residual[jnp.array([1, 3])]).all()
        assert certify.is_ray(G[1], q[1], found.ray[1])
        assert not found.ray[jnp.array([0, 2, 3, 4])].any()
        for b in (0, 2):
            core = mojd.solve(NNQP(G[b], q[b]))
            np.testing.assert_allclose(found.x[b], core.x, rtol=1e-13, atol=1e-15)
            assert np.array_equal(found.active[b], core.active)
            assert certify.kkt_residual(G[b], q[b], found.x[b]) <= 1e-14
            np.testing.assert_allclose(found.kkt_residual[b], core.kkt_residual, atol=1e-15)

    def test_by_xla_alone(self) -> None:
        G, q = (part[:4] for part in mixed_problems())
        found = jax.jit(partial(mojd.jax.solve, solver="xla"))(G, q)
        assert found.status.tolist() == [
            *(Status.OPTIMAL, Status.INFEASIBLE, Status.OPTIMAL, Status.NONFINITE)
        ]
        assert certify.is_ray(G[1], q[1], found.ray[1])
        for b in (0, 2):
            assert certify.kkt_residual(G[b], q[b], found.x[b]) <= 1e-14

    def test_a_bad_answer_is_known_as_one(self) -> None:
        """The residual is computed from the problem and x, and not taken from the solver."""
        G = gramians(6, 5)
        solution = jax.jit(mojd.jax.solve)(G, -G[:, 0])
        assert solution.kkt_residual.shape == (6,)
        assert float(solution.kkt_residual.max()) <= 1e-14
        assert (np.asarray(solution.iterations) >= 0).all()

    @pytest.mark.parametrize(
        ("left", "right", "batch"), [((), (4,), (4,)), ((3,), (), (3,)), ((2, 1), (4,), (2, 4))]
    )
    def test_broadcasting(
        self, left: tuple[int, ...], right: tuple[int, ...], batch: tuple[int, ...]
    ) -> None:
        G, q = gramians(*left, 3), np.random.default_rng(0).standard_normal((*right, 3))
        found = jax.jit(mojd.jax.solve)(G, q)
        core = mojd.solve(NNQP(G, q))
        assert found.x.shape == (*batch, 3)
        assert found.status.shape == found.kkt_residual.shape == batch
        np.testing.assert_allclose(found.x, core.x, rtol=1e-12, atol=1e-14)

    @pytest.mark.parametrize("mapped", [(True, True), (True, False), (False, True)])
    @pytest.mark.parametrize("solver", SOLVERS)
    def test_mapped(self, solver: str, mapped: tuple[bool, bool]) -> None:
        """Over three Gramians in each of which there are two right-hand sides, one of both being the same."""
        size = 4
        G, q = gramians(size, 3, 5), np.random.default_rng(1).standard_normal((size, 3, 2, 5))
        G, q = G if mapped[0] else G[0], q if mapped[1] else q[0]

        def solve(G: Any, q: Any) -> Any:
            return mojd.jax.solve(G[:, None], q, solver=solver).x

        axes = tuple(0 if is_mapped else None for is_mapped in mapped)
        found = jax.jit(jax.vmap(solve, in_axes=axes))(G, q)
        for i in range(size):
            core = mojd.solve(NNQP((G[i] if mapped[0] else G)[:, None], q[i] if mapped[1] else q))
            np.testing.assert_allclose(found[i], core.x, rtol=1e-12, atol=1e-13)

    def test_derivative(self) -> None:
        """Of x with respect to q: −(G_PP)⁻¹ on the passive set, and 0 elsewhere."""
        G, q = mixed_problems()
        matrix = np.asarray(jax.jit(jax.jacfwd(lambda q: mojd.jax.solve(G[0], q).x))(q[0]))
        passive = np.flatnonzero(mojd.solve(NNQP(G[0], q[0])).active)
        expected = np.zeros((4, 4))
        expected[np.ix_(passive, passive)] = -np.linalg.inv(G[0][np.ix_(passive, passive)])
        np.testing.assert_allclose(matrix, expected, rtol=1e-12, atol=1e-14)

    @pytest.mark.parametrize("bits", [8, 12, 16])
    def test_derivative_of_nearly_dependent_rows(self, bits: int) -> None:
        """Rows 2⁻ᵇ apart, on exact integers: no more is lost than the condition of the system takes."""
        gap = 2.0**-bits
        J = np.array([[4.0, 0.0, 0.0], [-1.0, 1.0, 0.0], [-1.0, 1.0, gap]])
        G = J @ J.T
        q = np.array([1.0, 0.0, 0.0]) - G @ np.array([0.0, 1.0, 1.0])
        found = np.asarray(jax.jit(jax.jacfwd(lambda q: mojd.jax.solve(G, q).x))(q))
        inverse = np.array([[G[2, 2], -G[1, 2]], [-G[1, 2], G[1, 1]]]) / (2.0 * gap**2)
        assert not found[0].any() and not found[:, 0].any()
        condition = 2.0**-52 / gap**2
        np.testing.assert_allclose(found[1:, 1:], -inverse, rtol=10 * condition)


class TestWithoutX64:
    def test_float32(self) -> None:
        G, q = (part.astype(np.float32) for part in mixed_problems())
        found = jax.jit(mojd.jax.solve)(G[:2], q[:2])
        assert found.x.dtype == found.kkt_residual.dtype == jnp.float32
        assert found.status.tolist()[0] == Status.OPTIMAL
        core = mojd.solve(NNQP(G[0].astype(float), q[0].astype(float)))
        np.testing.assert_allclose(found.x[0], core.x, rtol=1e-6, atol=1e-7)
        assert np.array_equal(found.active[0], core.active)


@pytest.mark.usefixtures("x64")
class TestCertified:
    @pytest.mark.parametrize("name", ["upgrad", "dualproj", "mgda", "pcd"])
    def test_weights_and_solution(self, name: str) -> None:
        G, K = gramians(6, 5), 5
        found = jax.jit(partial(mojd.jax.certified, name))(G)
        np.testing.assert_allclose(found.weights, getattr(mojd, name)(G), rtol=1e-12, atol=1e-14)
        core = mojd.solve(getattr(mojd, f"{name}_problem")(G))
        assert found.solution.x.shape == {"upgrad": (6, K, K), "pcd": (6, K - 1)}.get(name, (6, K))
        assert np.array_equal(found.solution.active, core.active)
        assert not np.asarray(found.solution.status).any()
        assert float(found.solution.kkt_residual.max()) <= 1e-13

    def test_options(self) -> None:
        G, u = gramians(4), np.array([1.0, 0.0, 2.0, 0.5])
        found = jax.jit(lambda G, u: mojd.jax.certified("upgrad", G, pref_vector=u))(G, u)
        np.testing.assert_allclose(found.weights, mojd.upgrad(G, u), rtol=1e-12, atol=1e-14)

    def test_contradictions(self) -> None:
        """PCD's constraints are dropped, and the status says so."""
        J = np.array([[1.0, 0.3], [0.0, 1.0], [0.0, -1.0]])
        found = jax.jit(partial(mojd.jax.certified, "pcd", tau=0.5))(J @ J.T)
        assert int(found.solution.status) == Status.INFEASIBLE
        assert found.weights.tolist() == [1.0, 0.0, 0.0]
        problem = mojd.pcd_problem(J @ J.T, 0.5)
        assert certify.is_ray(problem.gramian, problem.linear, found.solution.ray)

    def test_what_has_no_programme(self) -> None:
        with pytest.raises(mojd.InvalidInputError, match="cagrad"):
            mojd.jax.certified("cagrad", jnp.eye(3))
