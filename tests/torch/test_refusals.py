"""What newcomers pass by mistake to a step on a few losses, and what they are told."""

from __future__ import annotations

import copy
import functools
import inspect
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import mojd
import mojd.torch
from mojd.torch import PCD, GradientMethod, GradVac

ROWS = torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]], dtype=torch.float64)
# Without their types, to pass what these forbid.
_PCD: Any = mojd.pcd
_backward: Any = mojd.torch.backward
_upgrad: Any = mojd.torch.UPGrad


def parameter() -> nn.Parameter:
    return nn.Parameter(torch.zeros(3, dtype=torch.float64))


def step(weighting: Any) -> mojd.torch.StepInfo:
    p = parameter()
    return mojd.torch.backward(ROWS @ p, [p], weighting)


def scaler(scale: float, enabled: bool = True) -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", init_scale=scale, enabled=enabled)


class TestWeightings:
    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("UPGrad", r"Aggregator UPGrad of TorchJD, .* pass TorchJD's UPGradWeighting\(\) or 'upgrad'"),
            ("Mean", r"MeanWeighting\(\) or 'mean'"),
            ("ConFIG", "pass 'config'"),
            ("GradDrop", "pass a Weighting of TorchJD, or a function such as"),
        ],
    )
    def test_aggregators_of_torchjd(self, name: str, message: str) -> None:
        aggregation = pytest.importorskip("torchjd.aggregation")
        with pytest.raises(mojd.InvalidTypeError, match=message):
            step(getattr(aggregation, name)())
        module = nn.Linear(2, 1)
        losses = module(torch.ones(3, 2))[:, 0]
        with pytest.raises(mojd.InvalidTypeError, match=message):
            mojd.torch.Engine(module).backward(losses, getattr(aggregation, name)())

    def test_weightings_of_torchjd_are_welcome(self) -> None:
        aggregation = pytest.importorskip("torchjd.aggregation")
        assert step(aggregation.MeanWeighting()).weights.tolist() == [0.5, 0.5]

    @pytest.mark.parametrize(
        ("weighting", "message"),
        [
            (mojd.torch.UPGrad, r"the class UPGrad, .*call UPGrad\(params, .*, or pass mojd\.upgrad"),
            (mojd.torch.UPGrad([parameter()]), r"an object of UPGrad, .* or pass mojd\.upgrad"),
            (PCD([parameter()]), r"call PCD\(params, \.\.\.\)\.backward\(losses\), or pass the attribute"),
            (mojd.torch.PCDWeighting, "the class PCDWeighting: pass an instance of it"),
            ("rgw", r"rgw needs seed: pass functools\.partial\(mojd\.rgw, seed=0\)"),
            (mojd.constant, r"pass functools\.partial\(mojd\.constant, weights=\.\.\.\)"),
            (functools.partial(_PCD, tua=0.2), "'tua' is no option of pcd.* did you mean 'tau'"),
            (functools.partial(mojd.pcd, 0.2), r"binds 0\.2 by its position"),
        ],
    )  # fmt: skip
    def test_what_weighs_no_gramian(self, weighting: Any, message: str) -> None:
        with pytest.raises(mojd.InvalidTypeError, match=message):
            step(weighting)

    def test_options_that_are_there(self) -> None:
        expected = mojd.constant(ROWS @ ROWS.T, [1.0, 2.0])
        assert torch.equal(step(functools.partial(mojd.constant, weights=[1.0, 2.0])).weights, expected)
        weigh = mojd.torch._weighing.checked(functools.partial(mojd.upgrad, nonfinite="raise"))
        with pytest.raises(mojd.NonFiniteError):
            weigh(torch.full((2, 2), torch.nan))

    def test_a_seed_that_is_missing(self) -> None:
        for front_end in (GradVac, mojd.torch.RGW):
            with pytest.raises(mojd.InvalidTypeError, match="needs seed: pass it by name"):
                front_end([parameter()])

    def test_work_in_place(self) -> None:
        def spoil(gramian: Tensor) -> Tensor:
            gramian.zero_()
            return torch.ones(2)

        class Spoiler:
            def weigh(self, gramian: Tensor) -> Any:
                return mojd.torch._weighing.Weighed(spoil(gramian).double(), None)

            def state_dict(self) -> dict[str, Any]:
                return {}

            def load_state_dict(self, state: dict[str, Any]) -> None:
                raise AssertionError

        for weighting in (spoil, Spoiler()):
            assert torch.equal(step(weighting).gramian, ROWS @ ROWS.T)

    @pytest.mark.parametrize(
        "weights", [torch.ones(2) * 1j, np.ones(2) * 1j, [1j, 1j]], ids=["tensor", "array", "list"]
    )
    def test_complex_weights(self, weights: Any) -> None:
        with pytest.raises(mojd.InvalidTypeError, match="the weighting returned"):
            step(lambda gramian: weights)


