"""What a step tells of itself: angles and norms, status, active set, residual and certificate."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import mojd
import mojd.torch
from mojd import Status
from mojd.torch import StepInfo
from tests.reference import exact
from tests.reference.families import symmetric_gramian

PROGRAMMES: dict[str, Callable[..., Any]] = {
    "upgrad": mojd.upgrad,
    "upgrad_preferences": functools.partial(mojd.upgrad, pref_vector=np.array([0.1, 0.5, 2.0, 1.0])),
    "dualproj": mojd.dualproj,
    "dualproj_preferences": functools.partial(mojd.dualproj, pref_vector=np.array([0.1, 0.5, 2.0, 1.0])),
    "mgda": mojd.mgda,
    "pcd": functools.partial(mojd.pcd, tau=0.3),
    "pcd_scaled": functools.partial(mojd.pcd, tau=0.3, scales=np.array([0.5, 2.0, 1.0, 3.0])),
    "pcd_rescaled": functools.partial(mojd.pcd, tau=0.3, scales=np.array([0.5, 2.0, 1.0, 3.0]), rescale=True),
}


def example(seed: int, n: int = 3) -> tuple[Any, torch.Tensor]:
    jacobian = np.random.default_rng(seed).standard_normal((4, n))
    return jacobian, torch.from_numpy(symmetric_gramian(jacobian))


def info_of(function: Callable[..., Any], gramian: torch.Tensor) -> StepInfo:
    return StepInfo(gramian, torch.as_tensor(function(gramian)), function)


class TestGeometry:
    def test_against_the_jacobian(self) -> None:
        for seed in range(5):
            jacobian, gramian = example(seed, n=6)
            info = info_of(mojd.upgrad, gramian)
            d = jacobian.T @ info.weights.numpy()
            norms = np.linalg.norm(jacobian, axis=1)
            np.testing.assert_allclose(info.norms, norms, rtol=1e-14)
            np.testing.assert_allclose(info.direction_norm, np.linalg.norm(d), rtol=1e-12)
            np.testing.assert_allclose(info.cosines, jacobian @ d / norms / np.linalg.norm(d), atol=1e-7)
            assert len(info) == 4

    def test_zero_gradients_and_directions(self) -> None:
        info = info_of(mojd.sum, torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))
        assert info.direction_norm == 0.0
        assert info.cosines.tolist() == [0.0, 0.0, 0.0]

    def test_nothing_is_read_before_it_is_asked_for(self) -> None:
        """Meta tensors have no values: reading one raises."""
        info = StepInfo(torch.empty(3, 3, device="meta"), torch.empty(3, device="meta"), mojd.upgrad)
        assert info.norms.device.type == info.cosines.device.type == "meta"
        assert info.direction_norm.shape == ()
        assert len(info) == 3


class TestProgrammes:
    @pytest.mark.parametrize("name", PROGRAMMES)
    @pytest.mark.parametrize("n", [3, 6])
    def test_the_solution_is_certified(self, name: str, n: int) -> None:
        """Rank-deficient Gramians (n = 3) need not have a bound, but do have a residual."""
        for seed in range(8):
            _, gramian = example(seed, n)
            info = info_of(PROGRAMMES[name], gramian)
            assert info.residual is not None and info.certificate is not None
            assert info.residual < 1e-9
            if info.status == Status.INFEASIBLE:
                assert name.startswith("pcd") and n == 3 and math.isnan(info.certificate)
                continue
            assert info.status == Status.OPTIMAL and info.certificate >= 0
            # √ of rounding: the bound is that of a duality gap.
            assert n == 3 or info.certificate < 1e-5 * float(info.norms.max())

    @pytest.mark.parametrize("name", PROGRAMMES)
    @pytest.mark.parametrize("size", [1e-6, 1e-3, 0.1])
    def test_the_bound_holds_for_weights_that_are_wrong(self, name: str, size: float) -> None:
        """It is no smaller than the true distance, and no more than what was done to the weights explains."""
        rng = np.random.default_rng(0)
        for seed in range(8):
            jacobian, gramian = example(seed, n=6)
            function = PROGRAMMES[name]
            truth = np.asarray(function(gramian))
            weights = truth + size * rng.standard_normal(4) * truth.max()
            info = StepInfo(gramian, torch.from_numpy(weights), function)
            distance = float(np.linalg.norm(jacobian.T @ (weights - truth)))
            assert info.certificate is not None and info.residual is not None
            assert distance * (1 - 1e-9) <= info.certificate <= distance + 1e-5 * np.abs(jacobian).max()
            assert info.residual > 1e-3 * size

    @pytest.mark.parametrize("name", ["dualproj", "upgrad", "mgda", "pcd", "pcd_rescaled"])
    def test_the_bound_against_exact_arithmetic(self, name: str) -> None:
        """On integer Gramians, whose solution is known as fractions."""
        jacobian = np.array([[4.0, -3.0, 1.0], [-2.0, 5.0, 0.0], [1.0, -1.0, -3.0], [0.0, 2.0, -2.0]])
        gramian = jacobian @ jacobian.T
        function = PROGRAMMES[name]
        info = info_of(function, torch.from_numpy(gramian))
        found = jacobian.T @ info.weights.numpy()
        truth = jacobian.T @ exact_weights(name, gramian)
        assert info.certificate is not None
        assert float(np.linalg.norm(found - truth)) <= info.certificate + 1e-14 * np.linalg.norm(truth)

    def test_active_losses(self) -> None:
        gramian = torch.tensor([[1.0, -0.5, 0.0], [-0.5, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
        assert info_of(mojd.upgrad, gramian).active == (0, 1)
        assert info_of(mojd.dualproj, gramian).active == ()
        assert info_of(functools.partial(mojd.pcd, tau=0.0), gramian).active == (1,)
        assert info_of(functools.partial(mojd.pcd, tau=0.1), gramian).active == (1, 2)
        long = torch.diag(torch.tensor([1.0, 1.0, 1e6], dtype=torch.float64))
        assert info_of(mojd.mgda, long).active == (0, 1, 2)

    def test_contradictions(self) -> None:
        gramian = torch.tensor([[1.0, 0.3, -0.3], [0.3, 1.0, -1.0], [-0.3, -1.0, 1.0]], dtype=torch.float64)
        info = info_of(mojd.pcd, gramian)
        assert info.status == Status.INFEASIBLE
        assert info.weights.tolist() == [1.0, 0.0, 0.0]
        assert info.residual is not None and info.residual < 1e-12

    @pytest.mark.parametrize("name", ["upgrad", "dualproj"])
    def test_stationary_points_are_solved(self, name: str) -> None:
        """G·u = 0 up to rounding is no contradiction."""
        rng = np.random.default_rng(3)
        rows = rng.standard_normal((4, 3))
        rows[3] = -rows[:3].sum(axis=0)
        info = info_of(PROGRAMMES[name], torch.from_numpy(symmetric_gramian(rows)))
        assert info.status == Status.OPTIMAL

    def test_one_loss(self) -> None:
        gramian = torch.tensor([[4.0]], dtype=torch.float64)
        for function in (mojd.upgrad, mojd.mgda, mojd.pcd, mojd.dualproj):
            info = info_of(function, gramian)
            assert info.status == Status.OPTIMAL and info.certificate is not None and info.certificate < 1e-6

    def test_options_as_tensors(self) -> None:
        _, gramian = example(0)
        function = functools.partial(
            mojd.pcd, tau=torch.tensor([0.1, 0.2, 0.3]), scales=torch.tensor([1.0, 2.0, 1.0, 1.0])
        )
        info = info_of(function, gramian)
        assert info.residual is not None and info.residual < 1e-9
        assert info.certificate is not None and info.certificate < 1e-5

    def test_float32(self) -> None:
        _, gramian = example(0, n=6)
        info = info_of(mojd.upgrad, gramian.float())
        assert info.residual is not None and 0 < info.residual < 1e-5
        assert info.certificate is not None and info.certificate < 1e-3
        assert info.cosines.dtype == info.norms.dtype == torch.float32


def exact_weights(name: str, gramian: Any) -> Any:
    """Weights in fractions, by enumeration, rounded at the end; rescaled after that."""
    if not name.startswith("pcd"):
        return np.array([float(v) for v in getattr(exact, name)(gramian)])
    options = PROGRAMMES[name].keywords  # type: ignore[attr-defined]
    weights = np.array([float(v) for v in exact.pcd(gramian, options["tau"], options.get("scales")).weights])
    factor = math.sqrt(gramian[0, 0] / (weights @ gramian @ weights)) if options.get("rescale") else 1.0
    return factor * weights


class TestOtherMethods:
    def test_methods_with_a_residual_alone(self) -> None:
        _, gramian = example(0, n=6)
        info = info_of(functools.partial(mojd.cagrad, c=0.4), gramian)
        assert info.status is None and info.active is None and info.certificate is None
        assert info.residual is not None and info.residual < 1e-6

    def test_functions_that_mojd_does_not_know(self) -> None:
        _, gramian = example(0)
        info = StepInfo(gramian, torch.ones(4, dtype=torch.float64), lambda g: g[0])
        assert (info.status, info.active, info.certificate, info.residual) == (None, None, None, None)

    def test_no_function(self) -> None:
        _, gramian = example(0)
        info = StepInfo(gramian, torch.ones(4, dtype=torch.float64))
        assert (info.status, info.active, info.certificate, info.residual) == (None, None, None, None)

    @pytest.mark.parametrize("function", [mojd.upgrad, mojd.cagrad, None])
    def test_nan(self, function: Any) -> None:
        info = StepInfo(torch.full((2, 2), math.nan), torch.full((2,), math.nan), function)
        assert info.status == Status.NONFINITE
        assert info.active == ()
        assert info.residual is not None and math.isnan(info.residual)
        assert info.certificate is not None and math.isnan(info.certificate)
        assert "NONFINITE" in repr(info)


class TestRepr:
    def test_a_programme(self) -> None:
        lines = repr(info_of(mojd.dualproj, torch.tensor([[1.0, -2.0], [-2.0, 5.0]]))).split("\n")
        assert lines[0] == "StepInfo: 2 losses, weights of dualproj"
        assert lines[1].startswith("  ‖d‖ 0.5  status OPTIMAL  residual ")
        assert lines[3].split() == ["0", "1", "1", "0", "yes"]
        assert lines[4].split() == ["1", "2.236", "0.5", "0.4472"]

    def test_a_function_of_the_user(self) -> None:
        def halves(gramian: torch.Tensor) -> torch.Tensor:
            return torch.full_like(gramian[0], 0.5)

        text = repr(info_of(halves, torch.eye(2)))
        assert "weights of halves" in text and "status unknown" in text and "active" not in text

    def test_many_losses(self) -> None:
        text = repr(info_of(mojd.mean, torch.eye(40)))
        assert text.endswith("... and 24 more")
