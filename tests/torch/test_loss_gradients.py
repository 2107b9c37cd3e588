"""One gradient per loss: the Gramian and the weighted sum against the explicit Jacobian."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import mojd
from mojd.torch import LossGradients
from tests.torch.few_losses import Problem, direction_error, gramian_error, rows, tasks, written

BARS = {torch.float64: 1e-12, torch.float32: 1e-5}


def held_of(problem: Problem) -> LossGradients:
    held = LossGradients(problem.params)
    held.add(problem.losses())
    return held


@pytest.mark.parametrize("count", [1, 2, 3, 8, 12, 13, 20])
@pytest.mark.parametrize("dtype", BARS)
class TestAgainstTheJacobian:
    def test_gramian(self, count: int, dtype: torch.dtype) -> None:
        problem = tasks(count, dtype)
        gramian = held_of(problem).gramian()
        assert gramian.dtype == dtype
        assert torch.equal(gramian, gramian.T)
        assert gramian_error(gramian, rows(problem.losses, problem.params)) <= BARS[dtype]

    def test_written_gradients(self, count: int, dtype: torch.dtype) -> None:
        problem = tasks(count, dtype)
        jacobian = rows(problem.losses, problem.params)
        held = held_of(problem)
        weights = torch.randn(count, dtype=dtype)
        held.write(weights)
        assert direction_error(written(problem.params), jacobian, weights) <= BARS[dtype]
        assert all(p.grad is None or p.grad.dtype == dtype for p in problem.params)


class TestGramian:
    @pytest.mark.parametrize("size", [2**12 - 1, 2**17, 2**17 + 1, 400_000])
    @pytest.mark.parametrize("count", [2, 13])
    def test_pieces(self, size: int, count: int) -> None:
        """Around the lengths at which parameters are joined or cut."""
        gradients = [[torch.randn(size), torch.randn(7), torch.randn(3, 5)] for _ in range(count)]
        params = [torch.zeros_like(part, requires_grad=True) for part in gradients[0]]
        held = LossGradients(params)
        held.add_gradients(gradients)
        jacobian = np.stack(
            [np.concatenate([part.double().numpy().ravel() for part in g]) for g in gradients]
        )
        assert gramian_error(held.gramian(), jacobian) <= 1e-6

    def test_ten_million_entries_of_one_sign(self) -> None:
        """Where float32 sums drift: entries near 1 that all add up."""
        gradients = [[1 + 0.1 * torch.rand(10_000_000)] for _ in range(2)]
        held = LossGradients([torch.zeros(10_000_000, requires_grad=True)])
        held.add_gradients(gradients)
        jacobian = np.stack([g[0].double().numpy() for g in gradients])
        assert gramian_error(held.gramian(), jacobian) <= 1e-5

    def test_many_small_parameters(self) -> None:
        """More dot products than are kept before they are added up."""
        count, params = 8, [torch.zeros(5000, requires_grad=True) for _ in range(700)]
        gradients = [[torch.randn(5000) for _ in params] for _ in range(count)]
        held = LossGradients(params)
        held.add_gradients(gradients)
        jacobian = np.stack([torch.cat(g).double().numpy() for g in gradients])
        assert gramian_error(held.gramian(), jacobian) <= 1e-6

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_multiplied_in_single(self, dtype: torch.dtype) -> None:
        """Squares of these underflow in float16, and sums of 1e5 of them lose all in bfloat16."""
        gradients = [
            [(1e-5 * torch.randn(100_000)).to(dtype), torch.randn(9).to(dtype) * 1e-4] for _ in range(3)
        ]
        params = [torch.zeros_like(part, requires_grad=True) for part in gradients[0]]
        held = LossGradients(params)
        held.add_gradients(gradients)
        gramian = held.gramian()
        assert gramian.dtype == torch.float32
        jacobian = np.stack([torch.cat(g).double().numpy() for g in gradients])
        assert gramian_error(gramian, jacobian) <= 1e-5

    @pytest.mark.parametrize("count", [3, 40])
    def test_reduced_precision_of_matrix_products_changes_nothing(self, count: int) -> None:
        gradients = [[torch.randn(50_000)] for _ in range(count)]
        jacobian = np.stack([g[0].double().numpy() for g in gradients])
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("medium")
        try:
            held = LossGradients([torch.zeros(50_000, requires_grad=True)])
            held.add_gradients(gradients)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                gramian = held.gramian()
        finally:
            torch.set_float32_matmul_precision(before)
        assert gramian.dtype == torch.float32
        assert gramian_error(gramian, jacobian) <= 1e-6

    def test_mixed_dtypes(self) -> None:
        p, q = torch.randn(30, dtype=torch.float64), torch.randn(40)
        p.requires_grad_()
        q.requires_grad_()
        h = torch.randn(50).bfloat16().requires_grad_()
        problem = Problem(
            lambda: [p.square().sum() + q.sin().sum(), p.sin().sum() + h.float().exp().sum(), (q**3).sum()],
            [p, q, h],
        )
        jacobian = rows(problem.losses, problem.params)
        held = held_of(problem)
        gramian = held.gramian()
        assert gramian.dtype == torch.float64
        assert gramian_error(gramian, jacobian) <= 1e-6
        held.write(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
        assert [t.grad is not None and t.grad.dtype for t in (p, q, h)] == [t.dtype for t in (p, q, h)]
        assert direction_error(written([p]), jacobian[:, :30], torch.tensor([1.0, -2.0, 0.5])) <= 1e-12
        assert direction_error(written([q]), jacobian[:, 30:70], torch.tensor([1.0, -2.0, 0.5])) <= 1e-6
        assert direction_error(written([h]), jacobian[:, 70:], torch.tensor([1.0, -2.0, 0.5])) <= 2.0**-8

    def test_layouts_that_differ(self) -> None:
        """Inner products and sums go by position, not by the order in memory."""
        a = torch.randn(4, 6, 5, 5)
        b = torch.randn(4, 6, 5, 5).to(memory_format=torch.channels_last)
        c = torch.randn(1).expand(4, 6, 5, 5)
        for gradients in ([a, b], [b, b.clone()], [a, c], [b, c]):
            param = torch.zeros(4, 6, 5, 5).to(memory_format=torch.channels_last).requires_grad_()
            held = LossGradients([param])
            held.add_gradients([[g] for g in gradients])
            jacobian = np.stack([g.double().contiguous().numpy().ravel() for g in gradients])
            assert gramian_error(held.gramian(), jacobian) <= 1e-6
            held.write(torch.tensor([0.5, -2.0]))
            assert direction_error(written([param]), jacobian, torch.tensor([0.5, -2.0])) <= 1e-6
            assert param.grad is not None and param.grad.stride() == param.stride()

    def test_layouts_that_differ_in_large_parameters(self) -> None:
        param = torch.zeros(64, 64, 5, 5, requires_grad=True)
        gradients = [
            torch.randn(64, 64, 5, 5),
            torch.randn(64, 64, 5, 5).to(memory_format=torch.channels_last),
        ]
        held = LossGradients([param])
        held.add_gradients([[g] for g in gradients])
        jacobian = np.stack([g.double().contiguous().numpy().ravel() for g in gradients])
        assert gramian_error(held.gramian(), jacobian) <= 1e-6
        held.write(torch.tensor([0.5, -2.0]))
        assert direction_error(written([param]), jacobian, torch.tensor([0.5, -2.0])) <= 1e-6

    def test_empty_and_scalar_parameters(self) -> None:
        p, q = torch.zeros(0, requires_grad=True), torch.tensor(2.0, requires_grad=True)
        held = LossGradients([p, q])
        held.add([p.sum() + q, 3 * q])
        assert held.gramian().tolist() == [[1.0, 3.0], [3.0, 9.0]]
        held.write(torch.tensor([1.0, 1.0]))
        assert q.grad is not None and q.grad.item() == 4.0


class TestWriting:
    def test_adds_to_what_is_there(self) -> None:
        problem = tasks(2)
        jacobian = rows(problem.losses, problem.params)
        held = held_of(problem)
        buffers = []
        for p in problem.params[2:6]:
            p.grad = torch.full_like(p, 3.0)
            buffers.append(p.grad)
        weights = torch.tensor([0.3, 0.7], dtype=torch.float64)
        held.write(weights)
        for p, buffer in zip(problem.params[2:6], buffers, strict=True):
            assert p.grad is buffer
            buffer -= 3.0
        assert direction_error(written(problem.params), jacobian, weights) <= 1e-12

    def test_parameters_that_no_loss_reaches_keep_none(self) -> None:
        problem = tasks(2)
        held_of(problem).write(torch.ones(2))
        # `unused` and `frozen`.
        missing = [p.shape for p in problem.params if p.grad is None]
        assert sorted(missing) == [torch.Size([3]), torch.Size([6])]

    def test_a_weight_of_zero(self) -> None:
        """Parameters that only such a loss reaches get zeros, as from autograd; nothing is read of it."""
        problem = tasks(3)
        jacobian = rows(problem.losses, problem.params)
        held = held_of(problem)
        weights = torch.tensor([0.0, 2.0, 0.0], dtype=torch.float64)
        held.write(weights)
        assert direction_error(written(problem.params), jacobian, weights) <= 1e-12
        heads = problem.params[6:]
        assert heads[0].grad is not None and not heads[0].grad.any()

    def test_nan_weights_reach_all_that_is_written(self) -> None:
        problem = tasks(2)
        held_of(problem).write(torch.full((2,), torch.nan))
        assert all(p.grad.isnan().all() for p in problem.params if p.grad is not None)
        assert sum(p.grad is not None for p in problem.params) == 8

    def test_shared_gradients_are_not_written_to(self) -> None:
        """Autograd gives both parameters of a sum the same tensor, and what is passed in is the caller's."""
        p, q = torch.zeros(5, requires_grad=True), torch.zeros(5, requires_grad=True)
        x = torch.arange(5.0)
        held = LossGradients([p, q])
        held.add([(p + q) @ x, (p - q) @ x])
        held.write(torch.tensor([2.0, 1.0]))
        assert p.grad is not None and q.grad is not None
        assert torch.equal(p.grad, 3 * x) and torch.equal(q.grad, x)
        mine: list[list[Tensor | None]] = [[torch.ones(5), torch.ones(5)], [torch.ones(5), None]]
        for _ in range(2):
            p.grad = q.grad = None
            held.add_gradients(mine)
            held.add_gradients(mine)
            held.write(torch.tensor([2.0, 1.0]))
            assert p.grad.tolist() == [6.0] * 5 and q.grad.tolist() == [4.0] * 5  # type: ignore[attr-defined]
        assert all(part is None or part.tolist() == [1.0] * 5 for row in mine for part in row)

    def test_gradients_are_let_go(self) -> None:
        problem = tasks(2)
        held = held_of(problem)
        assert len(held) == 2
        held.write(torch.ones(2))
        assert len(held) == 0
        with pytest.raises(mojd.InvalidInputError, match="needs gradients"):
            held.write(torch.ones(2))

    @pytest.mark.parametrize("fresh", [True, False])
    def test_half_precision_is_rounded_once(self, fresh: bool) -> None:
        """In bfloat16, 1 + 2⁻⁸ is 1, and so is the sum if each of its terms is rounded; 1 + 2·2⁻⁸ is not."""
        p = torch.zeros(4, dtype=torch.bfloat16, requires_grad=True)
        if not fresh:
            p.grad = torch.ones_like(p)
        small = torch.full((4,), 2.0**-8, dtype=torch.bfloat16)
        first = torch.ones_like(small) if fresh else torch.zeros_like(small)
        held = LossGradients([p])
        held.add_gradients([[first], [small], [small]])
        held.write(torch.ones(3))
        assert p.grad is not None and p.grad.tolist() == [1.0 + 2.0**-7] * 4