class TestScales:
    @pytest.mark.parametrize(
        ("first", "second", "message"),
        [
            (None, scaler(8.0), "are not scaled, and those to be added are"),
            (scaler(8.0), None, "are scaled, and those to be added are not"),
            (scaler(8.0), scaler(1.0, enabled=False), "are scaled, and those to be added are not"),
            (scaler(8.0), scaler(16.0), "have the scale 8, and those to be added 16"),
        ],
    )
    def test_mixed(self, first: Any, second: Any, message: str) -> None:
        p = parameter()
        upgrad = mojd.torch.UPGrad([p])
        for call in (
            lambda: upgrad.accumulate(ROWS @ p, scaler=second),
            lambda: upgrad.backward(ROWS @ p, scaler=second),
        ):
            upgrad.accumulate(ROWS @ p, scaler=first)
            with pytest.raises(mojd.InvalidInputError, match=message):
                call()
        upgrad.accumulate(ROWS @ p, scaler=first)
        with pytest.raises(mojd.InvalidInputError, match=message):
            upgrad.apply_gradients([[row] for row in ROWS], scaler=second)
        assert p.grad is None

    def test_scales_on_a_device_are_not_read(self) -> None:
        held = mojd.torch.LossGradients([parameter()])
        held.add_gradients([[row] for row in ROWS], scale=torch.ones((), device="meta"))
        held.add_gradients([[row] for row in ROWS], scale=torch.ones((), device="meta"))
        with pytest.raises(mojd.InvalidInputError, match="are scaled"):
            held.add_gradients([[row] for row in ROWS])


class TestStepsWithoutLosses:
    @pytest.mark.parametrize("make", [mojd.torch.UPGrad, PCD])
    def test_what_is_held_is_solved(self, make: Any) -> None:
        p, q = parameter(), parameter()
        one, other = make([p]), make([q])
        one.accumulate(ROWS[:, :] @ p)
        one.accumulate(ROWS.flip(1) @ p)
        info = one.backward()
        other.accumulate(ROWS @ q)
        expected = other.backward(ROWS.flip(1) @ q)
        assert torch.equal(info.weights, expected.weights) and p.grad is not None and q.grad is not None
        assert torch.equal(p.grad, q.grad)

    def test_scaled(self) -> None:
        p = parameter()
        upgrad = mojd.torch.UPGrad([p])
        upgrad.accumulate(ROWS @ p, scaler=scaler(8.0))
        info = upgrad.backward(scaler=scaler(8.0))
        torch.testing.assert_close(info.gramian, ROWS @ ROWS.T)
        torch.testing.assert_close(p.grad, 8.0 * (info.weights @ ROWS))
        upgrad.accumulate(ROWS @ p, scaler=scaler(8.0))
        with pytest.raises(mojd.InvalidInputError, match="have the scale 8, and those to be added 4"):
            upgrad.backward(scaler=scaler(4.0))

    def test_nothing_is_held(self) -> None:
        upgrad = mojd.torch.UPGrad([parameter()])
        with pytest.raises(mojd.InvalidInputError, match=r"pass losses, or call accumulate\(losses\) before"):
            upgrad.backward()


def pcd() -> PCD:
    p = parameter()
    method = PCD([p], tau=[0.3])
    method.backward(ROWS @ p)
    return method


def gradvac() -> GradVac:
    p = parameter()
    method = GradVac([p], seed=0)
    method.backward(ROWS @ p)
    return method


def rgw() -> GradientMethod:
    return mojd.torch.RGW([parameter()], seed=0)


