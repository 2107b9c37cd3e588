"""``backward``: steps on several losses, loss scaling, NaN, weightings of all kinds, and what is refused."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import mojd
import mojd.torch
from tests.torch.few_losses import Tasks, direction_error, gramian_error, rows, tasks, written

BARS = {torch.float64: 1e-12, torch.float32: 1e-5}


def conflict(dtype: torch.dtype = torch.float32) -> tuple[nn.Parameter, Callable[[], Tensor]]:
    """The worked example of the paper: J = [[-4, 1, 1], [6, 1, 1]], w = (10/9, 15/19)."""
    p = nn.Parameter(torch.zeros(3, dtype=dtype))
    jacobian = torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]], dtype=dtype)
    return p, lambda: jacobian @ p


class TestSteps:
    @pytest.mark.parametrize("count", [1, 2, 3, 8])
    @pytest.mark.parametrize("dtype", BARS)
    @pytest.mark.parametrize("weighting", [mojd.upgrad, mojd.mgda, functools.partial(mojd.pcd, tau=0.3)])
    def test_against_the_jacobian(self, count: int, dtype: torch.dtype, weighting: Any) -> None:
        problem = tasks(count, dtype)
        jacobian = rows(problem.losses, problem.params)
        info = mojd.torch.backward(problem.losses(), problem.params, weighting)
        assert gramian_error(info.gramian, jacobian) <= BARS[dtype]
        assert direction_error(written(problem.params), jacobian, info.weights) <= BARS[dtype]
        expected = jacobian.T @ weighting(jacobian @ jacobian.T)
        scale = np.linalg.norm(jacobian, axis=1).max() * max(1.0, float(info.weights.max()))
        # How much d moves with the rounding of a float32 Gramian depends on the angles of the gradients.
        bar = 1e-9 if dtype == torch.float64 else 1e-3
        assert np.linalg.norm(written(problem.params) - expected) <= bar * scale

    def test_the_worked_value(self) -> None:
        p, losses = conflict(torch.float64)
        info = mojd.torch.backward(losses(), [p])
        torch.testing.assert_close(info.weights, torch.tensor([10 / 9, 15 / 19], dtype=torch.float64))
        assert p.grad is not None
        torch.testing.assert_close(
            p.grad, torch.tensor([50 / 171, 325 / 171, 325 / 171], dtype=torch.float64)
        )

    def test_gradients_add_up_over_calls(self) -> None:
        p, losses = conflict()
        mojd.torch.backward(losses(), [p])
        assert p.grad is not None
        once = p.grad.clone()
        mojd.torch.backward(losses(), [p])
        torch.testing.assert_close(p.grad, 2 * once)

    def test_constant_losses(self) -> None:
        """Their gradient is 0: UPGrad's weights of the others are those of three losses."""
        p, losses = conflict(torch.float64)
        first, second = losses()
        info = mojd.torch.backward([first, torch.tensor(2.0), second], [p], mojd.sum)
        assert info.gramian[1].tolist() == [0.0, 0.0, 0.0]
        assert p.grad is not None and p.grad.tolist() == [2.0, 2.0, 2.0]

    def test_a_loss_twice(self) -> None:
        p = nn.Parameter(torch.ones(2))
        loss = p.exp().sum()
        info = mojd.torch.backward([loss, loss], [p])
        assert bool((info.gramian == info.gramian[0, 0]).all())
        torch.testing.assert_close(p.grad, p.detach().exp())

    def test_parameter_groups_generators_and_repetitions(self) -> None:
        p, losses = conflict()
        for params in (iter([p]), [{"params": [p], "lr": 0.1}], [{"params": p}], [p, p], (p,)):
            p.grad = None
            mojd.torch.backward(losses(), params)
            assert p.grad is not None and abs(float(p.grad[1]) - 325 / 171) < 1e-6

    def test_losses_of_shape_one(self) -> None:
        p, losses = conflict()
        mojd.torch.backward([loss.reshape(1) for loss in losses()], [p])
        assert p.grad is not None and abs(float(p.grad[1]) - 325 / 171) < 1e-6

    def test_a_float64_loss_of_float32_parameters(self) -> None:
        p, losses = conflict()
        info = mojd.torch.backward(losses().double(), [p])
        assert info.gramian.dtype == torch.float32
        assert p.grad is not None and p.grad.dtype == torch.float32

    def test_retain_graph(self) -> None:
        p = nn.Parameter(torch.ones(2))
        losses = [p.exp().sum(), p.sin().sum()]
        mojd.torch.backward(losses, [p], retain_graph=True)
        mojd.torch.backward(losses, [p])
        with pytest.raises(mojd.InvalidInputError, match="freed by an earlier backward pass"):
            mojd.torch.backward(losses, [p])

    def test_no_grad_and_autocast_regions_change_nothing(self) -> None:
        p, rows = nn.Parameter(torch.zeros(40)), torch.randn(3, 40)
        values = rows @ p
        with torch.no_grad(), torch.autocast("cpu"):
            info = mojd.torch.backward(values, [p])
        exact = rows.double() @ rows.double().T
        # Products rounded to bfloat16 would be off by 1e-3.
        torch.testing.assert_close(info.gramian.double(), exact, rtol=1e-6, atol=1e-5)

    def test_a_gradient_that_lies_in_grad_already(self) -> None:
        p = nn.Parameter(torch.zeros(2))
        first, second = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
        p.grad = second
        held = mojd.torch.LossGradients([p])
        held.add_gradients([[first], [second]])
        held.write(torch.ones(2))
        assert p.grad is not None and p.grad.tolist() == [3.0 + 1 + 3, 4.0 + 2 + 4]

    def test_an_optimiser_steps(self) -> None:
        torch.manual_seed(0)
        model = Tasks(3)
        inputs = torch.randn(16, 2, 5, 5)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        start = [loss.item() for loss in model.losses(inputs)]
        for _ in range(60):
            optimizer.zero_grad()
            mojd.torch.backward(model.losses(inputs), model.parameters())
            optimizer.step()
        assert all(end.item() < 0.5 * first for end, first in zip(model.losses(inputs), start, strict=True))


