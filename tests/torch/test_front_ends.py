"""Methods as objects: one class per registered method, micro-batches, states."""

from __future__ import annotations

import copy
import functools
import inspect
import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import mojd
import mojd.torch
from mojd.torch import GradientMethod, GradVac
from mojd.weightings import registered_weightings
from tests.torch.few_losses import direction_error, rows, tasks, written

WITHOUT_STATE = [m for m in registered_weightings() if not m.is_stateful and m.name != "pcd"]
OPTIONS: dict[str, Any] = {"constant": {"weights": [0.5, 0.25, 1.0, 2.0]}}


def class_of(name: str) -> Any:
    return getattr(mojd.torch, mojd.weightings.get_method(name).title.replace("-", ""))


def options_of(method: Any) -> dict[str, Any]:
    found: dict[str, Any] = OPTIONS.get(method.name, dict(method.example_options))
    return found


def vectors(seed: int = 0) -> tuple[nn.Parameter, Tensor]:
    jacobian = torch.from_numpy(np.random.default_rng(seed).standard_normal((4, 6)))
    return nn.Parameter(torch.zeros(6, dtype=torch.float64)), jacobian


class TestClasses:
    def test_every_method_that_weighs_gramians_has_one(self) -> None:
        for method in registered_weightings():
            front_end = class_of(method.name)
            assert issubclass(front_end, GradientMethod)
            assert front_end.__name__ in mojd.torch.__all__
            assert front_end.__doc__ is not None and method.title in front_end.__doc__

    @pytest.mark.parametrize("method", WITHOUT_STATE, ids=lambda m: m.name)
    def test_it_is_the_function(self, method: Any) -> None:
        p, jacobian = vectors()
        front_end = class_of(method.name)([p], **options_of(method))
        info = front_end.backward(jacobian @ p)
        options = options_of(method)
        if method.is_stochastic:
            options["seed"] = np.random.default_rng(0)
        expected = getattr(mojd, method.name)(jacobian @ jacobian.T, **options)
        torch.testing.assert_close(info.weights, expected, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(p.grad, info.weights @ jacobian, rtol=1e-12, atol=1e-12)

    def test_options_by_position_and_name(self) -> None:
        p, jacobian = vectors()
        u = [0.1, 0.2, 0.3, 0.4]
        for upgrad in (mojd.torch.UPGrad([p], u), mojd.torch.UPGrad([p], pref_vector=torch.tensor(u))):
            info = upgrad.backward(jacobian @ p)
            torch.testing.assert_close(info.weights, mojd.upgrad(info.gramian, u), rtol=1e-6, atol=0)
        assert mojd.torch.Krum([p], 1, 2).backward(jacobian @ p).weights.count_nonzero() == 2

    def test_signatures_show_the_options(self) -> None:
        parameters = inspect.signature(mojd.torch.CAGrad).parameters
        assert list(parameters) == ["params", "c", "process_group"]
        assert parameters["c"].default == 0.5

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda p: mojd.torch.CAGrad([p], cc=0.5), "'cc' is no option of cagrad.* did you mean 'c'"),
            (lambda p: mojd.torch.CAGrad([p], 0.5, c=0.5), "'c' was given twice"),
            (lambda p: mojd.torch.CAGrad([p], 0.5, 0.5), "takes 1 positional options"),
            (lambda p: mojd.torch.Constant([p]), "constant needs weights"),
            (lambda p: mojd.torch.PCGrad([p]), "pcgrad needs seed"),
            (lambda p: mojd.torch.PCGrad([p], seed=0.5), "seed must be an integer"),
            (lambda p: GradVac([p], seed=None), "seed must be an integer"),
            (lambda p: GradVac([p], seed=0, beta=2.0), "beta must be a number in"),
            (lambda p: mojd.torch.UPGrad(p), "one tensor of shape"),
            (lambda p: GradientMethod([p], "upgrd"), "did you mean"),
        ],
    )
    def test_options_that_do_not_fit(self, make: Any, message: str) -> None:
        with pytest.raises(mojd.MojdError, match=message):
            make(nn.Parameter(torch.ones(2)))

    def test_repr(self) -> None:
        p = nn.Parameter(torch.ones(2000))
        assert repr(mojd.torch.UPGrad([p])) == "UPGrad(upgrad; 2,000 parameters)"
        assert repr(mojd.torch.CAGrad([p], c=0.4)) == "CAGrad(c=0.4; 2,000 parameters)"
        assert repr(GradientMethod([p], mojd.mgda)) == "GradientMethod(mgda; 2,000 parameters)"
        assert repr(mojd.torch.PCGrad([p], seed=0)) == "PCGrad(pcgrad, drawn anew; 2,000 parameters)"
        assert repr(GradVac([p], seed=0)) == "GradVac(gradvac, beta=0.5; 2,000 parameters)"

    def test_torchjd(self) -> None:
        """Within its ridge, of 1e-4 times the trace."""
        aggregation = pytest.importorskip("torchjd.aggregation")
        for seed in range(5):
            p, jacobian = vectors(seed)
            size = jacobian.norm()
            for mine, theirs in (
                (mojd.torch.UPGrad([p]), aggregation.UPGrad()),
                (mojd.torch.DualProj([p]), aggregation.DualProj()),
                (mojd.torch.Mean([p]), aggregation.Mean()),
                (mojd.torch.Krum([p], 1), aggregation.Krum(1)),
                (mojd.torch.ConFIG([p]), aggregation.ConFIG()),
                (mojd.torch.AlignedMTL([p]), aggregation.AlignedMTL()),
                (mojd.torch.IMTLG([p]), aggregation.IMTLG()),
            ):
                p.grad = None
                mine.backward(jacobian @ p)
                assert p.grad is not None
                assert (p.grad - theirs(jacobian)).norm() <= 2e-3 * size, type(mine).__name__


