"""What has no per-example gradients, and what is no vector of losses: errors that say what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mojd
import mojd.torch
from tests.torch.examples.comparison import assert_gramians_close, names_something_of, reference_of
from tests.torch.examples.reference import jacobian
from tests.torch.examples.zoo import CASES, score


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def batch(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


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


def contrastive(h: Tensor) -> Tensor:
    z = F.normalize(h, dim=-1)
    return F.cross_entropy(z @ z.T / 0.1, torch.arange(len(h)), reduction="none")


def ranking(h: Tensor) -> Tensor:
    differences = h.sum(-1)[:, None] - h.sum(-1)[None, :]
    return F.softplus(differences).sum(1)


MIXING: dict[str, Callable[[Tensor], Tensor]] = {
    "contrastive": contrastive,
    "pairwise_ranking": ranking,
    "softmax_over_the_batch": lambda h: score(h.softmax(0)),
    "mean_subtracted": lambda h: score(h - h.mean(0)),
    "mean_of_losses_subtracted": lambda h: score(h) - score(h).mean(),
    "divided_by_deviation": lambda h: score(h / h.std(0)),
    "normalised_over_the_batch": lambda h: score(F.layer_norm(h.T, h.T.shape[1:]).T),
    "cumulative_sum": lambda h: score(h.cumsum(0)),
    "neighbours": lambda h: score(h + 0.1 * h.roll(1, 0)),
    "weak_neighbours": lambda h: score(h + 1e-4 * h.roll(1, 0)),
    "convolution_along_the_batch": lambda h: score(
        F.conv1d(h.T.unsqueeze(1), h.new_ones(1, 1, 3), padding=1)[:, 0].T
    ),
    "mean_expanded": lambda h: score(h).mean().expand(len(h)),
    "mean_for_all_but_one": lambda h: torch.cat([score(h)[:1], score(h).mean().expand(len(h) - 1)]),
    "a_matrix_over_the_batch": lambda h: h.new_ones(len(h), len(h)).tril() @ score(h),
    "attention_over_the_batch": lambda h: score(
        F.scaled_dot_product_attention(h[None, None], h[None, None], h[None, None])[0, 0]
    ),
    "largest_of_the_batch_subtracted": lambda h: score(h - h.max(0).values),
    "sorted_along_the_batch": lambda h: score(h.sort(0).values),
    "last_sees_first": lambda h: score(torch.cat([h[:-1], h[-1:] + h[:1]])),
}


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


def assert_exact_or_refused(compute: Callable[[], Tensor], reference: Tensor) -> None:
    try:
        G = compute()
    except mojd.InvalidInputError:
        return
    assert_gramians_close(G, reference, 1e-12)


class TestLossesThatAreNoVector:
    def test_a_mean(self) -> None:
        module = network()
        loss = F.mse_loss(module(batch(5, 4)), batch(5, 3))
        with pytest.raises(mojd.InvalidInputError, match=r"losses.*reduction=.none."):
            mojd.torch.Engine(module).backward(loss, weighting=mojd.upgrad)

    @pytest.mark.parametrize("kind", [list, tuple])
    def test_a_list(self, kind: Callable[[Any], Any]) -> None:
        module = network()
        losses = kind(score(module(batch(5, 4))).unbind())
        with pytest.raises(mojd.InvalidTypeError, match=r"losses.*(list|tuple)"):
            mojd.torch.Engine(module).gramian(losses)

    def test_an_array(self) -> None:
        with pytest.raises(mojd.InvalidTypeError, match=r"losses.*ndarray"):
            mojd.torch.Engine(network()).gramian(np.ones(3))  # type: ignore[arg-type]

    @pytest.mark.parametrize("shape", [(5, 2, 3), (0,), (5, 0), (0, 2)], ids=str)
    def test_other_shapes(self, shape: tuple[int, ...]) -> None:
        module = network()
        losses = module(batch(5, 4)).sum() * torch.ones(shape, dtype=torch.float64)
        with pytest.raises(mojd.InvalidInputError, match=rf"losses.*{re.escape(str(shape))}"):
            mojd.torch.Engine(module).gramian(losses)

    def test_integers(self) -> None:
        with pytest.raises(mojd.MojdError, match=r"losses.*int64"):
            mojd.torch.Engine(network()).gramian(torch.arange(5))

    def test_complex_numbers(self) -> None:
        module = network()
        with pytest.raises(mojd.MojdError, match=r"losses.*complex128"):
            mojd.torch.Engine(module).gramian(score(module(batch(5, 4))) * 1j)


class TestLossesWithoutAGraph:
    def test_detached(self) -> None:
        module = network()
        with pytest.raises(mojd.InvalidInputError, match=r"losses.*(graph|detach|no_grad)"):
            mojd.torch.Engine(module).gramian(score(module(batch(5, 4))).detach())

    def test_no_grad(self) -> None:
        module = network()
        with torch.no_grad():
            losses = score(module(batch(5, 4)))
        with pytest.raises(mojd.InvalidInputError, match="no_grad"):
            mojd.torch.Engine(module).backward(losses, weighting=mojd.upgrad)

    def test_inference_mode(self) -> None:
        module = network()
        with torch.inference_mode():
            losses = score(module(batch(5, 4)))
        with pytest.raises(mojd.InvalidInputError, match=r"losses.*graph"):
            mojd.torch.Engine(module).gramian(losses)

    def test_a_leaf(self) -> None:
        with pytest.raises(mojd.InvalidInputError, match="losses"):
            mojd.torch.Engine(network()).gramian(batch(5).requires_grad_())

    @pytest.mark.parametrize("name", ["chain_in_place", "small_cnn", "gru", "embedding", "layer_norm"])
    def test_a_graph_that_was_freed(self, name: str) -> None:
        problem = CASES[name].problem(3)
        losses = problem.losses()
        torch.autograd.grad(losses.sum(), list(problem.module.parameters()))
        for use in ("gramian", "gradients"):
            with pytest.raises(mojd.InvalidInputError, match=r"freed|second time|retain_graph"):
                getattr(mojd.torch.Engine(problem.module), use)(losses)
        assert all(p.grad is None for p in problem.module.parameters())


class TestModules:
    @pytest.mark.parametrize(
        "module",
        [F.relu, None, [nn.Linear(3, 2)], nn.Linear(3, 2).parameters(), nn.Linear(3, 2).weight, nn.Linear],
        ids=["function", "none", "list", "parameters", "parameter", "class"],
    )
    def test_what_is_no_module(self, module: Any) -> None:
        with pytest.raises(mojd.InvalidTypeError, match="module"):
            mojd.torch.Engine(module)

    @pytest.mark.parametrize("frozen", [False, True], ids=["without_parameters", "frozen"])
    def test_nothing_to_train(self, frozen: bool) -> None:
        module: nn.Module = network().requires_grad_(False) if frozen else nn.Tanh()
        x = batch(5, 4).requires_grad_()
        with pytest.raises(mojd.InvalidInputError, match=r"requires_grad|trainable"):
            mojd.torch.Engine(module).gramian(score(module(x)))

    def test_losses_of_another_module(self) -> None:
        with pytest.raises(mojd.InvalidInputError, match=r"losses.*(depend|reach|another)"):
            mojd.torch.Engine(network()).gramian(score(network()(batch(5, 4))))

    def test_a_copy_of_the_module(self) -> None:
        """The optimiser's module and the one that made the losses are easily mixed up."""
        problem = CASES["chain_in_place"].problem(4)
        copy = problem.to(torch.float64).module
        with pytest.raises(mojd.InvalidInputError, match=r"losses.*(depend|reach|another)"):
            mojd.torch.Engine(copy).backward(problem.losses(), weighting=mojd.upgrad)


