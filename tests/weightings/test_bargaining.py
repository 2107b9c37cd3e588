"""Nash-MTL, AuxiNash and FairGrad: what their shared Newton method owes to all three."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import mojd
from mojd.properties.strategies import Example, examples
from mojd.weightings import _bargaining_newton, get_method
from mojd.weightings._double_double import solve_shifted
from mojd.weightings._registry import Weighting
from tests.reference.families import FAMILIES, Floats, symmetric_gramian

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "nash_mtl": ("nash_mtl", {}),
    "auxinash": ("auxinash", {}),
    "fairgrad": ("fairgrad", {}),
    "fairgrad_half": ("fairgrad", {"alpha": 0.5}),
    "fairgrad_five": ("fairgrad", {"alpha": 5.0}),
}
STATIONARY = (
    "antiparallel",
    "antiparallel_grid",
    "zero_rows",
    "zero_rows_grid",
    "all_zero",
    "equicorrelated_singular",
    "strongly_stationary",
    "strongly_stationary_grid",
    "weakly_stationary",
    "weakly_stationary_grid",
)


@pytest.fixture(params=METHODS)
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


def gramian_of(jacobian: Any) -> Floats:
    return symmetric_gramian(np.asarray(jacobian, float))


def random_gramian(k: int, seed: int) -> Floats:
    return gramian_of(np.random.default_rng(seed).standard_normal((k, 2 * k)))


class TestFamilies:
    @pytest.mark.parametrize("family", [f for f in FAMILIES if f not in ("float32_low_rank",)])
    def test_every_gramian_has_an_answer(
        self, weigh: Callable[..., Any], miss: Callable[..., Any], family: str
    ) -> None:
        """A residual beyond rounding of 1e-10, no conflict, and no weight that is not finite."""
        for k in (1, 2, 3, 5, 16):
            if k < FAMILIES[family].min_size:
                continue
            gramian = FAMILIES[family].sample(k, np.random.default_rng(k)).gramian
            weights = weigh(gramian)
            assert np.isfinite(weights).all()
            assert miss(weights, gramian) <= 1e-10
            assert (weights > 0).all() or not weights.any()
            norms = np.sqrt(np.diagonal(gramian))
            assert (gramian @ weights >= -1e-12 * norms * (weights @ norms)).all()

    @pytest.mark.parametrize("family", STATIONARY)
    @pytest.mark.parametrize("k", [3, 5, 16, 64])
    def test_no_bargain_where_a_combination_vanishes(
        self, weigh: Callable[..., Any], family: str, k: int
    ) -> None:
        for seed in range(4):
            gramian = FAMILIES[family].sample(k, np.random.default_rng(seed)).gramian
            assert not weigh(gramian).any()

    @pytest.mark.parametrize("family", ["random", "clustered", "near_duplicates", "duplicates", "row_scales"])
    def test_a_bargain_where_none_vanishes(self, weigh: Callable[..., Any], family: str) -> None:
        for k in (2, 5, 16):
            gramian = FAMILIES[family].sample(k, np.random.default_rng(0)).gramian
            assert (weigh(gramian) > 0).all()

    def test_iterations_are_few(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Measured: 8 for Nash-MTL, 73 for FairGrad with 64 norms up to 1e24 apart."""
        taken, step = [0], _bargaining_newton._step

        def counted(*arguments: Any) -> Any:
            taken[0] += 1
            return step(*arguments)

        monkeypatch.setattr(_bargaining_newton, "_step", counted)
        for method, limit in ((mojd.nash_mtl, 15), (mojd.fairgrad, 90)):
            for family in FAMILIES:
                if family == "float32_low_rank":
                    continue
                for k in (3, 16, 64):
                    taken[0] = 0
                    sample = FAMILIES[family].sample(
                        max(k, FAMILIES[family].min_size), np.random.default_rng(0)
                    )
                    method(sample.gramian)
                    assert taken[0] <= limit, (family, k)

    @pytest.mark.parametrize("gap", [1e-2, 1e-4, 1e-5, 1e-6, 3e-7])
    def test_nearly_opposite(self, gap: float) -> None:
        """Rows (1, gap), (−1, gap): by symmetry, 2·gap²·w² = 1, for as long as G sees the gap."""
        gramian = gramian_of([[1.0, gap], [-1.0, gap]])
        seen = float(gramian[0, 0]) + float(gramian[0, 1])
        np.testing.assert_allclose(mojd.nash_mtl(gramian), 1 / np.sqrt(seen), rtol=1e-8)