class TestSteps:
    def test_backward(self) -> None:
        problem = tasks(3)
        jacobian = rows(problem.losses, problem.params)
        info = mojd.torch.UPGrad(problem.params).backward(problem.losses())
        assert direction_error(written(problem.params), jacobian, info.weights) <= 1e-12

    def test_apply_gradients(self) -> None:
        problem = tasks(3)
        kept = [p for p in problem.params if p.requires_grad]
        gradients = [torch.autograd.grad(problem.losses()[k], kept, allow_unused=True) for k in range(3)]
        upgrad = mojd.torch.UPGrad(problem.params)
        found = upgrad.apply_gradients(gradients)
        given = written(problem.params)
        for p in kept:
            p.grad = None
        expected = upgrad.backward(problem.losses())
        torch.testing.assert_close(found.gramian, expected.gramian)
        np.testing.assert_allclose(given, written(problem.params), rtol=1e-12, atol=1e-15)

    def test_apply_gradients_of_scaled_losses(self) -> None:
        p, jacobian = vectors()
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        upgrad = mojd.torch.UPGrad([p])
        info = upgrad.apply_gradients([[2.0**10 * row] for row in jacobian], scaler=scaler)
        torch.testing.assert_close(info.gramian, jacobian @ jacobian.T)
        torch.testing.assert_close(p.grad, 2.0**10 * (info.weights @ jacobian))

    def test_micro_batches_are_the_batch(self) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()
        inputs = torch.randn(12, 4, dtype=torch.float64)
        upgrad = mojd.torch.UPGrad(model.parameters())
        whole = upgrad.backward(model(inputs).square().sum(dim=0) / 12)
        expected = written(list(model.parameters()))
        model.zero_grad()
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
        for part in inputs[:8].chunk(2):
            upgrad.accumulate(model(part).square().sum(dim=0) / 12, scaler=scaler)
        info = upgrad.backward(model(inputs[8:]).square().sum(dim=0) / 12, scaler=scaler)
        torch.testing.assert_close(info.gramian, whole.gramian, rtol=1e-12, atol=0)
        np.testing.assert_allclose(written(list(model.parameters())) / 2**8, expected, rtol=1e-10, atol=1e-15)

    def test_nothing_is_left_of_a_step_or_of_a_failed_one(self) -> None:
        p, jacobian = vectors()
        upgrad = mojd.torch.UPGrad([p])
        upgrad.accumulate(jacobian @ p)
        with pytest.raises(mojd.InvalidInputError, match="3 entries, but gradients of 4"):
            upgrad.backward((jacobian @ p)[:3])
        info = upgrad.backward((jacobian @ p)[:3])
        torch.testing.assert_close(info.gramian, jacobian[:3] @ jacobian[:3].T)
        info = upgrad.backward((jacobian @ p)[:2])
        torch.testing.assert_close(info.gramian, jacobian[:2] @ jacobian[:2].T)

    def test_parameters_that_thaw(self) -> None:
        p, q = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2), requires_grad=False)
        upgrad = mojd.torch.UPGrad([p, q])
        assert upgrad.backward([(p * q).sum()]).gramian.item() == 2.0
        q.requires_grad_()
        assert upgrad.backward([(p * q).sum()]).gramian.item() == 4.0

    def test_the_same_in_backward(self) -> None:
        """The weighting of a front end goes wherever a weighting does, with its state."""
        p, jacobian = vectors()
        mine, other = GradVac([p], seed=0, beta=0.3), GradVac([p], seed=0, beta=0.3)
        for step in range(3):
            first = mine.backward((step + 1) * jacobian.roll(step, 0) @ p)
            second = mojd.torch.backward((step + 1) * jacobian.roll(step, 0) @ p, [p], other.weighting)
            assert torch.equal(first.weights, second.weights)
        assert torch.equal(mine.state_dict()["cosines"], other.state_dict()["cosines"])
        assert torch.equal(mine.weighting(first.gramian), other.weighting(first.gramian))


