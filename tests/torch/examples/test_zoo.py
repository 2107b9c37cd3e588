"""The cases are what they say: losses per example, and gradients to compare."""

from __future__ import annotations

import pytest
import torch

from tests.torch.examples.comparison import assert_directions_close, assert_gramians_close, reference_of
from tests.torch.examples.reference import jacobian
from tests.torch.examples.zoo import CASES, UNUSUAL, Case

ALL = {**CASES, **UNUSUAL}
SEPARABLE = [case for case in ALL.values() if case.separable]
WITHOUT_GRADIENTS = {"gradients_that_are_zero_for_all"}


def test_names_are_not_used_twice() -> None:
    assert not set(CASES) & set(UNUSUAL)


@pytest.mark.parametrize("case", SEPARABLE, ids=lambda case: case.name)
def test_each_loss_is_that_of_its_own_example(case: Case) -> None:
    problem = case.problem(5)
    losses = problem.losses()
    alone = torch.cat([problem.take([k]).losses() for k in range(5)])
    torch.testing.assert_close(losses, alone, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("case", ALL.values(), ids=lambda case: case.name)
def test_gradients_differ_and_are_not_tiny(case: Case) -> None:
    """Otherwise a comparison would say nothing."""
    problem = case.problem(5)
    reference = jacobian(problem.module, problem.losses())
    norms = reference.norms()
    if case.name in WITHOUT_GRADIENTS:
        assert norms.max() == 0
        return
    assert norms.max() > 1e-3
    assert sum(rows.abs().max() > 1e-6 for rows in reference.rows.values()) >= len(reference.reached) - 1


@pytest.mark.parametrize("case", ALL.values(), ids=lambda case: case.name)
def test_a_seed_gives_the_same_problem(case: Case) -> None:
    assert torch.equal(case.problem(3).losses(), case.problem(3).losses())


@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.name)
@pytest.mark.parametrize("count", [1, 2, 4, 5])
def test_pytorch_itself_is_accurate_enough_in_float32(case: Case, count: int) -> None:
    """An engine in float32 can be held to 1e-5 only where rounding alone costs far less."""
    problem = case.problem(count, torch.float32)
    found = jacobian(problem.module, problem.losses())
    reference = reference_of(problem)
    assert_gramians_close(found.gramian(), reference.gramian(), 3e-6)
    weights = torch.ones(len(reference.norms()), dtype=torch.float64)
    assert_directions_close(found.weighted(weights), reference, weights, 3e-6)
