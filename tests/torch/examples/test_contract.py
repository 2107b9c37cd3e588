"""On every case, what the engine computes is what the explicit Jacobian says."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import mojd
import mojd.torch
from mojd.torch.examples.graph import Edge
from mojd.torch.examples.layout import Layout
from mojd.torch.examples.probe import Probe
from tests.torch.examples.comparison import (
    DTYPES,
    TOLERANCE,
    assert_directions_close,
    assert_gramians_close,
    names_something_of,
    reference_of,
)
from tests.torch.examples.reference import jacobian
from tests.torch.examples.zoo import CASES, UNUSUAL, Case, Problem, score

on_every_case = pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.name)
in_every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["float64", "float32"])


def engine_of(problem: Problem) -> mojd.torch.Engine:
    return mojd.torch.Engine(problem.module)


def signed_weights(count: int, seed: int = 7) -> Tensor:
    return torch.randn(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def written(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


@on_every_case
@in_every_dtype
class TestAgreesWithTheJacobian:
    @pytest.mark.parametrize("count", [1, 2])
    def test_gramian(self, case: Case, dtype: torch.dtype, count: int) -> None:
        problem = case.problem(count, dtype)
        reference = reference_of(problem).gramian()
        G = engine_of(problem).gramian(problem.losses())
        assert G.dtype == dtype
        assert_gramians_close(G, reference, TOLERANCE[dtype])

    @pytest.mark.parametrize("count", [1, 5])
    def test_weighted_gradients(self, case: Case, dtype: torch.dtype, count: int) -> None:
        problem = case.problem(count, dtype)
        reference = reference_of(problem)
        gradients = engine_of(problem).gradients(problem.losses())
        assert_gramians_close(gradients.gramian(), reference.gramian(), TOLERANCE[dtype])
        for seed in (1, 2):
            weights = signed_weights(len(reference.norms()), seed)
            found = gradients.weighted(weights.to(dtype))
            assert {tensor.dtype for tensor in found.values()} == {dtype}
            assert_directions_close(found, reference, weights.to(dtype), TOLERANCE[dtype])
        assert not written(problem.module)

    def test_written_gradients(self, case: Case, dtype: torch.dtype) -> None:
        problem = case.problem(4, dtype)
        reference = reference_of(problem)
        weights = signed_weights(len(reference.norms())).to(dtype)
        engine_of(problem).gradients(problem.losses()).write(weights)
        assert_directions_close(written(problem.module), reference, weights, TOLERANCE[dtype])
        # As after loss.backward(): optimisers skip what has no gradient.
        assert set(written(problem.module)) == reference.reached


@on_every_case
class TestBackward:
    def test_it_writes_what_its_weights_say(self, case: Case) -> None:
        problem = case.problem(5)
        reference = reference_of(problem)
        G = engine_of(problem).gramian(problem.losses())
        info = engine_of(problem).backward(problem.losses(), weighting=mojd.upgrad)
        weights = torch.as_tensor(info.weights).reshape(-1)
        expected = mojd.upgrad(G, nonfinite="propagate")
        torch.testing.assert_close(weights, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))
        assert_directions_close(written(problem.module), reference, weights, TOLERANCE[torch.float64])

    def test_no_loss_rises_along_what_upgrad_writes(self, case: Case) -> None:
        problem = case.problem(5)
        reference = reference_of(problem)
        engine_of(problem).backward(problem.losses(), weighting=mojd.upgrad)
        direction = {
            name: torch.zeros_like(rows[0])
            if (p := problem.module.get_parameter(name)).grad is None
            else p.grad
            for name, rows in reference.rows.items()
        }
        length = torch.sqrt(sum((d.square().sum() for d in direction.values()), torch.tensor(0.0)))
        assert bool((reference.derivatives(direction) >= -1e-9 * reference.norms() * length).all())

    def test_it_adds_to_grad(self, case: Case) -> None:
        problem = case.problem(3)
        reference = reference_of(problem)
        trainable = [name for name, p in problem.module.named_parameters() if p.requires_grad]
        before = {name: torch.randn_like(problem.module.get_parameter(name)) for name in trainable}
        for name, tensor in before.items():
            problem.module.get_parameter(name).grad = tensor.clone()
        mean = partial(torch.full_like, fill_value=0.25)
        engine_of(problem).backward(problem.losses(), weighting=lambda G: mean(G[0]))
        added = {name: written(problem.module)[name] - before[name] for name in trainable}
        weights = torch.full_like(reference.norms(), 0.25)
        for name, direction in reference.weighted(weights).items():
            size = before[name].abs().max() + direction.abs().max()
            assert (added[name] - direction).abs().max() <= 1e-12 * size + 1e-15, name


@on_every_case
class TestSeveralCalls:
    def test_a_second_forward(self, case: Case) -> None:
        """One engine, other inputs, and another number of examples."""
        problem = case.problem(4)
        engine = engine_of(problem)
        engine.gramian(problem.losses())
        again = Problem(problem.module, case.problem(4, seed=1).inputs, problem.losses_of, problem.axes)
        G = engine.gramian(again.losses())
        assert_gramians_close(G, reference_of(again).gramian(), 1e-12)
        if case.separable:
            fewer = again.take([0, 2])
            G = engine.gramian(fewer.losses())
            assert_gramians_close(G, reference_of(fewer).gramian(), 1e-12)

    def test_parameters_that_change_between_forwards(self, case: Case) -> None:
        problem = case.problem(3)
        engine = engine_of(problem)
        engine.backward(problem.losses(), weighting=mojd.upgrad)
        with torch.no_grad():
            for parameter in problem.module.parameters():
                parameter.mul_(0.9)
                parameter.grad = None
        G = engine.gramian(problem.losses())
        assert_gramians_close(G, reference_of(problem).gramian(), 1e-12)

    def test_one_graph_serves_twice(self, case: Case) -> None:
        problem = case.problem(3)
        engine, losses = engine_of(problem), problem.losses()
        assert torch.equal(engine.gramian(losses), engine.gramian(losses))

    @pytest.mark.parametrize("parts", [([0, 1, 2], [3, 4]), ([0], [1], [2, 3, 4])], ids=["3+2", "1+1+3"])
    def test_chunks_are_the_whole_batch(self, case: Case, parts: tuple[list[int], ...]) -> None:
        if not case.separable:
            pytest.skip("other examples enter the losses as constants")
        problem = case.problem(5)
        reference = reference_of(problem)
        count = len(reference.norms())
        weights = signed_weights(count)
        seen: list[Tensor] = []

        def weighting(G: Tensor) -> Tensor:
            seen.append(G.clone())
            return weights.to(G.dtype)

        engine = engine_of(problem)
        for _ in range(2):  # The second time shows that nothing is left of the first.
            problem.module.zero_grad()
            for part in parts:
                engine.add(problem.take(part).losses())
            engine.backward(weighting=weighting)
            assert_gramians_close(seen[-1], reference.gramian(), 1e-12)
            assert_directions_close(written(problem.module), reference, weights, 1e-12)


class TestUnusualLayouts:
    """The examples are no axis of some gradients: exact, or an error that says where."""

    @pytest.mark.parametrize("case", UNUSUAL.values(), ids=lambda case: case.name)
    @pytest.mark.parametrize("count", [2, 4, 5])
    def test_exact_or_refused(self, case: Case, count: int) -> None:
        problem = case.problem(count)
        reference = reference_of(problem)
        weights = signed_weights(count)
        message = ""
        try:
            gradients = engine_of(problem).gradients(problem.losses())
            G, found = gradients.gramian(), gradients.weighted(weights)
        except mojd.MojdError as error:
            message = str(error)
        if message:
            assert names_something_of(problem.module, message), message
            return
        assert_gramians_close(G, reference.gramian(), 1e-12)
        dense = {name: tensor.to_dense() for name, tensor in found.items()}
        assert_directions_close(dense, reference, weights, 1e-12)


class TestTasks:
    """Losses of shape (K, M): objective (k, m) is row k·M + m."""

    def test_order(self) -> None:
        problem = CASES["tasks"].problem(4)
        losses = problem.losses()
        engine = engine_of(problem)
        G = engine.gramian(losses)
        assert G.shape == (12, 12)
        per_task = engine.gramian(losses[:, 1])
        torch.testing.assert_close(G[1::3, 1::3], per_task, rtol=1e-12, atol=0)
        per_example = engine.gramian(losses[2:3])
        torch.testing.assert_close(G[6:9, 6:9], per_example, rtol=1e-12, atol=1e-12 * float(G.max()))

    def test_a_column_is_like_a_vector(self) -> None:
        problem = CASES["chain_in_place"].problem(4)
        losses = problem.losses()
        engine = engine_of(problem)
        assert torch.equal(engine.gramian(losses), engine.gramian(losses.unsqueeze(1)))


class TestPrecision:
    @pytest.mark.parametrize("name", ["chain_of_activations", "small_cnn", "pre_norm_block", "gru"])
    def test_autocast(self, name: str) -> None:
        """In bfloat16 the reference is the explicit Jacobian of the same graph; one unit of it is 2⁻⁸."""
        problem = CASES[name].problem(5, torch.float32)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = problem.losses()
        reference = jacobian(problem.module, losses)
        gradients = engine_of(problem).gradients(losses)
        assert gradients.gramian().dtype == torch.float32
        assert_gramians_close(gradients.gramian(), reference.gramian(), 2.0**-6)
        weights = signed_weights(5).float()
        found = gradients.weighted(weights)
        assert {tensor.dtype for tensor in found.values()} == {torch.float32}
        assert_directions_close(found, reference, weights, 2.0**-6)

    @in_every_dtype
    @pytest.mark.parametrize("scale", [2.0**-50, 2.0**30], ids=["tiny", "huge"])
    def test_scaled_losses(self, dtype: torch.dtype, scale: float) -> None:
        """Powers of two scale the Gramian exactly: no threshold, no constant added."""
        problem = CASES["small_cnn"].problem(5, dtype)
        engine = engine_of(problem)
        G = engine.gramian(problem.losses())
        assert torch.equal(engine.gramian(scale * problem.losses()), scale**2 * G)

    def test_losses_of_very_different_size(self) -> None:
        problem = CASES["pre_norm_block"].problem(5)
        factors = 10.0 ** torch.linspace(-8, 8, 5, dtype=torch.float64)
        G = engine_of(problem).gramian(factors * problem.losses())
        expected = torch.outer(factors, factors) * reference_of(problem).gramian()
        assert_gramians_close(G, expected, 1e-12)

    def test_parts_in_other_precisions(self) -> None:
        """A float32 body with a float64 head."""
        problem = CASES["module_used_twice"].problem(4, torch.float32)
        module = nn.ModuleDict({"body": problem.module, "head": nn.Linear(4, 3, dtype=torch.float64)})
        x = problem.inputs[0]
        losses = score(module["head"](module["body"](x).tanh().double()))
        exact = jacobian(module, losses)
        gradients = mojd.torch.Engine(module).gradients(losses)
        assert_gramians_close(gradients.gramian(), exact.gramian(), 1e-5)
        found = gradients.weighted(signed_weights(4))
        assert found["body.weight"].dtype == torch.float32
        assert found["head.weight"].dtype == torch.float64
        assert_directions_close(found, exact, signed_weights(4), 1e-5)

    def test_a_module_in_bfloat16(self) -> None:
        problem = CASES["chain_in_place"].problem(4, torch.bfloat16)
        losses = problem.losses()
        reference = jacobian(problem.module, losses)
        gradients = engine_of(problem).gradients(losses)
        assert_gramians_close(gradients.gramian(), reference.gramian(), 2.0**-6)
        found = gradients.weighted(signed_weights(4).bfloat16())
        assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
        assert_directions_close(found, reference, signed_weights(4).bfloat16(), 2.0**-6)


class TestGraphs:
    """What is not in the table: graphs that only one forward pass has."""

    def test_dropout_in_training_mode(self) -> None:
        """The masks are in the graph: nothing is drawn again."""
        module = nn.Sequential(
            nn.Linear(3, 16), nn.Dropout(0.5), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 4)
        )
        losses = score(module.double()(torch.randn(5, 3, dtype=torch.float64)))
        G = mojd.torch.Engine(module).gramian(losses)
        assert_gramians_close(G, jacobian(module, losses).gramian(), 1e-12)

    def test_attention_with_dropout(self) -> None:
        layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.3, batch_first=True).double()
        losses = score(layer(torch.randn(5, 4, 8, dtype=torch.float64)))
        G = mojd.torch.Engine(layer).gramian(losses)
        assert_gramians_close(G, jacobian(layer, losses).gramian(), 1e-12)

    def test_checkpoints_draw_the_same_dropout_again(self) -> None:
        middle = nn.Sequential(nn.Linear(3, 16), nn.Dropout(0.5), nn.Linear(16, 4)).double()
        x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
        losses = score(torch.utils.checkpoint.checkpoint(middle, x, use_reentrant=False))
        G = mojd.torch.Engine(middle).gramian(losses)
        assert_gramians_close(G, jacobian(middle, losses).gramian(), 1e-12)

    def test_a_part_of_a_larger_module(self) -> None:
        """The engine's module is the head: the body's parameters are in the graph and stay out."""
        body, head = nn.Linear(3, 4).double(), nn.Linear(4, 2).double()
        losses = score(head(body(torch.randn(5, 3, dtype=torch.float64)).tanh()))
        engine = mojd.torch.Engine(head)
        assert_gramians_close(engine.gramian(losses), jacobian(head, losses).gramian(), 1e-12)
        engine.backward(losses, weighting=mojd.upgrad)
        assert body.weight.grad is None
        assert body.bias.grad is None
        assert head.weight.grad is not None

    def test_the_body_of_a_larger_module(self) -> None:
        body, head = nn.Linear(3, 4).double(), nn.Linear(4, 2).double()
        losses = score(head(body(torch.randn(5, 3, dtype=torch.float64)).tanh()))
        assert_gramians_close(
            mojd.torch.Engine(body).gramian(losses), jacobian(body, losses).gramian(), 1e-12
        )

    def test_inside_no_grad(self) -> None:
        problem = CASES["weight_norm"].problem(4)
        losses = problem.losses()
        with torch.no_grad():
            G = engine_of(problem).gramian(losses)
        assert_gramians_close(G, reference_of(problem).gramian(), 1e-12)

    def test_parameters_frozen_after_the_engine_was_made(self) -> None:
        problem = CASES["chain_in_place"].problem(4)
        engine = engine_of(problem)
        problem.module.get_parameter("0.weight").requires_grad_(False)
        assert_gramians_close(engine.gramian(problem.losses()), reference_of(problem).gramian(), 1e-12)
        problem.module.get_parameter("0.weight").requires_grad_(True)
        assert_gramians_close(engine.gramian(problem.losses()), reference_of(problem).gramian(), 1e-12)

    def test_parameters_replaced_after_the_engine_was_made(self) -> None:
        problem = CASES["chain_in_place"].problem(4)
        engine = engine_of(problem)
        weight = torch.randn_like(problem.module.get_parameter("0.weight"))
        problem.module.get_submodule("0").weight = nn.Parameter(weight)
        assert_gramians_close(engine.gramian(problem.losses()), reference_of(problem).gramian(), 1e-12)

    def test_a_deep_chain(self) -> None:
        """Graphs are walked without recursion."""
        layer = nn.Linear(3, 3).double()
        x = torch.randn(3, 3, dtype=torch.float64)
        h = layer(x)
        for _ in range(3000):
            h = h + 1e-3 * h.sin()
        losses = score(h)
        G = mojd.torch.Engine(layer).gramian(losses)
        assert_gramians_close(G, jacobian(layer, losses).gramian(), 1e-12)

    def test_a_probe_in_several_passes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The gradients of one pass have no more numbers than a bound, and all edges are told apart."""
        monkeypatch.setattr("mojd.torch.examples.probe._BLOCK", 40)
        questions: list[list[list[int]]] = []
        ask, measure = Probe.layouts, Probe._measure

        def asked(probe: Probe, edges: Iterable[Edge]) -> dict[Edge, list[Layout]]:
            questions.append([])
            return ask(probe, edges)

        def measured(probe: Probe, edges: list[Edge]) -> None:
            questions[-1].append([probe._graph.shape(edge).numel() for edge in edges])
            measure(probe, edges)

        monkeypatch.setattr(Probe, "layouts", asked)
        monkeypatch.setattr(Probe, "_measure", measured)
        problem = CASES["chain_in_place"].problem(4)
        G = engine_of(problem).gramian(problem.losses())
        assert_gramians_close(G, reference_of(problem).gramian(), 1e-12)
        assert max(map(len, questions)) > 2
        for passes in questions:
            assert all(len(sizes) == 1 or sum(sizes) <= 40 for sizes in passes)
            # As few passes as there can be, in this order.
            assert all(sum(one) + other[0] > 40 for one, other in pairwise(passes))

    def test_many_paths_through_a_graph(self) -> None:
        """2⁶⁰ paths, 60 nodes."""
        layer = nn.Linear(3, 3).double()
        h = layer(torch.randn(3, 3, dtype=torch.float64))
        for _ in range(60):
            h = 0.5 * (h + h)
        losses = score(h)
        G = mojd.torch.Engine(layer).gramian(losses)
        assert_gramians_close(G, jacobian(layer, losses).gramian(), 1e-12)


@pytest.mark.parametrize(
    "weighting",
    [mojd.upgrad, "upgrad", partial(mojd.pcd, tau=0.1), mojd.mgda, lambda G: torch.ones_like(G[0])],
    ids=["function", "name", "partial", "mgda", "lambda"],
)
def test_weightings_of_every_kind(weighting: str | Callable[[Tensor], Tensor]) -> None:
    problem = CASES["small_cnn"].problem(4)
    info = engine_of(problem).backward(problem.losses(), weighting=weighting)
    weights = torch.as_tensor(np.asarray(info.weights)).reshape(-1)
    assert_directions_close(written(problem.module), reference_of(problem), weights, 1e-12)
