"""PCD with its normaliser: the paper's values, its toy, the official interface, the state."""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import mojd
import mojd.torch
from mojd import Status
from mojd.torch import PCD, PCDWeighting
from mojd.torch.pcd_weighting import update_average

ANGLE = math.radians(150)
PAPER = torch.tensor([[1.0, 0.0], [math.cos(ANGLE), math.sin(ANGLE)]], dtype=torch.float64)


def parameter(size: int = 2) -> nn.Parameter:
    return nn.Parameter(torch.zeros(size, dtype=torch.float64))


def gradient(p: nn.Parameter) -> Any:
    assert p.grad is not None
    return p.grad.numpy()


def run(pcd: PCD, jacobian: Tensor) -> Any:
    """One step with the given gradients, from no .grad."""
    (p,) = pcd.params
    p.grad = None
    return pcd.backward(jacobian @ p)


def toy(start: tuple[float, float], make: Any) -> Tensor:
    """Where 3000 steps of Adam end."""
    theta = nn.Parameter(torch.tensor(start, dtype=torch.float64))
    optimizer, method = torch.optim.Adam([theta], lr=0.01), make([theta], tau=0.3)
    for _ in range(3000):
        optimizer.zero_grad()
        primary = (theta[0] ** 2 - 4) ** 2 / 4 + theta[1] ** 2 / 2
        secondary = torch.relu((theta - theta.new_tensor([2.0, 0.0])).abs() - 0.5).sum()
        method.backward([primary, secondary])
        optimizer.step()
    return theta.detach()


class TestPaper:
    @pytest.mark.parametrize(
        ("tau", "expected"), [(0.0, (0.25, 0.4330)), (0.3, (-0.0098, 0.5830)), (0.7, (-0.3562, 0.7830))]
    )
    def test_worked_values(self, tau: float, expected: tuple[float, float]) -> None:
        """Unit gradients: the first step's scales are 1."""
        p = parameter()
        info = run(PCD([p], tau=tau, eps=0.0, rescale=False), PAPER)
        np.testing.assert_allclose(gradient(p), expected, atol=5e-5)
        np.testing.assert_allclose(info.mu, [tau - math.cos(ANGLE)], rtol=1e-12)

    def test_rescaled_to_the_primary(self) -> None:
        p = parameter()
        info = run(PCD([p], tau=0.7), 3 * PAPER)
        assert p.grad is not None
        np.testing.assert_allclose(p.grad.norm(), 3.0, rtol=1e-12)
        np.testing.assert_allclose(p.grad[0] / p.grad[1], -0.3562 / 0.7830, rtol=1e-3)
        np.testing.assert_allclose(info.mu, [0.7 - math.cos(ANGLE)], rtol=1e-6)

    @pytest.mark.slow
    @pytest.mark.parametrize("start", [(-2.55, 0.40), (-2.90, 0.12), (-1.65, -0.55)])
    def test_toy(self, start: tuple[float, float]) -> None:
        """Figure 1: all three starts end at (2, 0)."""
        torch.testing.assert_close(toy(start, PCD), torch.tensor([2.0, 0.0]).double(), rtol=0, atol=0.02)

    @pytest.mark.slow
    def test_the_mean_stalls(self) -> None:
        """The toy is one: without priorities, it ends in the other valley."""
        assert toy((-2.55, 0.40), lambda params, tau: mojd.torch.Mean(params))[0] < 0

    def test_infeasible(self) -> None:
        """Secondaries that are opposite: their constraints are dropped, and the primary is followed."""
        p = parameter()
        info = run(
            PCD([p], tau=0.1), torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], dtype=torch.float64)
        )
        assert not info.feasible and info.status == Status.INFEASIBLE
        assert info.mu == [0.0, 0.0] and info.active == ()
        np.testing.assert_allclose(gradient(p), [1.0, 0.0], atol=1e-15)

    def test_a_primary_of_zero_halts(self) -> None:
        p = parameter()
        info = run(PCD([p], tau=0.1), torch.tensor([[0.0, 0.0], [0.0, 1.0]], dtype=torch.float64))
        assert p.grad is not None and not p.grad.any()
        assert info.mu == [0.0] and info.active == () and info.feasible and info.cosine == [0.0]
        assert info.certificate == 0.0

    def test_scale_of_a_secondary_does_not_matter(self) -> None:
        rng = np.random.default_rng(0)
        p, q = parameter(4), parameter(4)
        one, other = PCD([p], tau=0.3, eps=0.0), PCD([q], tau=0.3, eps=0.0)
        for _ in range(5):
            jacobian = torch.from_numpy(rng.standard_normal((3, 4)))
            run(one, jacobian)
            run(other, jacobian * torch.tensor([[1.0], [1e6], [1e-6]], dtype=torch.float64))
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-12)