class TestWeightings:
    def test_names(self) -> None:
        p, losses = conflict()
        info = mojd.torch.backward(losses(), [p], "dualproj")
        torch.testing.assert_close(info.weights, mojd.dualproj(info.gramian))

    @pytest.mark.parametrize(
        "make", [lambda w: w, lambda w: w.numpy(), lambda w: w.tolist(), lambda w: w.double()]
    )
    def test_functions_of_any_kind(self, make: Callable[[Tensor], Any]) -> None:
        p, losses = conflict()
        info = mojd.torch.backward(losses(), [p], lambda gramian: make(torch.tensor([0.25, 0.5])))
        assert info.weights.tolist() == [0.25, 0.5] and info.weights.dtype == torch.float32
        assert p.grad is not None and p.grad.tolist() == [2.0, 0.75, 0.75]

    def test_weights_on_a_tape(self) -> None:
        p, losses = conflict()
        factor = torch.ones(2, requires_grad=True)
        info = mojd.torch.backward(losses(), [p], lambda gramian: factor * gramian[0, 0])
        assert not info.weights.requires_grad
        assert p.grad is not None and not p.grad.requires_grad

    def test_torchjd(self) -> None:
        aggregation = pytest.importorskip("torchjd.aggregation")
        p, losses = conflict(torch.float64)
        info = mojd.torch.backward(losses(), [p], aggregation.UPGradWeighting())
        assert info.status is None and info.certificate is None
        # Its ridge is 1e-4 of the trace.
        torch.testing.assert_close(info.weights, mojd.upgrad(info.gramian), rtol=1e-3, atol=0)

    def test_options_of_a_partial_stay(self) -> None:
        p, losses = conflict()
        strict = functools.partial(mojd.upgrad, nonfinite="raise")
        info = mojd.torch.backward(losses(), [p], strict)
        assert info.function is strict

    @pytest.mark.parametrize(
        "name", [m.name for m in mojd.weightings.registered_weightings() if not m.is_stateful]
    )
    def test_every_function_of_gramians(self, name: str) -> None:
        method = mojd.weightings.get_method(name)
        torch.manual_seed(0)
        jacobian = torch.randn(5, 7, dtype=torch.float64)
        p = nn.Parameter(torch.zeros(7, dtype=torch.float64))
        function = functools.partial(getattr(mojd, name), **method.example_options)
        if name == "constant":
            function = functools.partial(mojd.constant, weights=np.full(5, 0.5))
        info = mojd.torch.backward(jacobian @ p, [p], function)
        torch.testing.assert_close(p.grad, info.weights @ jacobian, rtol=1e-12, atol=1e-12)
        assert info.weights.any()