class TestAccumulation:
    @pytest.mark.parametrize("parts", [2, 3])
    def test_micro_batches_are_the_batch(self, parts: int) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).double()
        inputs = torch.randn(12, 4, dtype=torch.float64)
        params = list(model.parameters())

        def losses(x: Tensor) -> Tensor:
            outputs: Tensor = model(x)
            return outputs.square().sum(dim=0) / 12

        whole, sums = LossGradients(params), LossGradients(params)
        whole.add(losses(inputs))
        for part in inputs.chunk(parts):
            sums.add(losses(part))
        torch.testing.assert_close(sums.gramian(), whole.gramian(), rtol=1e-12, atol=0)
        sums.write(torch.tensor([1.0, 2.0]))
        found = written(params)
        for p in params:
            p.grad = None
        whole.write(torch.tensor([1.0, 2.0]))
        np.testing.assert_allclose(found, written(params), rtol=1e-11, atol=1e-15)

    def test_buffers_of_sums_are_used_for_the_result(self) -> None:
        """What was added up here is nobody else's: no further memory is taken."""
        p = torch.zeros(100_000, requires_grad=True)
        held = LossGradients([p])
        for _ in range(2):
            held.add([p.sum(), 2 * p.sum()])
        own = held.gradients[0][0]
        held.write(torch.tensor([1.0, 1.0]))
        assert p.grad is own
        assert p.grad is not None and p.grad.tolist() == [6.0] * 100_000

    def test_losses_may_miss_parameters_in_one_micro_batch(self) -> None:
        p, q = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
        held = LossGradients([p, q])
        held.add([p.sum(), torch.tensor(1.0)])
        held.add([q.sum(), 2 * p.sum()])
        assert held.gramian().tolist() == [[4.0, 4.0], [4.0, 8.0]]

    def test_a_failed_call_leaves_what_is_held(self) -> None:
        p = torch.zeros(2, requires_grad=True)
        held = LossGradients([p])
        held.add([p.sum(), 2 * p.sum()])
        with pytest.raises(mojd.InvalidInputError, match="3 entries, but gradients of 2 losses"):
            held.add([p.sum(), p.sum(), p.sum()])
        used = p.exp().sum()
        used.backward()  # type: ignore[no-untyped-call]
        with pytest.raises(mojd.InvalidInputError, match=r"losses\[1\] has been freed"):
            held.add([p.sum(), used])
        assert held.gramian().tolist() == [[2.0, 4.0], [4.0, 8.0]]


