"""Derivatives of the weights against differences, of which some are exact, and against theory."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

import mojd
import mojd.torch
from mojd.torch import _masked_solve
from mojd.torch._masked_solve import solve_on
from tests.reference import exact
from tests.torch.cases import CASES, Weights, derivative, gramian_of, jacobian, preference


def through_jacobian(weights: Weights) -> Weights:
    """From J to w by way of G = J Jᵀ."""
    return lambda J: weights(J @ J.mT)


def through_symmetric(weights: Weights) -> Weights:
    """From any square matrix to the weights of its symmetric part."""
    return lambda G: weights(0.5 * (G + G.mT))


def to_direction(weights: Weights) -> Weights:
    """From J to d = Jᵀw, or to one direction for each row of weights."""

    def direction(J: Tensor) -> Tensor:
        w = weights(J @ J.mT)
        rows = w if w.ndim == J.ndim else w[..., None, :]
        return rows @ J

    return direction


class TestAgainstDifferences:
    @pytest.mark.parametrize("size", range(1, 9))
    @pytest.mark.parametrize("name", CASES)
    def test_through_the_jacobian(self, name: str, size: int) -> None:
        J = jacobian(size, size + 4, seed=size).requires_grad_()
        assert gradcheck(through_jacobian(CASES[name]), J)

    @pytest.mark.parametrize("size", [1, 2, 3, 5])
    @pytest.mark.parametrize("name", CASES)
    def test_through_the_gramian(self, name: str, size: int) -> None:
        G = gramian_of(jacobian(size, size + 4, seed=10 + size)).requires_grad_()
        assert gradcheck(through_symmetric(CASES[name]), G)

    @pytest.mark.parametrize("size", [2, 4, 6])
    @pytest.mark.parametrize("name", CASES)
    def test_the_gradient_is_symmetric(self, name: str, size: int) -> None:
        """It is that of the symmetric part, so that either triangle may be perturbed."""
        G = gramian_of(jacobian(size, size + 3)).requires_grad_()
        (gradient,) = torch.autograd.grad(CASES[name](G).sin().sum(), G)
        assert torch.equal(gradient, gradient.mT)

    @pytest.mark.parametrize("name", CASES)
    def test_batches(self, name: str) -> None:
        J = jacobian(2, 3, 4, 7, seed=3).requires_grad_()
        assert gradcheck(through_jacobian(CASES[name]), J)

    @pytest.mark.parametrize(("size", "parameters"), [(2, 1), (3, 2), (5, 2), (6, 4), (8, 3)])
    @pytest.mark.parametrize("name", CASES)
    def test_direction_of_dependent_gradients(self, name: str, size: int, parameters: int) -> None:
        """K > n: weights are not unique, and d = Jᵀw is."""
        for seed in range(3):
            J = jacobian(size, parameters, seed=seed).requires_grad_()
            assert gradcheck(to_direction(CASES[name]), J)

    @pytest.mark.parametrize("weights", [mojd.torch.upgrad, mojd.torch.dualproj])
    def test_preferences(self, weights: Callable[..., Tensor]) -> None:
        for shapes in (((4, 6), (4,)), ((3, 4, 6), (4,)), ((4, 6), (3, 4)), ((2, 1, 4, 6), (3, 4))):
            J = jacobian(*shapes[0], seed=5).requires_grad_()
            u = (0.1 + jacobian(*shapes[1][:-1], 3, 4, seed=6)[..., 0, :].abs()).requires_grad_()
            assert gradcheck(lambda J, u: weights(J @ J.mT, u), (J, u))

    def test_a_preference_of_zero(self) -> None:
        """UPGrad is linear in u, so that its derivative at 0, to the right, is a number like any other."""
        J, u = jacobian(4, 6), torch.tensor([0.0, 1.0, 0.0, 2.0], dtype=torch.float64, requires_grad=True)
        G = gramian_of(J)
        found = derivative(partial(mojd.torch.upgrad, G), u)
        steps = [mojd.upgrad(G, u.detach() + step) - mojd.upgrad(G, u.detach()) for step in torch.eye(4)]
        torch.testing.assert_close(found, torch.stack(steps, dim=-1), rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("rescale", [False, True])
    @pytest.mark.parametrize("batch", [(), (3,)])
    def test_thresholds_and_scales(self, batch: tuple[int, ...], rescale: bool) -> None:
        J = jacobian(*batch, 5, 8, seed=7).requires_grad_()
        tau = torch.linspace(0.2, 0.6, 4, dtype=torch.float64).requires_grad_()
        scales = torch.linspace(0.5, 2.0, 5, dtype=torch.float64).requires_grad_()

        def weights(J: Tensor, tau: Tensor, scales: Tensor) -> Tensor:
            return mojd.torch.pcd(J @ J.mT, tau, scales=scales, rescale=rescale)

        assert gradcheck(weights, (J, tau, scales))
        common = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        assert gradcheck(weights, (J, common, scales))

    @pytest.mark.parametrize(
        ("U", "J"),
        [((4,), (4, 6)), ((2, 4), (4, 6)), ((2, 4), (3, 4, 6)), ((3, 2, 4), (4, 6)), ((4,), (3, 4, 6))],
    )
    def test_what_is_projected(self, U: tuple[int, ...], J: tuple[int, ...]) -> None:
        rows = torch.randn(*U, dtype=torch.float64, requires_grad=True)
        given = jacobian(*J, seed=8).requires_grad_()
        assert gradcheck(lambda U, J: mojd.torch.project(U, J @ J.mT), (rows, given))

    def test_what_an_active_constraint_hides(self) -> None:
        """v_P does not depend on u_P: the gradient there is 0, and not what rounding leaves of it."""
        G, u = gramian_of(jacobian(6, 8)), torch.ones(6, dtype=torch.float64, requires_grad=True)
        v = mojd.torch.project(u, G)
        (gradient,) = torch.autograd.grad(v.square().sum(), u)
        active = v.detach() > 1.0
        assert active.any()
        assert not gradient[active].any()
        assert gradient[~active].all()


Exact = Callable[[Any], list[Fraction]]


class TestAgainstRationals:
    """Central differences of exact solutions: with h = 2⁻⁴⁰ they are exact to 1e-20 or so."""

    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize(
        ("weights", "solve"),
        [
            (mojd.torch.upgrad, exact.upgrad),
            (mojd.torch.dualproj, exact.dualproj),
            (mojd.torch.mgda, exact.mgda),
            (lambda G: mojd.torch.pcd(G, 0.25), lambda G: exact.pcd(G, 0.25).weights),
        ],
        ids=["upgrad", "dualproj", "mgda", "pcd"],
    )
    def test_along_a_line(self, weights: Weights, solve: Exact, seed: int) -> None:
        J = (jacobian(4, 5, seed=seed) * 64).round() / 64
        E = (jacobian(4, 5, seed=seed + 50) * 64).round() / 64
        h = Fraction(1, 2**40)

        def at(step: Fraction) -> list[Fraction]:
            rows = [
                [Fraction(a) + step * Fraction(b) for a, b in zip(*pair, strict=True)]
                for pair in zip(J.tolist(), E.tolist(), strict=True)
            ]
            return solve([[sum(a * b for a, b in zip(r, s, strict=True)) for s in rows] for r in rows])

        expected = [float((a - b) / (2 * h)) for a, b in zip(at(h), at(-h), strict=True)]
        matrix = derivative(through_jacobian(weights), J)
        found = (matrix * E).sum(dim=(-2, -1))
        assert any(expected)
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-11, atol=1e-12)


class TestSizesAndTypes:
    @pytest.mark.parametrize("name", CASES)
    def test_float32(self, name: str) -> None:
        """Backward computes in float64 and rounds once, to the dtype of each argument."""
        G = gramian_of(jacobian(5, 8)).float()
        double, single = G.double().requires_grad_(), G.clone().requires_grad_()
        (expected,) = torch.autograd.grad(CASES[name](double).sum(), double)
        (found,) = torch.autograd.grad(CASES[name](single).sum(), single)
        assert found.dtype == torch.float32
        torch.testing.assert_close(
            found, expected.float(), rtol=1e-5, atol=1e-6 * float(expected.abs().max())
        )

    @pytest.mark.parametrize("exponent", [-400, -40, 40, 400])
    @pytest.mark.parametrize("name", ["upgrad", "dualproj", "mgda", "pcd"])
    def test_any_scale(self, name: str, exponent: int) -> None:
        """w(c·G) = w(G), so that the gradient is divided by c, exactly for powers of two."""
        G = gramian_of(jacobian(5, 8))
        gradients: list[Tensor] = []
        for factor in (1.0, 2.0**exponent):
            scaled = (G * factor).requires_grad_()
            gradients += torch.autograd.grad(CASES[name](scaled).square().sum(), scaled)
        torch.testing.assert_close(gradients[1] * 2.0**exponent, gradients[0], rtol=1e-9, atol=1e-12)

    def test_more_systems_than_fit_into_one_round(self, monkeypatch: pytest.MonkeyPatch) -> None:
        G = gramian_of(jacobian(2, 9, 12))
        whole = derivative(mojd.torch.upgrad, G)
        monkeypatch.setattr(_masked_solve, "ROUND", 1000)
        parts = derivative(mojd.torch.upgrad, G)
        assert whole.abs().max() > 0
        torch.testing.assert_close(parts, whole, rtol=1e-13, atol=1e-15)

    @pytest.mark.parametrize("name", CASES)
    def test_empty_batches(self, name: str) -> None:
        G = torch.zeros(0, 3, 3, dtype=torch.float64, requires_grad=True)
        w = CASES[name](G)
        assert torch.autograd.grad(w.sum(), G)[0].shape == (0, 3, 3)

    @pytest.mark.parametrize("name", CASES)
    def test_what_is_not_finite(self, name: str) -> None:
        """The gradient of one bad problem is NaN, those of the others are what they are alone."""
        G = gramian_of(jacobian(3, 4, 6))
        alone = G.clone().requires_grad_()
        (expected,) = torch.autograd.grad(CASES[name](alone).sum(), alone)
        G[1, 0, 0] = float("nan")
        G.requires_grad_()
        (found,) = torch.autograd.grad(CASES[name](G).sum(), G)
        assert found[1].isnan().all()
        assert torch.equal(found[[0, 2]], expected[[0, 2]])

    def test_a_gradient_that_is_not_finite(self) -> None:
        G = gramian_of(jacobian(3, 5)).requires_grad_()
        bad = torch.tensor([0.0, float("nan"), 0.0], dtype=G.dtype)
        assert torch.autograd.grad(mojd.torch.upgrad(G), G, bad)[0].isnan().all()


class TestDegenerate:
    """Where the derivative does not exist, it is that of one side, finite, and documented."""

    def test_a_constraint_that_just_begins_to_bind(self) -> None:
        """Orthogonal gradients: w is constant while they agree, and not while they conflict."""
        G = torch.eye(2, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(mojd.torch.upgrad(G)[0], G)
        assert torch.equal(gradient, torch.zeros_like(gradient))

    def test_two_copies_of_a_gradient(self) -> None:
        """G = J Jᵀ with rows that stay equal: d moves as if there were one of them."""
        rows = torch.tensor([[1.0, 0.2], [-1.0, 0.5]], dtype=torch.float64, requires_grad=True)
        copies = torch.tensor([0, 1, 1])

        def doubled(rows: Tensor) -> Tensor:
            return to_direction(lambda G: mojd.torch.dualproj(G, torch.ones(3)))(rows[copies])

        assert gradcheck(doubled, rows)

    @pytest.mark.parametrize("name", CASES)
    @pytest.mark.parametrize(
        "rows",
        [
            [[1.0, 0.0], [-1.0, 0.0]],
            [[1.0, 0.0], [1.0, 0.0], [-2.0, 0.0]],
            [[0.0, 0.0], [1.0, 2.0]],
            [[0.0, 0.0], [0.0, 0.0]],
            [[1.0, 0.0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]],
        ],
    )
    def test_everywhere_finite(self, name: str, rows: list[list[float]]) -> None:
        J = torch.tensor(rows, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(to_direction(CASES[name])(J).sum(), J)
        assert gradient.isfinite().all()

    def test_a_contradiction_leaves_the_primary(self) -> None:
        """Opposite secondaries: the constraints are dropped, and w = (s₀, 0, 0) whatever G is."""
        J = torch.tensor([[1.0, 0.3], [0.0, 1.0], [0.0, -1.0]], dtype=torch.float64)
        G = gramian_of(J).requires_grad_()
        scales = torch.full((3,), 2.0, dtype=torch.float64, requires_grad=True)
        w = mojd.torch.pcd(G, 0.5, scales=scales)
        assert w.tolist() == [2.0, 0.0, 0.0]
        of_gramian, of_scales = torch.autograd.grad(w.sum(), (G, scales))
        assert not of_gramian.any()
        assert of_scales.tolist() == [1.0, 0.0, 0.0]

    def test_a_direction_of_zero_stays(self) -> None:
        G = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64, requires_grad=True)
        w = mojd.torch.pcd(G, 0.0, rescale=True)
        assert w.tolist() == [0.0, 0.0]
        (gradient,) = torch.autograd.grad(w.sum(), G)
        assert gradient.isfinite().all()


class TestMaskedSolve:
    def test_against_one_system_at_a_time(self) -> None:
        A, right = gramian_of(jacobian(3, 6, 9)), jacobian(3, 4, 6, 2)
        active = torch.rand(3, 4, 6) < 0.5
        active[0, 0], active[0, 1] = False, True
        found = solve_on(active, A, right)
        for b in range(3):
            for r in range(4):
                inside = active[b, r].nonzero()[:, 0]
                expected = torch.zeros(6, 2, dtype=torch.float64)
                expected[inside] = torch.linalg.solve(A[b][inside][:, inside], right[b, r][inside])
                torch.testing.assert_close(found[b, r], expected, rtol=1e-11, atol=1e-13)

    def test_least_squares_where_gradients_depend_on_each_other(self) -> None:
        """Whichever solution it is, Jᵀy is the projection of what gave the right-hand side."""
        for scale in (1.0, 1e-6, 1e6):
            J = jacobian(5, 3)
            J[4] = 2.0 * J[0]
            J = J * torch.tensor([1.0, scale, 1.0, 1.0 / scale, 1.0], dtype=J.dtype)[:, None]
            d = jacobian(1, 3, seed=1)[0]
            y = solve_on(
                torch.ones(1, 1, 5, dtype=torch.bool), gramian_of(J)[None], (J @ d)[None, None, :, None]
            )
            torch.testing.assert_close(J.T @ y[0, 0, :, 0], d, rtol=1e-7, atol=1e-7)


class TestRefusals:
    def test_second_derivatives(self) -> None:
        for name, weights in CASES.items():
            G = gramian_of(jacobian(4, 6)).requires_grad_()
            (gradient,) = torch.autograd.grad(weights(G).square().sum(), G, create_graph=True)
            with pytest.raises(mojd.NotDifferentiableError, match="first derivatives only"):
                torch.autograd.grad(gradient.sum(), G)
            assert name

    # What PyTorch itself does on the way.
    @pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
    def test_forward_mode(self) -> None:
        G = gramian_of(jacobian(4, 6))
        for weights in CASES.values():
            with pytest.raises(mojd.NotDifferentiableError, match="no forward-mode derivative"):
                torch.func.jvp(weights, (G,), (G,))

    @pytest.mark.parametrize(
        "name", ["cagrad", "imtl_g", "aligned_mtl", "nash_mtl", "fairgrad", "krum", "config"]
    )
    def test_methods_without_a_derivative(self, name: str) -> None:
        G = gramian_of(jacobian(5, 8)).requires_grad_()
        w = mojd.torch.weighting(name, G)
        with pytest.raises(mojd.NotDifferentiableError, match=f"weighting\\('{name}'.*detach"):
            torch.autograd.grad(w.sum(), G)

    def test_weights_that_are_the_same_for_every_gramian(self) -> None:
        G = gramian_of(jacobian(3, 5)).requires_grad_()
        for name, options in (("mean", {}), ("sum", {}), ("constant", {"weights": [1.0, 2.0, 3.0]})):
            (gradient,) = torch.autograd.grad(mojd.torch.weighting(name, G, **options).sum(), G)
            assert torch.equal(gradient, torch.zeros_like(gradient))
        weights = torch.ones(3, requires_grad=True)
        with pytest.raises(mojd.NotDifferentiableError, match="with respect to its options"):
            torch.autograd.grad(mojd.torch.weighting("constant", G, weights=weights).sum(), weights)


class TestTransforms:
    @pytest.mark.parametrize("name", CASES)
    def test_gradients_of_each_problem(self, name: str) -> None:
        """torch.func.vmap of grad against the tape, one problem after the other."""
        G = gramian_of(jacobian(3, 4, 6))
        found = torch.func.vmap(torch.func.grad(lambda G: CASES[name](G).sin().sum()))(G)
        for own, gradient in zip(G, found, strict=True):
            leaf = own.clone().requires_grad_()
            (expected,) = torch.autograd.grad(CASES[name](leaf).sin().sum(), leaf)
            torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-14)

    def test_gradients_with_respect_to_what_is_shared(self) -> None:
        G, u = gramian_of(jacobian(4, 6)), 0.1 + jacobian(3, 4).abs()
        found = torch.func.vmap(
            torch.func.grad(lambda G, u: mojd.torch.upgrad(G, u).sin().sum(), argnums=(0, 1)), (None, 0)
        )(G, u)
        for i, row in enumerate(u):
            leaves = G.clone().requires_grad_(), row.clone().requires_grad_()
            expected = torch.autograd.grad(mojd.torch.upgrad(*leaves).sin().sum(), leaves)
            for one, other in zip(found, expected, strict=True):
                torch.testing.assert_close(one[i], other, rtol=1e-12, atol=1e-14)

    @pytest.mark.parametrize("name", CASES)
    def test_whole_jacobians(self, name: str) -> None:
        G = gramian_of(jacobian(4, 6))
        expected = derivative(CASES[name], G)
        torch.testing.assert_close(torch.func.jacrev(CASES[name])(G), expected, rtol=1e-12, atol=1e-14)

    def test_the_preference_of_a_batch(self) -> None:
        """A Gramian that several vectors share is solved once, and its gradient is the sum of theirs."""
        G, u = gramian_of(jacobian(4, 6)).requires_grad_(), preference(torch.eye(4, dtype=torch.float64))
        several = torch.stack([u, 2.0 * u, u.flip(0)])
        (found,) = torch.autograd.grad(mojd.torch.upgrad(G, several).sin().sum(), G)
        parts = [torch.autograd.grad(mojd.torch.upgrad(G, row).sin().sum(), G)[0] for row in several]
        torch.testing.assert_close(found, torch.stack(parts).sum(dim=0), rtol=1e-12, atol=1e-13)
