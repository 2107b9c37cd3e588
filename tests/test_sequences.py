"""Lists and tuples in the place of arrays: a library's tensors stay with their library."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mojd
from mojd._arrays import as_array
from mojd.properties import audit_step

JACOBIAN = np.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])


class TestTensors:
    @pytest.mark.parametrize("kind", [list, tuple])
    def test_rows_of_a_jacobian(self, kind: Callable[..., Any]) -> None:
        torch = pytest.importorskip("torch")
        for dtype in (torch.float64, torch.float32):
            rows = torch.tensor(JACOBIAN, dtype=dtype)
            direction = mojd.aggregate(kind(rows), "upgrad")
            assert isinstance(direction, torch.Tensor)
            assert direction.dtype == dtype
            assert torch.equal(direction, mojd.aggregate(rows, "upgrad"))

    def test_nested(self) -> None:
        torch = pytest.importorskip("torch")
        gramian = torch.tensor(JACOBIAN @ JACOBIAN.T)
        weights = mojd.upgrad([list(row) for row in gramian])
        assert isinstance(weights, torch.Tensor)
        assert torch.equal(weights, mojd.upgrad(gramian))

    def test_losses_on_the_tape(self) -> None:
        torch = pytest.importorskip("torch")
        parameter = torch.tensor([1.0, 3.0], dtype=torch.float64, requires_grad=True)
        losses = [2 * parameter[0], parameter[1] ** 2]
        state = mojd.init_famo(2)
        weights = mojd.famo(state, losses)
        assert isinstance(weights, torch.Tensor)
        assert not weights.requires_grad
        np.testing.assert_allclose(weights.numpy(), mojd.famo(state, [2.0, 9.0]))
        updated = mojd.update_famo(state, losses, [losses[0].detach() / 2, 9.0]).logits
        np.testing.assert_allclose(updated, mojd.update_famo(state, [2.0, 9.0], [1.0, 9.0]).logits)

    def test_numbers_beside_tensors(self) -> None:
        """They are as exact as the tensor, not as torch's default dtype, and integers do not round them."""
        torch = pytest.importorskip("torch")
        assert as_array([torch.tensor(1.0, dtype=torch.float64), 0.1], "a")[1].item() == 0.1
        assert as_array([0.5, torch.tensor(1)], "a").tolist() == [0.5, 1.0]
        assert as_array([torch.tensor(1.0, dtype=torch.float32), 0.1], "a").dtype == torch.float32

    @pytest.mark.parametrize(
        ("make", "parts"),
        [
            (
                lambda t: [t.ones(3), t.ones(2, 2)],
                ["uneven shapes (3,), (2, 2)", "torch.cat([part.reshape(-1)"],
            ),
            (lambda t: [[t.ones(2)], [t.ones(2), t.ones(2)]], ["uneven shapes (1, 2), (2, 2)"]),
            (lambda t: [t.ones(3), 1.0], ["uneven shapes (3,), ()"]),
            (lambda t: [t.ones(3), None], ["can't be stacked"]),
            (lambda t: [t.ones(3), "a"], ["can't be stacked"]),
            (lambda t: [t.ones(3), t.ones(3, device="meta")], ["can't be stacked"]),
        ],
    )
    def test_what_does_not_stack(self, make: Callable[[Any], Any], parts: list[str]) -> None:
        torch = pytest.importorskip("torch")
        with pytest.raises(mojd.InvalidTypeError, match=r"^jacobian is a sequence of") as caught:
            mojd.aggregate(make(torch), "upgrad")
        for part in parts:
            assert part in str(caught.value), str(caught.value)

    def test_lists_import_no_framework(self) -> None:
        code = (
            "import sys, mojd; mojd.aggregate([(1.0, 2.0), (3.0, 4.0)], 'sum'); print('torch' in sys.modules)"
        )
        out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
        assert out.strip() == "False"


class TestArraysOfNumPy:
    def test_rows(self) -> None:
        assert np.array_equal(mojd.aggregate(list(JACOBIAN), "upgrad"), mojd.aggregate(JACOBIAN, "upgrad"))

    def test_uneven_ones(self) -> None:
        pattern = (
            re.escape("uneven shapes (3,), (2, 2); ") + ".*" + re.escape("np.concatenate([part.reshape(-1)")
        )
        with pytest.raises(mojd.InvalidTypeError, match=pattern):
            mojd.aggregate([np.ones(3), np.ones((2, 2))], "upgrad")
        with pytest.raises(mojd.InvalidTypeError, match="nested sequence of uneven lengths"):
            mojd.aggregate([[1.0, 2.0], [1.0]], "upgrad")


class TestParameters:
    """Changes of parameters as an optimiser sees them, in place of one flat update."""

    def test_of_different_shapes(self) -> None:
        torch = pytest.importorskip("torch")
        for ones, join in ((torch.ones, "torch.cat"), (np.ones, "np.concatenate")):
            with pytest.raises(mojd.InvalidTypeError) as caught:
                audit_step(np.ones((2, 7)), [ones(3), ones((2, 2))], "upgrad")
            assert f"join them: {join}([part.reshape(-1) for part in update])" in str(caught.value)

    @pytest.mark.parametrize("shape", [(7,), (7, 1), ()])
    def test_of_one_shape(self, shape: tuple[int, ...]) -> None:
        pattern = r"update must have shape \(7,\).*; flatten and join the changes of several parameters$"
        with pytest.raises(mojd.InvalidInputError, match=pattern):
            audit_step(np.ones((2, 7)), [np.ones(shape)] if shape else np.ones(()), "upgrad")


class TestWhatHoldsNothingYet:
    def test_none(self) -> None:
        nothing: Any = None
        with pytest.raises(mojd.InvalidTypeError, match=r"^gramian must hold real numbers, got None$"):
            mojd.upgrad(nothing)

    def test_generators(self) -> None:
        with pytest.raises(mojd.InvalidTypeError, match=r"^jacobian .* got a generator; pass a list"):
            mojd.aggregate((row for row in JACOBIAN), "upgrad")
        with pytest.raises(mojd.InvalidTypeError, match="got a map; pass a list"):
            mojd.aggregate(map(np.asarray, JACOBIAN), "upgrad")

    def test_coroutines(self) -> None:
        async def later() -> Any:
            return JACOBIAN

        promised = later()
        with pytest.raises(mojd.InvalidTypeError, match="got a coroutine; await it"):
            mojd.aggregate(promised, "upgrad")
        promised.close()
