"""What is no vector of losses, no module and no weighting: errors that say what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mojd
import mojd.torch
from tests.torch.examples.comparison import assert_gramians_close, reference_of
from tests.torch.examples.mixing import batch, contrastive, network
from tests.torch.examples.zoo import CASES, score


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


class TestHooks:
    """Hooks on the gradients of parameters would not run: weights that they mask would move."""

    @pytest.mark.parametrize("register", ["register_hook", "register_post_accumulate_grad_hook"])
    def test_they_are_refused_by_name(self, register: str) -> None:
        module = network()
        name, parameter = list(module.named_parameters())[1]
        handle = getattr(parameter, register)(lambda gradient: None)
        engine = mojd.torch.Engine(module)
        with pytest.raises(mojd.InvalidInputError, match=f"'{name}' has a hook"):
            engine.gradients(score(module(batch(5, 4))))
        handle.remove()
        engine.gradients(score(module(batch(5, 4))))


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
        with pytest.raises(mojd.MojdError, match=r"weighting|upgrid.*did you mean 'upgrad'"):
            mojd.torch.Engine(module).backward(score(module(batch(5, 4))), weighting=weighting)


class TestChunks:
    def test_backward_without_chunks(self) -> None:
        with pytest.raises(mojd.InvalidInputError, match=r"losses|add"):
            mojd.torch.Engine(network()).backward(weighting=mojd.upgrad)

    def test_losses_in_addition_to_chunks_are_the_last_of_them(self) -> None:
        problem = CASES["chain_in_place"].problem(5)
        engine = mojd.torch.Engine(problem.module)
        engine.add(problem.take([0, 1, 2]).losses())
        seen: list[Tensor] = []

        def weighting(G: Tensor) -> Tensor:
            seen.append(G)
            return torch.ones_like(G[0])

        engine.backward(problem.take([3, 4]).losses(), weighting=weighting)
        assert_gramians_close(seen[0], reference_of(problem).gramian(), 1e-12)

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