class TestParametersThatChanged:
    @pytest.mark.parametrize(
        "name", ["chain_in_place", "small_cnn", "gru", "pre_norm_block", "weight_norm", "autoencoder"]
    )
    def test_between_forward_and_backward(self, name: str) -> None:
        """An optimiser's step in between: the gradients would be those of neither parameters."""
        problem = CASES[name].problem(3)
        losses = problem.losses()
        with torch.no_grad():
            for parameter in problem.module.parameters():
                parameter.add_(0.1)
        with pytest.raises((mojd.InvalidInputError, RuntimeError), match=r"changed|modified by an inplace"):
            mojd.torch.Engine(problem.module).backward(losses, weighting=mojd.upgrad)
        assert all(p.grad is None for p in problem.module.parameters())

    def test_inputs_that_changed(self) -> None:
        """The input of a layer is what its weight's gradient is made of."""
        module, x = network(), batch(5, 4)
        losses = score(module(x))
        x.add_(1.0)
        with pytest.raises((mojd.InvalidInputError, RuntimeError), match=r"changed|modified by an inplace"):
            mojd.torch.Engine(module).gramian(losses)


class TestWeights:
    @pytest.mark.parametrize("shape", [(4,), (6,), (5, 1), (), (1,)], ids=str)
    def test_wrong_shapes(self, shape: tuple[int, ...]) -> None:
        module = network()
        gradients = mojd.torch.Engine(module).gradients(score(module(batch(5, 4))))
        for use in (gradients.weighted, gradients.write):
            with pytest.raises(mojd.InvalidInputError, match=r"weights.*\(5,\)"):
                use(torch.ones(shape, dtype=torch.float64))
        assert all(p.grad is None for p in module.parameters())

    @pytest.mark.parametrize("shape", [(4,), (5, 5), (1,), ()], ids=str)
    def test_a_weighting_that_returns_wrong_shapes(self, shape: tuple[int, ...]) -> None:
        module = network()
        with pytest.raises(mojd.InvalidInputError, match="weight"):
            mojd.torch.Engine(module).backward(
                score(module(batch(5, 4))), weighting=lambda G: torch.ones(shape, dtype=G.dtype)
            )
        assert all(p.grad is None for p in module.parameters())

    @pytest.mark.parametrize("weighting", [None, 3, "upgrid", [0.5, 0.5]], ids=repr)
    def test_what_is_no_weighting(self, weighting: Any) -> None:
        module = network()
        with pytest.raises(mojd.MojdError, match="weighting"):
            mojd.torch.Engine(module).backward(score(module(batch(5, 4))), weighting=weighting)