class TestGraphs:
    def test_the_graph_is_freed(self) -> None:
        p = torch.ones(2, requires_grad=True)
        losses = [p.exp().sum(), torch.tensor(3.0)]
        LossGradients([p]).add(losses)
        with pytest.raises(mojd.InvalidInputError, match="freed by an earlier backward pass"):
            LossGradients([p]).add(losses)

    def test_the_graph_is_kept(self) -> None:
        p = torch.ones(2, requires_grad=True)
        losses = [p.exp().sum(), p.sin().sum()]
        for _ in range(2):
            LossGradients([p]).add(losses, retain_graph=True)
        losses[0].backward()  # type: ignore[no-untyped-call]

    def test_an_expanded_gradient(self) -> None:
        """Autograd's gradient of a sum is one number, repeated: nothing to write to."""
        p = torch.zeros(70_000, requires_grad=True)
        held = LossGradients([p])
        held.add([p.sum(), -p.sum()])
        assert held.gramian().tolist() == [[70_000.0, -70_000.0], [-70_000.0, 70_000.0]]
        held.write(torch.tensor([3.0, 1.0]))
        assert p.grad is not None and p.grad.tolist() == [2.0] * 70_000
        p.grad[0] = 5.0
        assert p.grad[1] == 2.0


class TestDevices:
    @pytest.mark.parametrize("count", [2, 20])
    def test_nothing_waits_for_a_device(self, count: int) -> None:
        """A meta tensor has no values: to read one raises."""
        params = [
            torch.empty(shape, device="meta", requires_grad=True) for shape in ((300, 300), (9,), (5, 4))
        ]
        held = LossGradients(params)
        scale = torch.empty((), device="meta")
        shared = params[0].sum() + params[1].sum()
        losses = [shared * k + (params[2].sum() if k else 0.0) for k in range(count)]
        held.add(losses, scale=scale)
        gramian = held.gramian()
        assert gramian.shape == (count, count) and gramian.device.type == "meta"
        held.write(gramian[0])
        held.add_gradients([[torch.empty_like(p) for p in params]] * count)
        held.write(gramian[0])
        assert all(p.grad is not None and p.grad.shape == p.shape for p in params)

    @pytest.mark.gpu
    def test_cuda(self) -> None:
        problem = tasks(3, torch.float32)
        jacobian = rows(problem.losses, problem.params)
        gradients = [list(row) for row in held_of(problem).gradients]
        params = [p.detach().cuda().requires_grad_() for p in problem.params if p.requires_grad]
        held = LossGradients(params)
        held.add_gradients([[None if g is None else g.cuda() for g in row] for row in gradients])
        assert gramian_error(held.gramian().cpu(), jacobian) <= 1e-5
        weights = torch.tensor([0.5, 2.0, 0.0])
        held.write(weights.cuda())
        assert direction_error(written([p.cpu() for p in params]), jacobian, weights) <= 1e-5