def saved(state: dict[str, Any]) -> dict[str, Any]:
    """What torch.save and torch.load make of a state."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    found: dict[str, Any] = torch.load(file)
    return found


class TestStates:
    @pytest.mark.parametrize("round_trip", [copy.deepcopy, saved])
    @pytest.mark.parametrize(
        "make",
        [
            functools.partial(GradVac, seed=1, beta=0.3),
            functools.partial(mojd.torch.PCGrad, seed=1),
            functools.partial(mojd.torch.RGW, seed=1),
            mojd.torch.UPGrad,
        ],
    )
    def test_a_run_goes_on_from_where_it_was(self, make: Any, round_trip: Any) -> None:
        p, jacobian = vectors()
        first, second = make([p]), make([p])
        for step in range(4):
            first.backward(jacobian.roll(step, 1) @ p)
        second.load_state_dict(round_trip(first.state_dict()))
        for step in range(4, 8):
            a, b = first.backward(jacobian.roll(step, 0) @ p), second.backward(jacobian.roll(step, 0) @ p)
            assert torch.equal(a.weights, b.weights)

    @pytest.mark.parametrize(
        "make", [functools.partial(GradVac, seed=1), functools.partial(mojd.torch.RGW, seed=1)]
    )
    @pytest.mark.parametrize("before", [0, 2])
    def test_nan_leaves_the_state(self, make: Any, before: int) -> None:
        p, jacobian = vectors()
        method = make([p])
        for _ in range(before):
            method.backward(jacobian @ p)
        state = method.state_dict()
        info = method.backward(jacobian @ p * math.nan)
        assert info.weights.isnan().all() and info.status == mojd.Status.NONFINITE
        after = method.state_dict()
        assert state["seed"] == after["seed"]
        if "cosines" in state:
            assert state["cosines"] is after["cosines"] is None or torch.equal(
                state["cosines"], after["cosines"]
            )

    def test_a_state_is_a_snapshot(self) -> None:
        p, jacobian = vectors()
        method = GradVac([p], seed=0)
        method.backward(jacobian @ p)
        state = method.state_dict()
        cosines, draws = state["cosines"].clone(), copy.deepcopy(state["seed"])
        method.backward(jacobian.flip(0) @ p)
        assert torch.equal(state["cosines"], cosines) and state["seed"] == draws
        assert method.state_dict()["seed"] != draws

    def test_stochastic_methods_draw_anew_in_every_step(self) -> None:
        p, jacobian = vectors()
        method = mojd.torch.RGW([p], seed=0)
        assert not torch.equal(method.backward(jacobian @ p).weights, method.backward(jacobian @ p).weights)

    @pytest.mark.parametrize(
        ("make", "state", "message"),
        [
            (mojd.torch.UPGrad, {"seed": 1}, "UPGrad has no state"),
            (functools.partial(GradVac, seed=0), {}, "must have the entries 'cosines'"),
            (functools.partial(mojd.torch.RGW, seed=0), {"cosines": 1}, "must have the entry 'seed'"),
            (
                functools.partial(mojd.torch.RGW, seed=0),
                {"seed": {"state": 1}},
                "is no state of NumPy's PCG64",
            ),
        ],
    )
    def test_states_of_something_else(self, make: Any, state: Any, message: str) -> None:
        with pytest.raises(mojd.InvalidInputError, match=message):
            make([nn.Parameter(torch.ones(2))]).load_state_dict(state)

    def test_another_number_of_losses(self) -> None:
        p, jacobian = vectors()
        method = GradVac([p], seed=0)
        method.backward(jacobian @ p)
        with pytest.raises(mojd.InvalidInputError, match="state of 4 losses, got 3"):
            method.backward((jacobian @ p)[:3])

    def test_the_state_of_a_weighting_of_torchjd(self) -> None:
        aggregation = pytest.importorskip("torchjd.aggregation")
        p, jacobian = vectors()
        method = GradientMethod([p], aggregation.PCDWeighting())
        method.backward(jacobian @ p)
        before = {k: v.clone() for k, v in method.weighting.named_buffers()}
        method.backward(jacobian @ p * math.nan)
        assert all(torch.equal(v, before[k]) for k, v in method.weighting.named_buffers())
        assert method.to("cpu") is method
