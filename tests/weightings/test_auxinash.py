"""AuxiNash: unequal bargaining power, its derivative, and how it is learnt."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mojd
from mojd.weightings import get_method
from tests.reference.families import Floats, symmetric_gramian


def random_problem(k: int, seed: int) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    return symmetric_gramian(rng.standard_normal((k, 2 * k))), rng.dirichlet(np.ones(k)) + 0.01


class TestWorkedValues:
    @pytest.mark.parametrize("p", [(0.5, 0.5), (0.9, 0.1), (0.001, 0.999), (3.0, 5.0)])
    def test_two_objectives(self, p: tuple[float, float]) -> None:
        """For unit gradients, t = y₁y₂ solves (1−ρ²)t² + ρ(p₁+p₂)t − p₁p₂ = 0, and yᵢ² = pᵢ − ρt."""
        rho = -22 / np.sqrt(18 * 38)
        a, b = 1 - rho**2, rho * (p[0] + p[1])
        t = (-b + np.sqrt(b * b + 4 * a * p[0] * p[1])) / (2 * a)
        expected = np.sqrt((np.array(p) - rho * t) / [18.0, 38.0])
        np.testing.assert_allclose(mojd.auxinash([[18.0, -22.0], [-22.0, 38.0]], p), expected, rtol=1e-11)

    def test_equal_power_is_nash_mtl(self) -> None:
        gramian, _ = random_problem(5, 0)
        np.testing.assert_allclose(mojd.auxinash(gramian), mojd.nash_mtl(gramian) / np.sqrt(5), rtol=1e-12)
        np.testing.assert_allclose(mojd.auxinash(gramian, np.ones(5)), mojd.nash_mtl(gramian), rtol=1e-12)

    def test_against_a_conic_solver(self) -> None:
        cvxpy = pytest.importorskip("cvxpy")
        for seed in range(8):
            rng = np.random.default_rng(seed)
            k = 2 + seed % 4
            jacobian, p = rng.standard_normal((k, k + 1)), rng.dirichlet(np.ones(k)) + 0.05
            x = cvxpy.Variable(k)
            objective = 0.5 * cvxpy.sum_squares(jacobian.T @ x) - p @ cvxpy.log(x)
            cvxpy.Problem(cvxpy.Minimize(objective)).solve(solver="CLARABEL")
            # The root of the conic solver's gap of 1e-8 is 1e-4 of a weight of 1, more of a smaller one.
            np.testing.assert_allclose(mojd.auxinash(symmetric_gramian(jacobian), p), x.value, rtol=1e-3)

    def test_no_power_means_no_part_in_the_bargain(self) -> None:
        gramian, _ = random_problem(4, 0)
        p = np.array([0.3, 0.0, 0.5, 0.2])
        weights = mojd.auxinash(gramian, p)
        assert weights[1] == 0.0
        rest = [0, 2, 3]
        expected = mojd.auxinash(gramian[np.ix_(rest, rest)], p[rest])
        np.testing.assert_allclose(weights[rest], expected, rtol=1e-13)

    def test_what_has_no_power_can_not_prevent_a_bargain(self) -> None:
        """The gradient of 0 and the opposite one are left out."""
        gramian = np.array([[4.0, 0.0, -4.0], [0.0, 0.0, 0.0], [-4.0, 0.0, 4.0]])
        assert mojd.auxinash(gramian, [1.0, 0.0, 0.0]).tolist() == [0.5, 0.0, 0.0]
        assert mojd.auxinash(gramian, [0.0, 0.0, 0.0]).tolist() == [0.0, 0.0, 0.0]
        assert mojd.auxinash(gramian, [0.5, 0.0, 0.5]).tolist() == [0.0, 0.0, 0.0]


class TestTheory:
    @given(k=st.integers(1, 6), seed=st.integers(0, 2**32 - 1))
    def test_the_square_of_the_length_is_the_sum_of_the_power(self, k: int, seed: int) -> None:
        gramian, p = random_problem(k, seed)
        weights = mojd.auxinash(gramian, p)
        assert weights @ gramian @ weights == pytest.approx(p.sum(), rel=1e-10)

    def test_preferences_broadcast(self) -> None:
        gramian, p = random_problem(3, 0)
        many = np.stack([p, p[::-1], np.ones(3)])
        expected = np.stack([mojd.auxinash(gramian, row) for row in many])
        assert np.array_equal(mojd.auxinash(gramian[None], many), expected)

    def test_it_is_not_linear_under_scaling(self) -> None:
        assert mojd.auxinash([[1.0]])[0] == 2 * mojd.auxinash([[4.0]])[0] == 1.0


class TestDerivative:
    @pytest.mark.parametrize("k", [1, 2, 3, 6])
    def test_finite_differences(self, k: int) -> None:
        for seed in range(5):
            gramian, p = random_problem(k, seed)
            derivative = mojd.auxinash_derivative(gramian, mojd.auxinash(gramian, p), p)
            for j in range(k):
                h = 1e-4 * p[j] * np.eye(k)[j]
                slope = (mojd.auxinash(gramian, p + h) - mojd.auxinash(gramian, p - h)) / (2 * h[j])
                # h² of the third derivative, relative to 1/p.
                np.testing.assert_allclose(
                    derivative[:, j], slope, rtol=1e-6, atol=1e-7 * abs(derivative).max()
                )

    def test_implicit_function_by_automatic_differentiation(self) -> None:
        torch = pytest.importorskip("torch")
        gramian, p = random_problem(5, 3)
        weights = mojd.auxinash(gramian, p)
        condition = lambda q, w: torch.tensor(gramian) @ w - q / w  # noqa: E731
        by_p, by_w = torch.autograd.functional.jacobian(condition, (torch.tensor(p), torch.tensor(weights)))
        expected = -torch.linalg.solve(by_w, by_p).numpy()
        np.testing.assert_allclose(
            mojd.auxinash_derivative(gramian, weights, p), expected, rtol=1e-10, atol=1e-12
        )

    def test_it_has_no_scale(self) -> None:
        gramian, p = random_problem(3, 0)
        derivative = mojd.auxinash_derivative(gramian, mojd.auxinash(gramian, p), p)
        small = gramian * 2.0**-600
        found = mojd.auxinash_derivative(small, mojd.auxinash(small, p), p)
        np.testing.assert_allclose(found * 2.0**-300, derivative, rtol=1e-12)

    def test_objectives_outside_have_none(self) -> None:
        gramian, _ = random_problem(3, 0)
        p = np.array([0.5, 0.0, 0.5])
        derivative = mojd.auxinash_derivative(gramian, mojd.auxinash(gramian, p), p)
        assert not derivative[1].any() and not derivative[:, 1].any()
        rest = [0, 2]
        part = gramian[np.ix_(rest, rest)]
        expected = mojd.auxinash_derivative(part, mojd.auxinash(part, p[rest]), p[rest])
        np.testing.assert_allclose(derivative[np.ix_(rest, rest)], expected, rtol=1e-12)
        assert not mojd.auxinash_derivative(np.zeros((2, 2)), np.zeros(2)).any()

    def test_batches(self) -> None:
        problems = [random_problem(3, seed) for seed in range(4)]
        gramians, ps = (np.stack(arrays) for arrays in zip(*problems, strict=True))
        weights = mojd.auxinash(gramians, ps)
        together = mojd.auxinash_derivative(gramians, weights, ps)
        for i in range(4):
            alone = mojd.auxinash_derivative(gramians[i], weights[i], ps[i])
            np.testing.assert_allclose(together[i], alone, rtol=1e-13)


class TestUpdate:
    def test_it_is_a_step_down_the_loss_of_the_second_batch(self) -> None:
        """A linear loss g·θ after the step θ − η·Jᵀw(p), differentiated numerically."""
        rng = np.random.default_rng(0)
        jacobian, g, p = rng.standard_normal((3, 7)), rng.standard_normal(7), rng.dirichlet(np.ones(3))
        gramian, eta, step = symmetric_gramian(jacobian), 0.3, 0.01

        def loss(q: Floats) -> float:
            return float(g @ (-eta * jacobian.T @ mojd.auxinash(gramian, q)))

        h = 1e-5
        slope = np.array([(loss(p + h * e) - loss(p - h * e)) / (2 * h) for e in np.eye(3)])
        moved = p - step * slope
        found = mojd.update_preferences(
            p, gramian, mojd.auxinash(gramian, p), jacobian @ g, learning_rate=eta, step_size=step
        )
        np.testing.assert_allclose(found, moved / moved.sum(), rtol=1e-7)

    def test_preferences_stay_positive_and_sum_to_one(self) -> None:
        gramian, p = random_problem(3, 0)
        weights = mojd.auxinash(gramian, p)
        for products in ([1e6, -1e6, 0.0], [-1e6] * 3, [0.0] * 3):
            found = mojd.update_preferences(p, gramian, weights, products, learning_rate=1.0, step_size=1.0)
            assert (found > 0).all()
            assert found.sum() == pytest.approx(1.0, rel=1e-14)

    @pytest.mark.parametrize("argument", ["gramian", "weights", "products"])
    @pytest.mark.parametrize("on_device", [False, True])
    def test_nan_leaves_the_preferences(self, argument: str, on_device: bool) -> None:
        """Of its own problem only; on a device without being asked to."""
        gramian, p = random_problem(3, 0)
        arguments = {
            "gramian": gramian,
            "weights": mojd.auxinash(gramian, p),
            "products": np.array([1.0, -2, 3]),
        }
        expected = mojd.update_preferences(p, **arguments, learning_rate=0.1)
        spoilt = np.stack([arguments[argument]] * 2)
        spoilt[(0,) * spoilt.ndim] = np.nan
        there: dict[str, Any] = arguments | {argument: spoilt}
        if on_device:
            xp = pytest.importorskip("array_api_strict")
            there = {key: xp.asarray(there[key], device=xp.Device("device1")) for key in there}
            found = mojd.update_preferences(p, **there, learning_rate=0.1)
            found = np.from_dlpack(xp.asarray(found, device=xp.Device("CPU_DEVICE")))
        else:
            found = mojd.update_preferences(p, **there, learning_rate=0.1, nonfinite="propagate")
        np.testing.assert_array_equal(found[0], p)
        np.testing.assert_allclose(found[1], expected, rtol=1e-12)
        assert not np.allclose(p, expected, rtol=1e-3)

    def test_no_bargain_changes_nothing(self) -> None:
        p = [0.25, 0.75]
        found = mojd.update_preferences(p, np.zeros((2, 2)), np.zeros(2), [1.0, 2.0], learning_rate=1.0)
        assert found.tolist() == p

    def test_arrays_of_a_library_come_back(self) -> None:
        torch = pytest.importorskip("torch")
        gramian, p = random_problem(3, 0)
        weights = mojd.auxinash(torch.tensor(gramian), torch.tensor(p))
        found = mojd.update_preferences(
            torch.tensor(p), torch.tensor(gramian), weights, torch.ones(3), learning_rate=0.1
        )
        assert isinstance(found, torch.Tensor) and found.dtype == torch.float64
        assert isinstance(mojd.auxinash_derivative(torch.tensor(gramian), weights, p), torch.Tensor)

    def test_devices(self) -> None:
        xp = pytest.importorskip("array_api_strict")
        gramian, p = random_problem(3, 0)
        device = xp.Device("device1")
        there = xp.asarray(gramian.tolist(), device=device)
        weights = mojd.auxinash(there, p)
        products = xp.asarray([1.0, -2.0, 0.5], device=device)
        found = mojd.update_preferences(p, there, weights, products, learning_rate=0.1)
        expected = mojd.update_preferences(
            p, gramian, mojd.auxinash(gramian, p), [1.0, -2.0, 0.5], learning_rate=0.1
        )
        assert found.device == device
        here = np.from_dlpack(xp.asarray(found, device=xp.Device("CPU_DEVICE")))
        np.testing.assert_allclose(here, expected, rtol=1e-12)


class TestErrors:
    def test_bad_preferences(self) -> None:
        with pytest.raises(mojd.InvalidInputError, match=r"pref_vector must have shape \(..., 2\)"):
            mojd.auxinash(np.eye(2), np.ones(3))
        with pytest.raises(
            mojd.InvalidInputError, match=r"pref_vector .* negative entry -1.0 at index \(1,\)"
        ):
            mojd.auxinash(np.eye(2), [1.0, -1.0])

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"learning_rate": -1.0}, "learning_rate must be finite"),
            ({"learning_rate": 1.0, "step_size": np.nan}, "step_size must be finite"),
            ({"learning_rate": 1.0, "smallest": 0.0}, "smallest must lie between 0 and 1/K"),
            ({"learning_rate": 1.0, "smallest": 0.5}, "smallest must lie between 0 and 1/K"),
        ],
    )
    def test_bad_numbers(self, options: dict[str, Any], text: str) -> None:
        with pytest.raises(mojd.InvalidInputError, match=text):
            mojd.update_preferences([0.5, 0.5], np.eye(2), np.ones(2), np.ones(2), **options)

    @pytest.mark.parametrize("option", ["learning_rate", "step_size", "smallest"])
    def test_numbers_that_are_none(self, option: str) -> None:
        options: dict[str, Any] = {"learning_rate": 0.1, option: "a"}
        with pytest.raises(mojd.InvalidTypeError, match=f"{option} must be a number, got str"):
            mojd.update_preferences([0.5, 0.5], np.eye(2), np.ones(2), np.ones(2), **options)

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    @pytest.mark.parametrize("argument", ["pref_vector", "gramian", "weights", "products"])
    def test_nan(self, argument: str, bad: float) -> None:
        arguments: dict[str, Any] = {
            "pref_vector": [0.5, 0.5],
            "gramian": np.eye(2),
            "weights": np.ones(2),
            "products": np.ones(2),
        }
        spoilt = np.array(arguments[argument])
        spoilt[(0,) * spoilt.ndim] = bad
        arguments[argument] = spoilt
        with pytest.raises(mojd.NonFiniteError, match=f"{argument} of shape .* holds {bad}"):
            mojd.update_preferences(**arguments, learning_rate=0.1)

    def test_negative_weights(self) -> None:
        for nonfinite in ("raise", "propagate"):
            with pytest.raises(
                mojd.InvalidInputError, match=r"weights .* negative entry -1.0 at index \(1,\)"
            ):
                mojd.update_preferences(
                    [0.5, 0.5], np.eye(2), [1.0, -1.0], np.ones(2), learning_rate=0.1, nonfinite=nonfinite
                )

    def test_bad_products(self) -> None:
        with pytest.raises(mojd.InvalidInputError, match="products must have shape"):
            mojd.update_preferences([0.5, 0.5], np.eye(2), np.ones(2), np.ones(3), learning_rate=1.0)


def test_residual_with_preferences() -> None:
    residual = get_method("auxinash").residual  # type: ignore[attr-defined]
    gramian, p = random_problem(4, 0)
    weights = mojd.auxinash(gramian, p)
    assert residual(weights, gramian, p) <= 1e-12
    assert residual(weights, gramian) > 1e-3
    p[2] = 0.0
    assert residual(weights, gramian, p) == 1.0
    assert residual(mojd.auxinash(gramian, p), gramian, p) <= 1e-12