def drawn(count: int) -> list[Floats]:
    """Jacobians of all structures, stacked by their shapes: a batch is one by one, and takes less time."""
    found: dict[tuple[int, ...], list[Floats]] = {}

    @settings(max_examples=count, derandomize=True, database=None, deadline=None, phases=(Phase.generate,))
    @given(examples(k=(1, 6), n=(1, 6)))
    def draw(example: Example) -> None:
        found.setdefault(example.jacobian.shape, []).append(example.jacobian)

    draw()
    return [np.stack(jacobians) for jacobians in found.values()]


@pytest.fixture(scope="module")
def stacks() -> list[Floats]:
    return drawn(3000)


class TestStructures:
    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("nash_mtl", {}),
            ("auxinash", {}),
            *[("fairgrad", {"alpha": a}) for a in (0.1, 0.5, 1.0, 2.0, 10.0)],
        ],
    )
    def test_all_have_a_bargain_or_none(
        self, stacks: list[Floats], name: str, options: dict[str, float]
    ) -> None:
        method = get_method(name)
        assert isinstance(method, Weighting) and method.residual is not None
        for jacobians in stacks:
            gramians = jacobians @ np.matrix_transpose(jacobians)
            weights = method.weights(gramians, **options)
            assert np.isfinite(weights).all()
            assert (method.residual(weights, gramians, **options) <= 1e-10).all()
            assert (np.asarray(mojd.properties.conflict(gramians, weights)) <= 1e-12).all()

    @pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0, 2.0, 10.0])
    def test_parallel_gradients_that_a_third_nearly_cancels(self, alpha: float) -> None:
        """Gains are 1 : 2, so that weights are 1 : 2^−α. Bent steps left the valley of their sum."""
        gramian = gramian_of([[0.0, 1.0], [0.0, 2.0], [2.0**-16, -1.0]])
        weights = mojd.fairgrad(gramian, alpha)
        np.testing.assert_allclose(weights[1] / weights[0], 2.0**-alpha, rtol=1e-12)

    @pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 10.0])
    def test_duplicates_share_alike(self, alpha: float) -> None:
        """With an alpha of 0.5, what makes them share is 1e-17 of the curvature across: below rounding.

        With 0.1, gains are 1e-53, and no weights in float64 say anything about them.
        """
        near = [-1.0, -2.0, 1.0 + 2.0**-16]
        gramian = gramian_of([[1.0, 2.0, -1.0], [1.0, 1.0, -3.0], near, [1.0, 2.0, -1.0]])
        weights = mojd.fairgrad(gramian, alpha)
        np.testing.assert_allclose(weights[3] / weights[0], 1.0, rtol=1e-12)


def rational_solution(matrix: Floats, shift: Floats, right: Floats) -> list[float]:
    """Eliminate with Gauss and Jordan, without a rounding error."""
    rows = [[Fraction(float(value)) for value in [*row, b]] for row, b in zip(matrix, right, strict=True)]
    for i, extra in enumerate(shift):
        rows[i][i] += Fraction(float(extra))
    for i in range(len(rows)):
        rows[i] = [value / rows[i][i] for value in rows[i]]
        for j in set(range(len(rows))) - {i}:
            factor = rows[j][i]
            rows[j] = [a - factor * b for a, b in zip(rows[j], rows[i], strict=True)]
    return [float(row[-1]) for row in rows]


class TestTwiceThePrecision:
    def test_against_rationals(self) -> None:
        """A is singular, and the shift as little as 2⁻⁶⁰: in float64 there is hardly a correct digit."""
        rng = np.random.default_rng(0)
        jacobians = rng.integers(-4, 5, (20, 5, 3)).astype(float)
        matrices = jacobians @ np.matrix_transpose(jacobians)
        shifts, rights = 2.0 ** -rng.integers(20, 60, (20, 5)), rng.standard_normal((20, 5))
        found, definite = solve_shifted(np, matrices, shifts, rights)
        assert definite.all()
        for matrix, shift, right, x in zip(matrices, shifts, rights, found, strict=True):
            expected = rational_solution(matrix, shift, right)
            # 2⁻¹⁰⁴ times a condition number of 2⁶³.
            np.testing.assert_allclose(x, expected, rtol=1e-12)

    def test_indefinite_matrices_are_seen(self) -> None:
        matrix = np.array([[[1.0, 1.0], [1.0, 1.0 - 2.0**-40]]])
        for shift, expected in ((2.0**-42, False), (2.0**-38, True)):
            _, definite = solve_shifted(np, matrix, np.full((1, 2), shift), np.ones((1, 2)))
            assert definite.tolist() == [[expected]]


