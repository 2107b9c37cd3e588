"""What mixes examples has no per-example gradients, and is refused with an error that says where."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mojd
import mojd.torch
from tests.torch.examples.comparison import assert_gramians_close, names_something_of
from tests.torch.examples.mixing import MIXING, batch, network
from tests.torch.examples.reference import jacobian
from tests.torch.examples.zoo import score


class TestBatchNorm:
    @pytest.mark.parametrize(
        ("layer", "inputs"),
        [
            (lambda: nn.BatchNorm1d(4), (5, 3)),
            (lambda: nn.BatchNorm2d(4), (5, 3, 3, 3)),
            (lambda: nn.BatchNorm3d(4), (5, 3, 2, 2, 2)),
            (lambda: nn.SyncBatchNorm(4), (5, 3, 3, 3)),
            (lambda: nn.BatchNorm2d(4, affine=False), (5, 3, 3, 3)),
            (lambda: nn.BatchNorm2d(4, track_running_stats=False).eval(), (5, 3, 3, 3)),
        ],
        ids=["1d", "2d", "3d", "sync", "without_affine", "without_running_statistics_in_eval_mode"],
    )
    def test_it_is_refused_by_name(self, layer: Callable[[], nn.Module], inputs: tuple[int, ...]) -> None:
        dimensions = len(inputs) - 2
        convolution = {0: nn.Linear(3, 4), 2: nn.Conv2d(3, 4, 2), 3: nn.Conv3d(3, 4, 1)}[dimensions]
        norm = layer()
        module = nn.ModuleDict({"features": nn.Sequential(convolution, norm), "head": nn.Flatten()}).double()
        losses = score(module["head"](module["features"](batch(*inputs))))
        expected = re.escape(f"features.1 ({type(norm).__name__})")
        with pytest.raises(mojd.InvalidInputError, match=expected):
            mojd.torch.Engine(module).gramian(losses)
        with pytest.raises(mojd.InvalidInputError, match=expected):
            mojd.torch.Engine(module).backward(losses, weighting=mojd.upgrad)
        assert all(parameter.grad is None for parameter in module.parameters())

    def test_it_is_refused_when_frozen(self) -> None:
        module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
        module[1].requires_grad_(False)
        with pytest.raises(mojd.InvalidInputError, match=r"1 \(BatchNorm1d\)"):
            mojd.torch.Engine(module).gramian(score(module(batch(5, 3))))

    def test_it_is_refused_behind_all_parameters(self) -> None:
        """Outside of the engine's module, and without parameters of its own."""
        module = network()
        losses = score(F.batch_norm(module(batch(5, 4)), None, None, training=True))
        with pytest.raises(mojd.InvalidInputError) as caught:
            mojd.torch.Engine(module).gramian(losses)
        assert names_something_of(module, str(caught.value))

    def test_it_is_harmless_in_front_of_all_parameters(self) -> None:
        """Then it has no part in any gradient of a parameter."""
        norm, module = nn.BatchNorm1d(4, affine=False).double(), network()
        losses = score(module(norm(batch(5, 4))))
        G = mojd.torch.Engine(module).gramian(losses)
        assert_gramians_close(G, jacobian(module, losses).gramian(), 1e-12)

    def test_one_in_eval_mode_is_not_blamed(self) -> None:
        module = nn.Sequential(
            *(nn.Linear(3, 4), nn.BatchNorm1d(4).eval(), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
        ).double()
        with pytest.raises(mojd.InvalidInputError, match=r"3 \(BatchNorm1d\)") as caught:
            mojd.torch.Engine(module).gramian(score(module(batch(5, 3))))
        assert "1 (BatchNorm1d)" not in str(caught.value)

    def test_instance_norm_in_training_mode_is_fine(self) -> None:
        layer = nn.InstanceNorm1d(4, affine=True, track_running_stats=True)
        module = nn.Sequential(nn.Conv1d(3, 4, 2), layer).double()
        losses = score(module(batch(5, 3, 6)))
        G = mojd.torch.Engine(module).gramian(losses)
        assert_gramians_close(G, jacobian(module, losses).gramian(), 1e-12)


class TestLossesThatMixExamples:
    @pytest.mark.parametrize("mix", MIXING.values(), ids=MIXING)
    @pytest.mark.parametrize("count", [2, 3, 6, 12])
    def test_they_do_mix(self, mix: Callable[[Tensor], Tensor], count: int) -> None:
        h = network()(batch(count, 4)).detach().requires_grad_()
        derivatives = torch.stack([torch.autograd.grad(loss, h, retain_graph=True)[0] for loss in mix(h)])
        apart = derivatives.abs().sum(2)
        assert bool((apart - apart.diagonal().diag() > 0).any())

    @pytest.mark.parametrize("mix", MIXING.values(), ids=MIXING)
    @pytest.mark.parametrize("count", [2, 3, 6, 12])
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
    def test_they_are_refused(self, mix: Callable[[Tensor], Tensor], count: int, dtype: torch.dtype) -> None:
        module = network().to(dtype)
        losses = mix(module(batch(count, 4).to(dtype)))
        assert losses.shape == (count,)
        before = [p.clone() for p in module.parameters()]
        for use in ("gramian", "backward", "add", "gradients"):
            with pytest.raises(mojd.InvalidInputError) as caught:
                getattr(mojd.torch.Engine(module), use)(losses)
            assert names_something_of(module, str(caught.value))
        assert all(map(torch.equal, before, module.parameters()))
        assert all(p.grad is None for p in module.parameters())

    @pytest.mark.parametrize("mix", MIXING.values(), ids=MIXING)
    def test_they_are_refused_on_sequences(self, mix: Callable[[Tensor], Tensor]) -> None:
        module = network()
        with pytest.raises(mojd.InvalidInputError) as caught:
            mojd.torch.Engine(module).gramian(mix(module(batch(4, 4, 4)).flatten(1)))
        assert names_something_of(module, str(caught.value))

    @pytest.mark.parametrize("mix", MIXING.values(), ids=MIXING)
    def test_they_are_refused_after_a_sound_step(self, mix: Callable[[Tensor], Tensor]) -> None:
        module = network()
        engine = mojd.torch.Engine(module)
        engine.gramian(score(module(batch(6, 4))))
        with pytest.raises(mojd.InvalidInputError):
            engine.gramian(mix(module(batch(6, 4))))

    @pytest.mark.parametrize("mix", MIXING.values(), ids=MIXING)
    def test_tasks_that_mix_are_refused(self, mix: Callable[[Tensor], Tensor]) -> None:
        """The first task is sound, the second is not."""
        module = network()
        h = module(batch(6, 4))
        with pytest.raises(mojd.InvalidInputError):
            mojd.torch.Engine(module).gramian(torch.stack([score(h), mix(h)], dim=1))

    def test_mixing_that_cancels_over_tasks_is_refused(self) -> None:
        """The sum of an example's losses depends on that example alone; each loss does not."""
        module = network()
        h = module(batch(6, 4))
        mean = score(h).mean()
        with pytest.raises(mojd.InvalidInputError):
            mojd.torch.Engine(module).gramian(torch.stack([score(h) + mean, score(h.sin()) - mean], dim=1))

    @pytest.mark.parametrize("batch_first", [True, False])
    def test_attention_over_the_wrong_axis_is_refused(self, batch_first: bool) -> None:
        """What nn.MultiheadAttention does with (K, T, d) unless it is told batch_first=True."""
        layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=batch_first).double()
        losses = score(layer(batch(5, 4, 8)))
        if batch_first:
            mojd.torch.Engine(layer).gramian(losses)
            return
        with pytest.raises(mojd.InvalidInputError) as caught:
            mojd.torch.Engine(layer).gramian(losses)
        assert names_something_of(layer, str(caught.value))

    def test_any_two_examples_that_meet_are_found(self) -> None:
        """However far apart, among many that don't."""
        module, count = network(), 40
        x = batch(count, 4)
        engine = mojd.torch.Engine(module)
        missed = []
        for i in range(count):
            for j in range(i):
                h = module(x)
                meeting = torch.zeros(count, count, dtype=torch.float64)
                meeting[i, j] = 1.0
                losses = score(h + meeting @ h)
                try:
                    mojd.torch.Engine(module).gramian(losses)
                except mojd.InvalidInputError:
                    continue
                missed.append((i, j))
        assert missed == []
        assert_gramians_close(
            engine.gramian(score(module(x))), jacobian(module, score(module(x))).gramian(), 1e-12
        )

    @pytest.mark.parametrize("count", [2, 6])
    def test_mixing_by_values_is_found_although_the_graph_is_the_same(self, count: int) -> None:
        """A matrix over the batch that is the identity at first: the next graph has the same nodes."""
        module = network()
        engine = mojd.torch.Engine(module)
        identity = torch.eye(count, dtype=torch.float64)
        sound = score(identity @ module(batch(count, 4)))
        reference = jacobian(module, sound).gramian()
        assert_exact_or_refused(partial(engine.gramian, sound), reference)
        mixed = score((identity + 0.5 * identity.roll(1, 0)) @ module(batch(count, 4)))
        with pytest.raises(mojd.InvalidInputError):
            engine.gramian(mixed)

    @pytest.mark.parametrize("count", [2, 6])
    def test_an_order_that_changes_is_found_although_the_graph_is_the_same(self, count: int) -> None:
        """Shuffled losses may be refused or handled; but not be taken for those of the step before."""
        module = network()
        engine = mojd.torch.Engine(module)
        for order in (torch.arange(count), torch.arange(count).roll(1), torch.arange(count).flip(0)):
            losses = score(module(batch(count, 4))[order])
            reference = jacobian(module, losses).gramian()
            assert_exact_or_refused(partial(engine.gramian, losses), reference)