class Doubling:
    """A weighting with a state of its own, that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, gramian: Tensor) -> Tensor:
        self.calls += 1
        return torch.full_like(gramian[0], 2.0**self.calls)


class TestNonFinite:
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize(
        "weighting",
        [mojd.upgrad, mojd.mean, "mgda", lambda gramian: torch.ones(3), functools.partial(mojd.pcd, tau=0.1)],
    )
    def test_all_that_is_written_is_nan(self, value: float, weighting: Any) -> None:
        """Parameters that the broken loss misses included: the step as a whole is to be skipped."""
        problem = tasks(3, torch.float32)
        losses = problem.losses()
        losses[1] = losses[1] * value
        info = mojd.torch.backward(losses, problem.params, weighting)
        assert info.weights.isnan().all()
        found = [p.grad for p in problem.params if p.grad is not None]
        assert len(found) == 10 and all(gradient.isnan().all() for gradient in found)
        assert info.status == mojd.Status.NONFINITE

    def test_callables_do_not_see_it(self) -> None:
        p, losses = conflict()
        counting = Doubling()
        for factor in (1.0, math.nan, 1.0):
            mojd.torch.backward(losses() * factor, [p], counting)
        assert counting.calls == 2

    def test_weightings_that_raise_do_not_get_to(self) -> None:
        p, losses = conflict()
        mojd.torch.backward(losses() * math.nan, [p], functools.partial(mojd.upgrad, nonfinite="raise"))
        assert p.grad is not None and p.grad.isnan().all()


class TestLossScaling:
    def test_the_gramian_is_unscaled_and_gradients_are_scaled(self) -> None:
        p, losses = conflict()
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
        plain = mojd.torch.backward(losses(), [p])
        assert p.grad is not None
        expected, p.grad = p.grad, None
        info = mojd.torch.backward(losses(), [p], scaler=scaler)
        assert p.grad is not None
        assert torch.equal(info.gramian, plain.gramian)
        assert torch.equal(info.weights, plain.weights)
        assert torch.equal(p.grad, 2.0**12 * expected)
        optimizer = torch.optim.SGD([p], lr=1.0)
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(p.detach(), -expected)

    def test_a_scaler_that_is_disabled(self) -> None:
        p, losses = conflict()
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        info = mojd.torch.backward(losses(), [p], scaler=scaler)
        assert info.gramian.tolist() == [[18.0, -22.0], [-22.0, 38.0]]
        scaler.step(torch.optim.SGD([p], lr=1.0))
        scaler.update()
        assert p.grad is not None and torch.equal(p.detach(), -p.grad)

    def test_overflow_skips_the_step_and_lowers_the_scale(self) -> None:
        """Gradients of 3e38 overflow with any scale above 1: the scaler finds out by itself."""
        p = nn.Parameter(torch.ones(2))
        optimizer = torch.optim.SGD([p], lr=1.0)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        pcd = mojd.torch.PCD([p], tau=0.1)
        pcd.backward([p.sum(), -p[0]], scaler=scaler)
        before = pcd.state_dict()
        optimizer.zero_grad()
        info = pcd.backward([p.sum() * 3e38, -p[0]], scaler=scaler)
        scaler.step(optimizer)
        scaler.update()
        assert info.status == mojd.Status.NONFINITE
        assert p.detach().tolist() == [1.0, 1.0]
        assert scaler.get_scale() == 2.0
        assert torch.equal(pcd.state_dict()["mean_square"], before["mean_square"])
        assert torch.equal(pcd.state_dict()["steps"], before["steps"])

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_a_mixed_precision_loop(self, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
        inputs, targets = torch.randn(64, 8), torch.randn(64, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=5)
        upgrad = mojd.torch.UPGrad(model.parameters())
        skipped, first, last = 0, None, torch.zeros(2)
        for _ in range(60):
            with torch.autocast("cpu", dtype=dtype):
                losses = (model(inputs) - targets).square().mean(dim=0)
            optimizer.zero_grad()
            before = scaler.get_scale()
            info = upgrad.backward(losses, scaler=scaler)
            scaler.step(optimizer)
            scaler.update()
            skipped += scaler.get_scale() < before
            first = losses.detach().float() if first is None else first
            last = losses.detach().float()
        assert first is not None and (last < first).all()
        # A float16 scale of 2**40 overflows until it has come down; bfloat16 reaches as far as float32.
        assert (skipped > 10) == (dtype == torch.float16)
        assert info.gramian.dtype == torch.float32

    def test_small_gradients_need_the_scale(self) -> None:
        """In float16, gradients of 1e-9 are 0 without it."""
        p = nn.Parameter(torch.ones(4))
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14)

        def losses() -> list[Tensor]:
            half = p.half()
            return [(half * 1e-4).sum().float() * 1e-5, (half * -1e-4).sum().float() * 1e-5]

        assert not mojd.torch.backward(losses(), [p]).gramian.any()
        info = mojd.torch.backward(losses(), [p], scaler=scaler)
        torch.testing.assert_close(info.norms, torch.full((2,), 2e-9), rtol=0.05, atol=0)


class TestErrors:
    @pytest.mark.parametrize(
        ("losses", "kind", "message"),
        [
            (lambda p: p.sum(), mojd.InvalidInputError, r"one scalar tensor; .* call loss.backward\(\)"),
            (lambda p: p.outer(p), mojd.InvalidInputError, r"of shape \(3, 3\); pass one of shape \(K,\)"),
            (lambda p: [p.sum(), p], mojd.InvalidInputError, r"losses\[1\] has shape \(3,\); .* reduce it"),
            (lambda p: [p.sum(), 1.5], mojd.InvalidTypeError, r"losses\[1\] is a float.* not loss.item\(\)"),
            (lambda p: {"a": p.sum()}, mojd.InvalidTypeError, r"list\(losses.values\(\)\)"),
            (lambda p: [], mojd.InvalidInputError, "losses is empty"),
            (lambda p: 3.0, mojd.InvalidTypeError, "losses is a float"),
            (lambda p: [p.detach().sum()], mojd.InvalidInputError, "none of the 1 losses has a graph"),
            (
                lambda p: [torch.tensor(1), p.sum()],
                mojd.InvalidTypeError,
                r"losses\[0\] has dtype torch.int64",
            ),
            (lambda p: [p.sum() * 1j], mojd.InvalidTypeError, r"losses\[0\] has dtype torch.complex64"),
            (
                lambda p: [torch.ones((), requires_grad=True)],
                mojd.InvalidInputError,
                "depends on any of the 1 par",
            ),
        ],
    )
    def test_losses(self, losses: Callable[[Tensor], Any], kind: type[Exception], message: str) -> None:
        p = nn.Parameter(torch.ones(3))
        with pytest.raises(kind, match=message):
            mojd.torch.backward(losses(p), [p])
        assert p.grad is None

    @pytest.mark.parametrize(
        ("params", "kind", "message"),
        [
            (lambda m: m, mojd.InvalidTypeError, r"params is a module; .*model.parameters\(\)"),
            (lambda m: m.weight, mojd.InvalidTypeError, r"one tensor of shape \(2, 3\); pass a list"),
            (lambda m: m.state_dict(), mojd.InvalidTypeError, "params is an OrderedDict"),
            (
                lambda m: m.named_parameters(),
                mojd.InvalidTypeError,
                r"params\[0\] is a tuple.*named_parameters",
            ),
            (lambda m: [m.weight, 3], mojd.InvalidTypeError, r"params\[1\] is an int, not a tensor"),
            (lambda m: iter(()), mojd.InvalidInputError, "params is empty; .*call it again"),
            (lambda m: [m.weight * 2], mojd.InvalidInputError, r"params\[0\] of shape \(2, 3\) is computed"),
            (
                lambda m: [m.weight.detach()],
                mojd.InvalidInputError,
                "none of the 1 params requires a gradient",
            ),
            (lambda m: [{"lr": 1.0}], mojd.InvalidInputError, "without the key 'params'"),
            (lambda m: None, mojd.InvalidTypeError, "params is a NoneType"),
            (
                lambda m: [torch.ones(2, dtype=torch.complex64, requires_grad=True)],
                mojd.InvalidTypeError,
                r"params\[0\] of shape \(2,\) is complex",
            ),
        ],
    )
    def test_params(self, params: Callable[[Any], Any], kind: type[Exception], message: str) -> None:
        model = nn.Linear(3, 2)
        losses = model(torch.ones(3))
        with pytest.raises(kind, match=message):
            mojd.torch.backward(losses, params(model))

    @pytest.mark.parametrize(
        ("weighting", "kind", "message"),
        [
            ("upgrd", mojd.InvalidInputError, "did you mean 'upgrad'"),
            (3, mojd.InvalidTypeError, "got 3: pass a function such as mojd.upgrad"),
            (mojd.torch.PCDWeighting, mojd.InvalidTypeError, "pass an instance of it"),
            (mojd.famo, mojd.InvalidInputError, "'famo' needs more than the Gramian"),
            (mojd.graddrop, mojd.InvalidInputError, "'graddrop' needs more than the Gramian"),
            ("gradvac", mojd.InvalidInputError, "use mojd.torch.GradVac"),
            (lambda gramian: torch.ones(5), mojd.InvalidInputError, r"weights of shape \(5,\) for a Gramian"),
            (lambda gramian: None, mojd.InvalidTypeError, "returned a NoneType"),
        ],
    )
    def test_weightings(self, weighting: Any, kind: type[Exception], message: str) -> None:
        p, losses = conflict()
        with pytest.raises(kind, match=message):
            mojd.torch.backward(losses(), [p], weighting)

    def test_the_weighting_is_looked_at_before_the_graph_is_freed(self) -> None:
        p = nn.Parameter(torch.ones(2))
        losses = [p.exp().sum(), p.sin().sum()]
        with pytest.raises(mojd.InvalidInputError):
            mojd.torch.backward(losses, [p], "upgrd")
        mojd.torch.backward(losses, [p], "upgrad")

    def test_a_scaler_that_is_none(self) -> None:
        p, losses = conflict()
        with pytest.raises(
            mojd.InvalidTypeError, match=r"scaler must be a torch\.amp\.GradScaler, got float"
        ):
            mojd.torch.backward(losses(), [p], scaler=1024.0)  # type: ignore[arg-type]
