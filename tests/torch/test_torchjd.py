"""mojd's solver in TorchJD's UPGrad and DualProj."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torchjd.aggregation import DualProj, UPGrad, UPGradWeighting
from torchjd.autogram import Engine
from torchjd.autojac import backward, jac_to_grad

import mojd
from mojd.torch import MojdProjector
from tests.torch.cases import gramian_of, jacobian, preference


class TestWeights:
    @pytest.mark.parametrize("shape", [(1, 3), (2, 5), (5, 8), (9, 4), (33, 40)])
    def test_are_those_of_mojd(self, shape: tuple[int, int]) -> None:
        """UPGrad sums K projections in TorchJD and in one kernel here."""
        J = jacobian(*shape)
        found = UPGrad(projector=MojdProjector())(J)
        expected = J.T @ mojd.upgrad(J @ J.T)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12 * float(J.norm()))
        found = DualProj(projector=MojdProjector())(J)
        expected = J.T @ mojd.dualproj(J @ J.T)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12 * float(J.norm()))

    def test_preferences(self) -> None:
        J = jacobian(4, 6)
        u = preference(J @ J.T)
        found = UPGradWeighting(u, projector=MojdProjector())(J @ J.T)
        torch.testing.assert_close(found, mojd.upgrad(J @ J.T, u), rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("batch", [(), (3,), (2, 3), (2, 1, 3)])
    def test_any_number_of_vectors(self, batch: tuple[int, ...]) -> None:
        G = gramian_of(jacobian(4, 6))
        U = torch.randn(*batch, 4, dtype=torch.float64)
        found = MojdProjector()(U, G)
        assert found.shape == U.shape
        for one, row in zip(found.reshape(-1, 4), U.reshape(-1, 4), strict=True):
            torch.testing.assert_close(one, mojd.project(row, G), rtol=1e-12, atol=1e-13)

    def test_the_dtype_is_that_of_the_gramian(self) -> None:
        G = gramian_of(jacobian(3, 5)).float()
        assert MojdProjector()(torch.eye(3, dtype=torch.float64), G).dtype == torch.float32

    def test_nan_propagates(self) -> None:
        J = jacobian(3, 5)
        J[1, 1] = float("nan")
        assert UPGrad(projector=MojdProjector())(J).isnan().all()


class TestAgainstTheDefault:
    def test_small_gradients(self) -> None:
        """TorchJD takes this Gramian for zero: its UPGrad is the mean, which raises the first loss."""
        J = torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]], dtype=torch.float64) / 1000
        default, ours = UPGrad()(J), UPGrad(projector=MojdProjector())(J)
        torch.testing.assert_close(default, J.mean(dim=0), rtol=1e-12, atol=0)
        assert (J @ default).min() < 0
        assert (J @ ours).min() >= -1e-18
        exact = J.T @ torch.tensor([10 / 9, 15 / 19], dtype=torch.float64)
        torch.testing.assert_close(ours, exact, rtol=1e-12, atol=0)

    def test_gradients_of_different_lengths(self) -> None:
        """One gradient is 1000 times as long as the others, and the ridge of 1e-4 longer than those."""
        J = jacobian(3, 5)
        J[0] *= 1000.0
        default, ours = UPGrad()(J), UPGrad(projector=MojdProjector())(J)
        slopes = [(J @ d) / (J.norm(dim=-1) * d.norm()) for d in (default, ours)]
        assert slopes[0].min() < -1e-3
        assert slopes[1].min() > -1e-9


class TestTraining:
    def model(self) -> tuple[nn.Module, Tensor, Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1)).double()
        return model, torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 1, dtype=torch.float64)

    def expected(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """d = Jᵀw with the Jacobian row by row."""
        losses = (model(x) - y).square().flatten()
        rows = [torch.autograd.grad(loss, list(model.parameters()), retain_graph=True) for loss in losses]
        J = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])
        w: Tensor = mojd.upgrad(J @ J.T)
        return J.T @ w

    def written(self, model: nn.Module) -> Tensor:
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    def test_autojac(self) -> None:
        model, x, y = self.model()
        losses = (model(x) - y).square().flatten()
        backward(losses)
        jac_to_grad(model.parameters(), UPGrad(projector=MojdProjector()))
        torch.testing.assert_close(self.written(model), self.expected(model, x, y), rtol=1e-10, atol=1e-12)

    def test_autogram(self) -> None:
        model, x, y = self.model()
        engine = Engine(model, batch_dim=0)
        losses = (model(x) - y).square().flatten()
        weights = UPGradWeighting(projector=MojdProjector())(engine.compute_gramian(losses))
        losses.backward(weights)
        torch.testing.assert_close(self.written(model), self.expected(model, x, y), rtol=1e-9, atol=1e-11)


class TestObject:
    def test_repr(self) -> None:
        assert repr(MojdProjector()) == "MojdProjector()"
        assert (
            repr(UPGrad(projector=MojdProjector())) == "UPGrad(pref_vector=None, projector=MojdProjector())"
        )

    def test_copies(self) -> None:
        J = jacobian(4, 6)
        aggregator = UPGrad(projector=MojdProjector())
        for other in (copy.deepcopy(aggregator), pickle.loads(pickle.dumps(aggregator))):
            assert torch.equal(other(J), aggregator(J))

    def test_it_can_be_differentiated(self) -> None:
        """Unlike TorchJD's own: for those who call a projector themselves."""
        U = torch.eye(3, dtype=torch.float64)
        J = jacobian(3, 5).requires_grad_()
        assert torch.autograd.gradcheck(lambda J: MojdProjector()(U, J @ J.T), J)

    def test_without_torchjd(self) -> None:
        """mojd.torch needs none, and says what to install when it is asked for the projector."""
        code = """
import sys
sys.modules["torchjd"] = None
import mojd.torch
assert "MojdProjector" in dir(mojd.torch)
try:
    mojd.torch.MojdProjector
except mojd.MissingDependencyError as error:
    print(error)
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert "pip install 'mojd[torchjd]'" in done.stdout

    def test_torchjd_is_loaded_on_demand(self) -> None:
        code = "import sys, mojd.torch; print('torchjd' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "False"