class TestInfo:
    def test_names_of_the_official_release(self) -> None:
        p = parameter(3)
        jacobian = torch.tensor([[2.0, 0.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 3.0]], dtype=torch.float64)
        pcd = PCD([p], tau=[0.1, 0.0], beta=0.9, eps=0.0)
        info = run(pcd, jacobian)
        assert info.active == (1,)
        assert info.feasible is True
        np.testing.assert_allclose(info.mu, [0.1 + math.sqrt(0.5), 0.0], rtol=1e-12)
        np.testing.assert_allclose(info.cosine, [-math.sqrt(0.5), 0.0], rtol=1e-12)
        np.testing.assert_allclose(info.grad_norm, [2.0, math.sqrt(2.0), 3.0], rtol=1e-15)
        np.testing.assert_allclose(info.scale, [0.5, math.sqrt(0.5), 1 / 3], rtol=1e-12)
        assert all(type(value) is float for value in [*info.mu, *info.cosine, *info.grad_norm, *info.scale])

    def test_it_is_about_the_problem_that_was_solved(self) -> None:
        """With the scales of its own step, also when it is read after the next one."""
        rng = np.random.default_rng(1)
        p = parameter(5)
        pcd = PCD([p], tau=0.4, beta=0.5)
        state = mojd.init_normaliser(3)
        steps = []
        for _ in range(6):
            jacobian = rng.standard_normal((3, 5)) * 10.0 ** rng.uniform(-2, 2, (3, 1))
            info = run(pcd, torch.from_numpy(jacobian))
            gramian = info.gramian.numpy()
            scales, state = mojd.normalise(state, gramian, 0.5)
            steps.append((info, jacobian, scales))
        for info, jacobian, scales in steps:
            gramian = info.gramian.numpy()
            assert info.scale == scales.tolist()
            np.testing.assert_array_equal(info.weights, mojd.pcd(gramian, 0.4, scales=scales, rescale=True))
            assert info.residual < 1e-9 and info.certificate < 1e-5 * info.grad_norm[0]
            d = scales[0] * jacobian[0] + (np.array(info.mu) * scales[1:]) @ jacobian[1:]
            d *= info.grad_norm[0] / np.linalg.norm(d)
            np.testing.assert_allclose(info.weights.numpy() @ jacobian, d, rtol=1e-6, atol=1e-9)
            rates = (jacobian[1:] @ d) * scales[1:]
            assert (
                info.feasible and all((info.mu[j - 1] > 0) for j in info.active) and np.isfinite(rates).all()
            )

    def test_nan(self) -> None:
        p = parameter()
        pcd = PCD([p], tau=0.1)
        run(pcd, PAPER)
        info = run(pcd, PAPER * math.nan)
        assert info.weights.isnan().all() and p.grad is not None and p.grad.isnan().all()
        assert math.isnan(info.mu[0]) and info.active == () and info.feasible
        assert info.status == Status.NONFINITE
        np.testing.assert_allclose(info.scale, [1.0, 1.0], rtol=1e-6)

    def test_one_loss(self) -> None:
        p = parameter()
        info = run(PCD([p]), PAPER[:1])
        assert info.mu == [] and info.cosine == [] and info.active == () and info.feasible
        np.testing.assert_allclose(gradient(p), [1.0, 0.0], rtol=1e-12)

    def test_repr(self) -> None:
        p = parameter()
        pcd = PCD([p], tau=0.3)
        text = repr(run(pcd, PAPER))
        assert text.startswith("PCDInfo: 2 losses, weights of pcd") and "status OPTIMAL" in text
        assert repr(pcd) == "PCD(tau=0.3, beta=0.999, eps=1e-08, rescale=True; 2 parameters)"
        assert "tau=[0.1, 0.2]" in repr(PCD([p], tau=[0.1, 0.2]))


