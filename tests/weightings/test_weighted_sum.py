"""Linear scalarisation: the weights are those of the user."""

from __future__ import annotations

import numpy as np
import pytest

import mojd


def test_weights_are_as_they_were_given() -> None:
    """Not normalised, of either sign, whatever the losses are."""
    for losses in ([1.0, 2.0, 3.0], [-1.0, 0.0, 1e300]):
        assert mojd.weighted_sum(losses, [1.0, 0.5, -0.01]).tolist() == [1.0, 0.5, -0.01]
    assert mojd.weighted_sum([5.0, 6.0], 2).tolist() == [2.0, 2.0]


def test_weights_broadcast_against_losses() -> None:
    losses = np.ones((4, 2))
    assert mojd.weighted_sum(losses, [3.0, 4.0]).tolist() == [[3.0, 4.0]] * 4
    own = np.arange(8.0).reshape(4, 2)
    weights = mojd.weighted_sum(losses, own)
    assert np.array_equal(weights, own)
    weights[0] = -1.0
    assert own[0].tolist() == [0.0, 1.0]


def test_the_dtype_is_that_of_the_losses() -> None:
    weights = mojd.weighted_sum(np.ones(2, np.float32), np.array([0.1, 0.2]))
    assert weights.dtype == np.float32
    assert np.array_equal(weights, np.array([0.1, 0.2], np.float32))
    assert mojd.weighted_sum([1, 2], [0.5, 0.25]).tolist() == [0.5, 0.25]


def test_the_sum_has_the_gradient_that_the_weights_give() -> None:
    """With PyTorch: the weights put on losses are those put on gradients."""
    torch = pytest.importorskip("torch")
    jacobian = torch.tensor([[2.0, 1.0], [-1.0, 3.0]], dtype=torch.float64)
    x = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    losses = jacobian @ x
    weights = mojd.weighted_sum(losses, [0.5, 2.0])
    (weights * losses).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == (torch.tensor([0.5, 2.0], dtype=torch.float64) @ jacobian).tolist()


def test_errors() -> None:
    with pytest.raises(mojd.InvalidInputError, match=r"weights must have shape \(\.\.\., 3\).*\(2,\)"):
        mojd.weighted_sum([1.0, 2.0, 3.0], [1.0, 2.0])
    with pytest.raises(mojd.NonFiniteError, match=r"weights .*nan at index \(1,\)"):
        mojd.weighted_sum([1.0, 2.0], [1.0, np.nan])
    with pytest.raises(mojd.InvalidInputError, match="losses and weights do not broadcast"):
        mojd.weighted_sum(np.ones((2, 2)), np.ones((3, 2)))
    with pytest.raises(mojd.InvalidTypeError, match="weights must hold real numbers"):
        mojd.weighted_sum([1.0, 2.0], ["a", "b"])