class TestDeviceArithmetic:
    """What devices run, on CPU tensors."""

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("accumulated", [False, True])
    def test_weighted_sums(self, dtype: torch.dtype, accumulated: bool) -> None:
        from mojd.torch._weighted_sums import WeightedSum, add_on_device

        torch.manual_seed(1)
        weights = torch.tensor([0.5, -2.0, 3.0])
        items, expected = [], []
        for rows_present in ([0, 1, 2], [1], [0, 2], [2, 1][::-1]):
            param = torch.zeros(6, 7, dtype=dtype)
            parts = [torch.randn(6, 7).to(dtype) for _ in rows_present]
            target = torch.randn(6, 7).to(dtype) if accumulated else None
            total = sum(float(weights[r]) * p.double() for r, p in zip(rows_present, parts, strict=True))
            expected.append(total if target is None else total + target.double())
            items.append(WeightedSum(param, parts, list(rows_present), target))
        bar = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2.0**-7}[dtype]
        for found, wanted in zip(add_on_device(items, weights), expected, strict=True):
            assert found.dtype == dtype
            torch.testing.assert_close(found.double(), wanted, rtol=bar, atol=bar)

    def test_products(self) -> None:
        from mojd.torch._products import _by_matmul

        columns = [[torch.randn(5000) for _ in range(4)], [torch.randn(11) for _ in range(4)]]
        jacobian = np.stack([torch.cat(row).double().numpy() for row in zip(*columns, strict=True)])
        assert gramian_error(_by_matmul(columns, 4, torch.float32), jacobian) <= 1e-12