class TestExactness:
    @pytest.mark.parametrize("k", [1, 2, 3, 4, 7])
    def test_products_in_rational_arithmetic(self, k: int) -> None:
        """x·(Gx) = 1 for Gramians of integers, without a rounding error on the side of the test."""
        rng = np.random.default_rng(k)
        for _ in range(10):
            gramian = gramian_of(rng.integers(-5, 6, (k, 2 * k)) + 2.0)
            x = [Fraction(float(value)) for value in mojd.nash_mtl(gramian)]
            if not any(x):
                continue
            rows = [[Fraction(float(value)) for value in row] for row in gramian]
            for i in range(k):
                products = [rows[i][j] * x[j] for j in range(k)]
                slack = Fraction(4e-16) * sum(abs(p) for p in products) * x[i]
                assert abs(x[i] * sum(products) - 1) <= Fraction(2e-13) + 2 * slack

    def test_diagonal_gramians(self, name: str, weigh: Callable[..., Any]) -> None:
        squares = np.array([1.0, 4.0, 0.25, 1e6, 1e-6])
        alpha = METHODS[name][1].get("alpha", 2.0 if name.startswith("fairgrad") else 1.0)
        power = (1 / 5 if name == "auxinash" else 1.0) ** 0.5
        expected = power * squares ** (-alpha / (1 + alpha))
        np.testing.assert_allclose(weigh(np.diag(squares)), expected, rtol=1e-12)

    def test_duplicates_share(self, weigh: Callable[..., Any]) -> None:
        weights = weigh(gramian_of([[1.0, 2.0], [1.0, 2.0], [3.0, -1.0]]))
        assert weights[0] == pytest.approx(weights[1], rel=1e-12)

    def test_opposite_and_zero_rows(self, weigh: Callable[..., Any]) -> None:
        assert weigh(gramian_of([[1.0, 2.0], [-1.0, -2.0], [3.0, -1.0]])).tolist() == [0.0, 0.0, 0.0]
        assert weigh(gramian_of([[1.0, 2.0], [0.0, 0.0]])).tolist() == [0.0, 0.0]
        assert weigh([[0.0]]).tolist() == [0.0]

    @pytest.mark.parametrize("exponent", [-498, 498])
    def test_lengths_far_from_one(self, name: str, weigh: Callable[..., Any], exponent: int) -> None:
        """Entries of 1e±150 and what scaling all of J by 2^k does to the weights."""
        gramian = random_gramian(4, 0)
        alpha = METHODS[name][1].get("alpha", 2.0 if name.startswith("fairgrad") else 1.0)
        expected = weigh(gramian) * 2.0 ** (-exponent * alpha / (1 + alpha))
        np.testing.assert_allclose(weigh(gramian * 2.0**exponent), expected, rtol=1e-11)