class TestChunks:
    def test_backward_without_chunks(self) -> None:
        with pytest.raises(mojd.InvalidInputError, match=r"losses|add"):
            mojd.torch.Engine(network()).backward(weighting=mojd.upgrad)

    def test_losses_in_addition_to_chunks(self) -> None:
        """Either is meant to be the whole batch."""
        module = network()
        engine = mojd.torch.Engine(module)
        engine.add(score(module(batch(3, 4))))
        with pytest.raises(mojd.InvalidInputError, match="add"):
            engine.backward(score(module(batch(3, 4))), weighting=mojd.upgrad)

    def test_other_numbers_of_tasks(self) -> None:
        problem = CASES["tasks"].problem(4)
        engine = mojd.torch.Engine(problem.module)
        engine.add(problem.losses())
        with pytest.raises(mojd.InvalidInputError, match="tasks"):
            engine.add(problem.losses()[:, :2])

    def test_a_refused_chunk_leaves_the_others(self) -> None:
        problem = CASES["chain_in_place"].problem(6)
        reference = reference_of(problem).gramian()
        engine = mojd.torch.Engine(problem.module)
        engine.add(problem.take([0, 1, 2]).losses())
        mixed = contrastive(problem.module(problem.inputs[0]))
        with pytest.raises(mojd.InvalidInputError):
            engine.add(mixed)
        engine.add(problem.take([3, 4, 5]).losses())
        seen: list[Tensor] = []

        def weighting(G: Tensor) -> Tensor:
            seen.append(G)
            return torch.ones_like(G[0])

        engine.backward(weighting=weighting)
        assert_gramians_close(seen[0], reference, 1e-12)


class TestNonFinite:
    @pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=["nan", "inf"])
    @pytest.mark.parametrize("name", ["chain_in_place", "small_cnn", "pre_norm_block", "gru", "autoencoder"])
    def test_it_reaches_the_gramian_and_grad(self, name: str, value: float) -> None:
        """AMP's scaler has to see it; an error, or a refusal of "mixed" examples, would end the training."""
        problem = CASES[name].problem(4)
        scale = torch.ones(4, dtype=torch.float64)
        scale[2] = value
        G = mojd.torch.Engine(problem.module).gramian(problem.losses() * scale)
        assert not bool(torch.isfinite(G[2]).any())
        others = torch.tensor([0, 1, 3])
        expected = reference_of(problem).gramian()[others][:, others]
        assert_gramians_close(G[others][:, others], expected, 1e-12)
        mojd.torch.Engine(problem.module).backward(problem.losses() * scale, weighting=mojd.upgrad)
        for parameter in problem.module.parameters():
            assert parameter.grad is not None
            assert not bool(torch.isfinite(parameter.grad).all())

    def test_a_step_after_it_is_sound(self) -> None:
        problem = CASES["small_cnn"].problem(4)
        engine = mojd.torch.Engine(problem.module)
        engine.backward(problem.losses() * float("nan"), weighting=mojd.upgrad)
        assert_gramians_close(engine.gramian(problem.losses()), reference_of(problem).gramian(), 1e-12)

    def test_mixing_is_still_refused_after_it(self) -> None:
        """A probe that saw nothing but NaN has shown nothing."""
        module = network()
        engine = mojd.torch.Engine(module)
        engine.gramian(contrastive(module(batch(5, 4))) * float("nan"))
        with pytest.raises(mojd.InvalidInputError):
            engine.gramian(contrastive(module(batch(5, 4))) * 1.0)