class TestErrors:
    def test_sparse_gradients(self) -> None:
        table = nn.Embedding(5, 2, sparse=True)
        held = LossGradients(table.parameters())
        with pytest.raises(mojd.InvalidTypeError, match="sparse=False"):
            held.add([table(torch.tensor([1])).sum()])

    @pytest.mark.parametrize(
        ("gradients", "message"),
        [
            ([[torch.ones(2)]], r"gradients\[0\] has 1 entries for 2 params"),
            ([[torch.ones(3), None]], r"gradients\[0\]\[0\] has shape \(3,\), but its parameter has \(2,\)"),
            ([[torch.ones(2), torch.ones(1).double()]], r"gradients\[0\]\[1\] has dtype torch.float64"),
            ([[[1.0, 1.0], None]], r"gradients\[0\]\[0\] is a list"),
            (torch.ones(2, 2), "gradients is a Tensor"),
            ([], "gradients is empty"),
        ],
    )
    def test_gradients_that_do_not_fit(self, gradients: list[list[Tensor]], message: str) -> None:
        held = LossGradients([torch.zeros(2, requires_grad=True), torch.zeros(1, requires_grad=True)])
        with pytest.raises(mojd.MojdError, match=message):
            held.add_gradients(gradients)

    def test_weights_that_do_not_fit(self) -> None:
        problem = tasks(2)
        with pytest.raises(mojd.InvalidInputError, match=r"weights has shape \(3,\)"):
            held_of(problem).write(torch.ones(3))

    def test_nothing_is_held(self) -> None:
        held = LossGradients([torch.zeros(2, requires_grad=True)])
        with pytest.raises(mojd.InvalidInputError, match=r"call add\(losses\) first"):
            held.gramian()

    def test_repr(self) -> None:
        assert repr(held_of(tasks(2))) == "LossGradients(losses=2, params=9 with 329 entries)"