class TestShapes:
    @given(k=st.integers(1, 6), seed=st.integers(0, 2**32 - 1), power=st.integers(-3, 3))
    def test_a_batch_is_its_problems_one_by_one(self, k: int, seed: int, power: int) -> None:
        rng = np.random.default_rng(seed)
        jacobians = rng.standard_normal((3, k, 2 * k)) * 10.0 ** (power * rng.uniform(-1, 1, (3, k, 1)))
        gramians = np.stack([gramian_of(jacobian) for jacobian in jacobians])
        order = rng.permutation(k)
        for method in (mojd.nash_mtl, mojd.auxinash, mojd.fairgrad):
            together = method(gramians)
            for gramian, weights in zip(gramians, together, strict=True):
                np.testing.assert_allclose(method(gramian), weights, rtol=1e-10)
            moved = method(gramians[:, order][:, :, order])
            np.testing.assert_allclose(moved, together[:, order], rtol=1e-7)

    def test_empty(self, weigh: Callable[..., Any]) -> None:
        assert weigh(np.zeros((0, 3, 3))).shape == (0, 3)
        assert weigh(np.zeros((2, 0, 3, 3))).shape == (2, 0, 3)

    def test_single_precision(self, weigh: Callable[..., Any]) -> None:
        gramian = np.array([[4.0, -2.0, 1.0], [-2.0, 8.0, -3.0], [1.0, -3.0, 6.0]])
        weights = weigh(gramian.astype(np.float32))
        assert weights.dtype == np.float32
        np.testing.assert_allclose(weights, weigh(gramian), rtol=1e-6)

    def test_single_precision_of_low_rank(self, weigh: Callable[..., Any]) -> None:
        """Slightly indefinite Gramians: finite weights, and none that oppose a gradient beyond rounding."""
        for seed in range(20):
            jacobian = np.random.default_rng(seed).standard_normal((8, 4)).astype(np.float32)
            jacobian[:, 0] = abs(jacobian[:, 0]) + 0.1
            gramian = jacobian @ jacobian.T
            weights = weigh(gramian)
            assert np.isfinite(weights).all()
            assert weights.any()
            direction = jacobian.T @ weights
            norms = np.linalg.norm(jacobian, axis=1)
            assert (jacobian @ direction >= -1e-4 * norms * (weights @ norms)).all()


class TestErrors:
    def test_bad_gramians(self, weigh: Callable[..., Any]) -> None:
        with pytest.raises(mojd.InvalidInputError, match=r"gramian must have shape \(..., K, K\)"):
            weigh(np.zeros((2, 3)))
        with pytest.raises(mojd.InvalidInputError, match="not symmetric"):
            weigh([[1.0, 0.5], [0.0, 1.0]])
        with pytest.raises(mojd.NonFiniteError, match=r"gramian .* nan at index \(0, 1\)"):
            weigh([[1.0, np.nan], [0.0, 1.0]])

    def test_nan_spoils_one_problem(self, weigh: Callable[..., Any]) -> None:
        gramians = np.stack([np.eye(2), np.full((2, 2), np.nan), 4.0 * np.eye(2)])
        weights = weigh(gramians, nonfinite="propagate")
        assert np.isnan(weights).all(axis=1).tolist() == [False, True, False]

    def test_a_solver_that_gives_up_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_bargaining_newton, "_CPU_ITERATIONS", 1)
        with pytest.raises(mojd.SolverError, match="gave up on 1 of 1 problems"):
            mojd.nash_mtl([[1.0, -0.9, 0.1], [-0.9, 1.0, 0.0], [0.1, 0.0, 1.0]])


class TestResidual:
    def test_wrong_weights_are_seen(self, weigh: Callable[..., Any], miss: Callable[..., Any]) -> None:
        for seed in range(30):
            gramian = random_gramian(5, seed)
            weights = weigh(gramian)
            assert miss(weights, gramian) <= 1e-12
            for i in range(5):
                wrong = weights.copy()
                wrong[i] *= 1 + 1e-6
                assert miss(wrong, gramian) > 1e-7
                wrong[i] *= -1
                assert miss(wrong, gramian) == 1.0
            assert miss(np.zeros(5), gramian) == 1.0
            assert miss(weigh(gramian + 1e-4 * np.eye(5)), gramian) > 1e-7
            assert miss(2 * weights, gramian) > 0.1

    def test_it_has_no_scale(self, weigh: Callable[..., Any], miss: Callable[..., Any]) -> None:
        gramian = random_gramian(5, 0)
        for factor in (2.0**-300, 2.0**300):
            wrong = weigh(gramian * factor) * np.array([1.0, 1.01, 1.0, 1.0, 1.0])
            reference = miss(weigh(gramian) * np.array([1.0, 1.01, 1.0, 1.0, 1.0]), gramian)
            assert miss(wrong, gramian * factor) == pytest.approx(reference, rel=1e-8)

    def test_nothing_is_right_where_there_is_no_bargain(self, miss: Callable[..., Any]) -> None:
        gramian = gramian_of([[1.0, 0.0], [-1.0, 0.0]])
        assert miss(np.zeros(2), gramian) == 0.0
        assert miss(np.ones(2), gramian) == 1.0

    def test_batches(self, weigh: Callable[..., Any], miss: Callable[..., Any]) -> None:
        gramians = np.stack([random_gramian(3, seed) for seed in range(6)]).reshape(2, 3, 3, 3)
        assert miss(weigh(gramians), gramians).shape == (2, 3)