class TestStates:
    @pytest.mark.parametrize(
        ("make", "entry", "value", "message"),
        [
            (pcd, "tau", 1.5, "tau must lie in"),
            (pcd, "tau", [0.1, 0.2], r"'mean_square'\] has 2 entries and state\['tau'\] 2"),
            (pcd, "beta", 1.0, r"beta must lie in \[0, 1\)"),
            (pcd, "beta", "0.9", "beta must be a number"),
            (pcd, "eps", -1.0, "eps must be finite and not negative"),
            (pcd, "rescale", "no", "rescale must be True or False, got 'no'"),
            (pcd, "mean_square", [1.0, 1.0], r"state\['mean_square'\] is a list"),
            (pcd, "mean_square", torch.ones(2, dtype=torch.int64), "is a tensor of dtype torch.int64"),
            (pcd, "mean_square", torch.ones(2, 2), r"has shape \(2, 2\); it must have \(K,\)"),
            (pcd, "mean_square", torch.ones(0), r"has shape \(0,\)"),
            (pcd, "mean_square", torch.tensor([1.0, torch.nan]), "holds NaN"),
            (pcd, "mean_square", torch.tensor([1.0, -1.0]), "negative entry"),
            (pcd, "mean_square", None, r"is None, but state\['steps'\] is 1"),
            (pcd, "steps", -1, r"state\['steps'\] must not be negative"),
            (pcd, "steps", 1.5, r"state\['steps'\] must be an integer"),
            (pcd, "steps", torch.tensor([1, 2]), r"state\['steps'\] must be an integer"),
            (pcd, "extra", 1, "must have the entries"),
            (gradvac, "beta", 2.0, r"state\['beta'\] must be a number in \[0, 1\]"),
            (gradvac, "beta", None, r"state\['beta'\] must be a number"),
            (gradvac, "cosines", torch.ones(2, 3), r"has shape \(2, 3\); it must have \(K, K\)"),
            (gradvac, "cosines", 1.0, r"state\['cosines'\] is a float"),
            (gradvac, "seed", 1, r"state\['seed'\] is no state"),
            (rgw, "seed", {"bit_generator": "PCG64", "state": {"state": 1}}, r"state\['seed'\] is no state"),
            (rgw, "seed", None, r"state\['seed'\] is no state"),
        ],
    )
    def test_an_entry_that_does_not_fit(self, make: Any, entry: str, value: Any, message: str) -> None:
        method = make()
        before = copy.deepcopy(method.state_dict())
        changes = {"tau": [0.5], "beta": 0.25, "eps": 0.5, "rescale": False, "steps": 7}
        changed = {**before, **{name: new for name, new in changes.items() if name in before}}
        with pytest.raises(mojd.MojdError, match=message):
            method.load_state_dict(
                {**changed, entry: value} if value is not None else {**before, entry: value}
            )
        assert str(method.state_dict()) == str(before)

    @pytest.mark.parametrize("make", [pcd, gradvac, rgw, lambda: mojd.torch.UPGrad([parameter()])])
    @pytest.mark.parametrize("state", [None, [], ["tau"], "state"])
    def test_no_mapping(self, make: Any, state: Any) -> None:
        with pytest.raises(mojd.InvalidTypeError, match=r"state is a .*pass the dict that state_dict"):
            make().load_state_dict(state)

    def test_a_count_and_an_average_in_float32(self) -> None:
        method = pcd()
        method.load_state_dict({**method.state_dict(), "steps": 3, "mean_square": torch.ones(2)})
        state = method.state_dict()
        assert state["steps"].dtype == torch.int64 and int(state["steps"]) == 3
        assert state["mean_square"].dtype == torch.float64

    def test_rescale(self) -> None:
        with pytest.raises(mojd.InvalidTypeError, match="rescale must be True or False, got 'no'"):
            PCD([parameter()], rescale="no")  # type: ignore[arg-type]


class TestRange:
    @pytest.mark.parametrize("norm", [1e-18, 1.0, 1e19])
    def test_gramians_of_float32_gradients(self, norm: float) -> None:
        """What the documentation promises, and no more: 1e-21 and 1e20 are outside."""
        torch.manual_seed(0)
        jacobian = nn.functional.normalize(torch.randn(3, 1000, dtype=torch.float64)).mul(norm).float()
        p = nn.Parameter(torch.zeros(1000))
        info = mojd.torch.UPGrad([p]).apply_gradients([[row] for row in jacobian])
        expected = jacobian.double() @ jacobian.double().T
        assert (info.gramian.double() - expected).abs().max() <= 1e-6 * norm**2
        assert info.status == mojd.Status.OPTIMAL

    def test_an_overflow_is_not_finite(self) -> None:
        p = nn.Parameter(torch.zeros(1))
        info = mojd.torch.UPGrad([p]).apply_gradients([[torch.full((1,), 1e20)]])
        assert info.status == mojd.Status.NONFINITE


class TestArguments:
    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda p: _backward(np.ones(2), [p]), r"losses is a NumPy array of shape \(2,\)"),
            (lambda p: _backward([[p.sum()], [p.sum()]], [p]), r"losses\[0\] is a list of 1; "),
            (lambda p: _backward([p], [p.sum()]), "they come first: backward"),
            (lambda p: _backward([p], p.exp()), "they come first: backward"),
            (lambda p: _backward([p, p], [p]), "they come second: backward"),
            (lambda p: _backward(nn.Linear(2, 2), [p]), "losses is a module, a Linear; pass"),
            (lambda p: _upgrad([p]).apply_gradients([p.detach(), p.detach()]),
             r"gradients\[0\] is a tensor of shape \(3,\); pass one sequence per loss"),
            (lambda p: _upgrad([p]).apply_gradients([None]), r"gradients\[0\] is None; pass"),
            (lambda p: _upgrad([p]).apply_gradients([1]), r"gradients\[0\] is an int; pass a seq"),
            (lambda p: _upgrad([p]).apply_gradients([{"a": p}]), r"gradients\[0\] is a dict; pass"),
        ],
    )  # fmt: skip
    def test_what_it_is(self, call: Any, message: str) -> None:
        with pytest.raises(mojd.MojdError, match=message):
            call(parameter())

    @pytest.mark.parametrize(
        "front_end", [mojd.torch.UPGrad, mojd.torch.RGW, mojd.torch.Constant, GradVac], ids=str
    )
    def test_nan_raises_nothing_and_no_option_says_so(self, front_end: Any) -> None:
        shown = inspect.signature(front_end).parameters
        assert "nonfinite" not in shown and {"params", "process_group"} <= set(shown)
        with pytest.raises(mojd.InvalidTypeError, match="'nonfinite' is no option"):
            front_end([parameter()], nonfinite="raise")

    def test_the_signature_of_gradvac(self) -> None:
        assert str(inspect.signature(GradVac)) == "(params, *, seed, beta=0.5, process_group=None)"