class TestNormaliser:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    @pytest.mark.parametrize(("beta", "eps"), [(0.999, 1e-8), (0.9, 0.0), (0.0, 1.0)])
    def test_bit_for_bit(self, dtype: torch.dtype, beta: float, eps: float) -> None:
        """The update that waits for nothing is that of mojd.normalise, NaN steps and zeros included."""
        rng = np.random.default_rng(0)
        state = mojd.init_normaliser(4)
        average, steps = torch.zeros(4, dtype=torch.float64), torch.tensor(0)
        for step in range(400):
            jacobian = rng.standard_normal((4, 6)) * 10.0 ** rng.uniform(-3, 3)
            jacobian[3] = 0.0
            gramian = torch.from_numpy(jacobian @ jacobian.T).to(dtype)
            if step % 7 == 0:
                gramian[1, 2] = [math.nan, math.inf][step % 2]
            expected, state = mojd.normalise(state, gramian, beta, eps)
            scales, average, steps = update_average(average, steps, gramian, beta, eps)
            assert torch.equal(scales, torch.as_tensor(expected))
            assert average.tolist() == np.asarray(state.mean_square).tolist()
            assert int(steps) == state.steps

    def test_nothing_waits_for_a_device(self) -> None:
        average = torch.zeros(3, dtype=torch.float64, device="meta")
        steps = torch.zeros((), dtype=torch.int64, device="meta")
        found = update_average(average, steps, torch.empty(3, 3, device="meta"), 0.9, 1e-8)
        assert [tensor.device.type for tensor in found] == ["meta"] * 3

    def test_true_units_under_a_loss_scale(self) -> None:
        p, q = parameter(), parameter()
        scaled, plain = PCD([p], tau=0.3), PCD([q], tau=0.3)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
        for _ in range(3):
            p.grad = None
            scaled.backward(PAPER @ p, scaler=scaler)
            run(plain, PAPER)
        assert torch.equal(scaled.state_dict()["mean_square"], plain.state_dict()["mean_square"])
        assert p.grad is not None and q.grad is not None
        assert torch.equal(p.grad, 2.0**16 * q.grad)

    def test_torchjd(self) -> None:
        aggregation = pytest.importorskip("torchjd.aggregation")
        rng = np.random.default_rng(0)
        theirs = aggregation.PCD(tau=0.3, beta=0.9)
        p = parameter(6)
        mine = PCD([p], tau=0.3, beta=0.9)
        for _ in range(20):
            jacobian = torch.from_numpy(rng.standard_normal((3, 6)) * 10.0 ** rng.uniform(-2, 2, (3, 1)))
            run(mine, jacobian)
            expected = theirs(jacobian)
            assert p.grad is not None
            assert (p.grad - expected).norm() <= 1e-6 * expected.norm()


