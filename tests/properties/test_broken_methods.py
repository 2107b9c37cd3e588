"""Deliberately broken methods, each of which the checker has to catch, and with what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mojd
from mojd.properties import PropertyViolated, Report, check

Floats = Any

HELD_BY_UPGRAD = (
    "non_conflicting",
    "linear_under_scaling",
    "weighted",
    "positively_homogeneous",
    "permutation_equivariant",
    "optimal",
    "stops_if_strongly_stationary",
)


def projections(gramian: Floats) -> Floats:
    """The rows v⁽ⁱ⁾ whose sum UPGrad is."""
    K = len(gramian)
    return mojd.project(np.eye(K) / K, gramian)


def without_one_projection(gramian: Floats) -> Floats:
    return projections(gramian)[1:].sum(axis=0)


def one_weight_a_millionth_off(gramian: Floats) -> Floats:
    weights = mojd.upgrad(gramian)
    weights[0] *= 1 + 1e-6
    return weights


def wrong_sign_for_one(gramian: Floats) -> Floats:
    signs = np.ones(len(gramian))
    signs[0] = -1.0
    return mojd.upgrad(gramian * signs[:, None] * signs)


def regularised(gramian: Floats) -> Floats:
    """The ridge of TorchJD's defaults, relative to the trace."""
    K = len(gramian)
    trace = np.trace(gramian)
    return mojd.upgrad(gramian / (trace or 1.0) + 1e-4 * np.eye(K))


BROKEN: dict[Callable[[Floats], Floats], set[str]] = {
    without_one_projection: {"permutation_equivariant", "optimal"},
    one_weight_a_millionth_off: {"non_conflicting", "optimal"},
    wrong_sign_for_one: {"non_conflicting", "optimal"},
    regularised: {"non_conflicting", "linear_under_scaling", "optimal"},
}


def findings(method: Any, examples: int = 300) -> Report:
    return check(method, HELD_BY_UPGRAD, like="upgrad", examples=examples, raises=False)


def test_the_true_one_passes() -> None:
    """Otherwise the tests below would show nothing."""
    for finding in findings(lambda gramian: mojd.upgrad(gramian)).findings:
        assert finding.holds, finding.evidence


@pytest.mark.parametrize("broken", BROKEN, ids=lambda function: function.__name__)
def test_it_is_caught(broken: Callable[[Floats], Floats]) -> None:
    failed = {finding.property_name for finding in findings(broken).failures}
    assert BROKEN[broken] <= failed


@pytest.mark.parametrize("broken", BROKEN, ids=lambda function: function.__name__)
def test_it_fails_the_users_own_test_suite(broken: Callable[[Floats], Floats]) -> None:
    """An AssertionError whose last line, run, fails as well; small enough to read."""
    with pytest.raises(PropertyViolated) as caught:
        check(broken, HELD_BY_UPGRAD, like="upgrad", examples=300)
    assert isinstance(caught.value, AssertionError)
    for finding in caught.value.report.failures:
        counterexample = finding.counterexample
        assert counterexample is not None
        if finding.property_name in BROKEN[broken]:
            assert len(counterexample.jacobian) <= 3
            assert len(counterexample.statement) <= 110
        assert finding.assertion() in str(caught.value)
        with pytest.raises(AssertionError):
            exec(finding.assertion(), {})


def flipped(property_name: str) -> Callable[[Floats], Floats]:
    """A method that lacks just this property, or this one among others."""

    def halfway(gramian: Floats) -> Floats:
        """Move a thousandth of the way from UPGrad to a method without the property."""
        other = {
            "non_conflicting": mojd.properties.subject("upgrad").function(
                -gramian + 2 * np.diag(np.diag(gramian))
            ),
            "linear_under_scaling": mojd.mgda(gramian),
            "positively_homogeneous": np.full(len(gramian), float(np.trace(gramian))),
            "permutation_equivariant": mojd.pcd(gramian, 0.5),
            "optimal": mojd.dualproj(gramian),
            "stops_if_strongly_stationary": np.eye(len(gramian))[0],
        }[property_name]
        return mojd.upgrad(gramian) + 1e-3 * other

    return halfway


@pytest.mark.parametrize("name", [name for name in HELD_BY_UPGRAD if name != "weighted"])
def test_each_property_can_fail(name: str) -> None:
    report = check(flipped(name), name, like="upgrad", examples=300, raises=False)
    assert report[name].holds is False


def test_a_direction_outside_of_the_span() -> None:
    def slightly_sparse(jacobian: Floats) -> Floats:
        direction = jacobian.mean(axis=0)
        direction[0] *= 1 - 1e-6
        return direction

    assert check(slightly_sparse, "weighted", examples=300, raises=False)["weighted"].holds is False