MIXERS: dict[str, Callable[[Tensor], Tensor]] = {
    "flip": lambda h: h.flip(0),
    "roll": lambda h: h.roll(1, 0),
    "softmax": lambda h: h.softmax(0),
    "cumsum": lambda h: h.cumsum(0),
    "mean": lambda h: h.mean(0, keepdim=True).expand_as(h),
}


@pytest.mark.parametrize("mixer", MIXERS.values(), ids=MIXERS)
@pytest.mark.parametrize("first", [1.0, 0.0], ids=["off at first", "in the first step"])
def test_a_branch_that_is_switched_on_later(mixer: Callable[[Tensor], Tensor], first: float) -> None:
    """A coefficient of 0, as of mixup or of a term that is faded in, hides that examples are mixed."""
    module = network()
    engine = mojd.torch.Engine(module)
    for share in (first, 0.6):
        h = module(batch(5, 4))
        losses = score(share * h + (1 - share) * mixer(h))
        assert_exact_or_refused(partial(engine.gramian, losses), jacobian(module, losses).gramian())


@pytest.mark.parametrize("pick", [lambda h, order: h[order], lambda h, order: h.index_select(0, order)])
def test_a_look_up_that_changes_its_order(pick: Callable[[Tensor, Tensor], Tensor]) -> None:
    module = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 3)).double()
    engine = mojd.torch.Engine(module)
    words = torch.tensor([0, 3, 5, 6, 2])
    for order in (torch.arange(5), torch.tensor([4, 2, 0, 1, 3])):
        losses = score(module[1](pick(module[0](words), order)))
        assert_exact_or_refused(partial(engine.gramian, losses), jacobian(module, losses).gramian())