def saved(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    found: dict[str, Any] = torch.load(file)
    return found


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Bit for bit."""
    if first.keys() != second.keys():
        return False
    pairs = [(first[name], second[name]) for name in first]
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)


class TestState:
    @pytest.mark.parametrize("tau", [0.3, [0.3, 0.1]])
    @pytest.mark.parametrize("round_trip", [copy.deepcopy, saved])
    def test_a_run_goes_on_from_where_it_was(self, tau: Any, round_trip: Any) -> None:
        rng = np.random.default_rng(0)
        p = parameter(4)
        first, second = PCD([p], tau=tau, beta=0.9, eps=1e-6, rescale=False), PCD([p])
        jacobians = [torch.from_numpy(rng.standard_normal((3, 4))) for _ in range(12)]
        for jacobian in jacobians[:6]:
            run(first, jacobian)
        second.load_state_dict(round_trip(first.state_dict()))
        assert same(first.state_dict(), second.state_dict())
        for jacobian in jacobians[6:]:
            assert torch.equal(run(first, jacobian).weights, run(second.to("cpu"), jacobian).weights)
            assert same(first.state_dict(), second.state_dict())

    def test_what_is_in_it(self) -> None:
        p = parameter()
        pcd = PCD([p])
        assert pcd.state_dict()["mean_square"] is None
        run(pcd, PAPER)
        state = pcd.state_dict()
        assert state["mean_square"].dtype == torch.float64 and state["steps"].dtype == torch.int64
        assert (state["tau"], state["beta"], state["eps"], state["rescale"]) == (0.02, 0.999, 1e-8, True)

    @pytest.mark.parametrize("before", [0, 3])
    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_nan_leaves_it_bit_for_bit(self, before: int, value: float) -> None:
        p = parameter()
        broken, whole = PCD([p], tau=0.3), PCD([p], tau=0.3)
        for _ in range(before):
            run(broken, PAPER)
            run(whole, PAPER)
        run(broken, PAPER * torch.tensor([[1.0], [value]], dtype=torch.float64))
        if before:
            assert same(broken.state_dict(), whole.state_dict())
        assert torch.equal(run(broken, 2 * PAPER).weights, run(whole, 2 * PAPER).weights)
        assert same(broken.state_dict(), whole.state_dict())

    def test_a_state_is_a_snapshot(self) -> None:
        p = parameter()
        pcd = PCD([p])
        run(pcd, PAPER)
        state = pcd.state_dict()
        kept = copy.deepcopy(state)
        run(pcd, 2 * PAPER)
        assert same(state, kept)
        pcd.load_state_dict(state)
        run(pcd, 3 * PAPER)
        assert same(state, kept)

    def test_moves(self) -> None:
        pcd = PCD([parameter()], tau=[0.1])
        run(pcd, PAPER)
        assert pcd.to("meta") is pcd
        assert all(pcd.state_dict()[name].device.type == "meta" for name in ("tau", "mean_square", "steps"))

    @pytest.mark.gpu
    def test_on_cuda(self) -> None:
        p, q = parameter(), parameter()
        host, device = PCD([p], tau=0.3), PCD([q.detach().cuda().requires_grad_()], tau=0.3)
        for factor in (1.0, math.nan, 3.0):
            run(host, factor * PAPER)
            run(device, factor * PAPER.cuda())
        found, expected = device.state_dict(), host.state_dict()
        assert found["mean_square"].is_cuda and torch.equal(
            found["mean_square"].cpu(), expected["mean_square"]
        )
        assert torch.equal(found["steps"].cpu(), expected["steps"])
        assert same(device.to("cpu").state_dict(), expected)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda p: PCD([p], tau=1.5), r"tau must lie in \[0, 1\]"),
            (lambda p: PCD([p], tau=torch.tensor([[0.1]])), r"tau has shape \(1, 1\)"),
            (lambda p: PCD([p], tau=torch.tensor(True)), "tau must hold real numbers"),
            (lambda p: PCD([p], beta=1.0), r"beta must lie in \[0, 1\)"),
            (lambda p: PCD([p], beta=torch.ones(2)), "beta must be a number"),  # type: ignore[arg-type]
            (lambda p: PCD([p], eps=-1.0), "eps must be finite and not negative"),
            (lambda p: run(PCD([p], tau=[0.1, 0.2]), PAPER), "tau has 2 entries for 1 secondaries"),
            (lambda p: PCD([p]).load_state_dict({"tau": 0.1}), "must have the entries 'tau', 'beta'"),
            (lambda p: PCD(p), "one tensor of shape"),
        ],
    )
    def test_errors(self, make: Any, message: str) -> None:
        with pytest.raises(mojd.MojdError, match=message):
            make(parameter())

    def test_another_number_of_losses(self) -> None:
        pcd = PCD([parameter()])
        run(pcd, PAPER)
        with pytest.raises(mojd.InvalidInputError, match="state of 2 losses, got 1"):
            run(pcd, PAPER[:1])

    def test_the_weighting_alone(self) -> None:
        """What an engine for many losses takes: Gramians in, weights out, with the state."""
        weighting, pcd = PCDWeighting(tau=0.3), PCD([parameter()], tau=0.3)
        for factor in (1.0, 2.0):
            gramian = factor**2 * PAPER @ PAPER.T
            assert torch.equal(weighting(gramian), run(pcd, factor * PAPER).weights)
        assert same(weighting.state_dict(), pcd.weighting.state_dict())


def test_a_first_step_that_is_not_finite_leaves_no_trace() -> None:
    p = nn.Parameter(torch.ones(3))
    pcd = mojd.torch.PCD([p])
    before = pcd.state_dict()
    pcd.backward([p.sum() * float("nan"), p.square().sum()])
    assert repr(pcd.state_dict()) == repr(before)
    p.grad = None
    pcd.backward([p.sum(), p.square().sum(), p.sin().sum()])  # another number of losses is still possible