def test_a_view_of_other_lengths() -> None:
    module = nn.Linear(4, 4).double()
    engine = mojd.torch.Engine(module)
    x = batch(4, 4)
    for shape in ((4, 2, 2), (2, 4, 2), (4, 4, 1)):
        losses = module(x).view(shape).tanh().amax((1, 2) if shape[0] == 4 else (0, 2))
        assert_exact_or_refused(partial(engine.gramian, losses), jacobian(module, losses).gramian())


def test_a_function_of_the_users_with_a_name_of_pytorchs() -> None:
    class Relu(torch.autograd.Function):
        order = torch.arange(5)

        @staticmethod
        def forward(ctx: Any, h: Tensor) -> Tensor:
            return h[Relu.order]

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Any:
            return gradients[0][torch.argsort(Relu.order)]

    module = network()
    engine = mojd.torch.Engine(module)
    for order in (torch.arange(5), torch.tensor([4, 2, 0, 1, 3])):
        Relu.order = order
        losses = score(Relu.apply(module(batch(5, 4))))  # type: ignore[no-untyped-call]
        assert_exact_or_refused(partial(engine.gramian, losses), jacobian(module, losses).gramian())


def assert_exact_or_refused(compute: Callable[[], Tensor], reference: Tensor) -> None:
    try:
        G = compute()
    except mojd.InvalidInputError:
        return
    assert_gramians_close(G, reference, 1e-12)
