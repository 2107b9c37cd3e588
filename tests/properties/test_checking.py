"""`check` on anybody's functions: what it finds out, what it reports, and what it says when it can't."""

from __future__ import annotations

import functools
import json
from typing import Any

import numpy as np
import pytest

import mojd
from mojd.properties import (
    Counterexample,
    Finding,
    PropertyViolated,
    Report,
    check,
    conflict,
    conflict_of_direction,
    outside_of_span,
    registered_properties,
    subject,
    violation,
)
from mojd.properties._search import find
from mojd.properties.published import JACOBIAN_DESCENT

Floats = Any
QUICK = 150


def equal_weights(gramian: Floats) -> Floats:
    return np.full(len(gramian), 1 / len(gramian))


def mean_of_rows(jacobian: Floats) -> Floats:
    return jacobian.mean(axis=0)


def projected_pairwise(jacobian: Floats) -> Floats:
    """Ten lines of somebody's own: PCGrad without its shuffling."""
    rows = jacobian.copy()
    for i in range(len(rows)):
        for j in range(len(rows)):
            square = jacobian[j] @ jacobian[j]
            product = rows[i] @ jacobian[j]
            if i != j and product < 0 and square > 0:
                rows[i] -= product / square * jacobian[j]
    return rows.mean(axis=0)


class Halved:
    """A method as an object, and as a method of one."""

    def __call__(self, gramian: Floats) -> Floats:
        return self.weights(gramian)

    def weights(self, gramian: Floats) -> Floats:
        return 0.5 * mojd.upgrad(gramian)


def half_upgrad(gramian: Floats) -> Floats:
    return 0.5 * mojd.upgrad(gramian)


class TestLike:
    def test_options_come_from_the_function(self) -> None:
        """A correct method with other options is correct."""
        for method, like in (
            (functools.partial(mojd.cagrad, c=0.3), "cagrad"),
            (functools.partial(mojd.pcd, tau=0.3), "pcd"),
            (functools.partial(mojd.nash_mtl, max_norm=1.0), mojd.nash_mtl),
            (functools.partial(mojd.fairgrad, alpha=1.0), "fairgrad"),
            (lambda gramian, tau=0.5: mojd.pcd(gramian, tau), "pcd"),
        ):
            finding = check(method, "optimal", like=like, examples=QUICK, raises=False)["optimal"]
            assert finding.holds, finding.evidence

    def test_options_that_it_takes_are_varied(self) -> None:
        def deaf(gramian: Floats, tau: float = 0.02) -> Floats:
            return mojd.pcd(gramian, 0.02)

        def half_deaf(gramian: Floats, pref_vector: Any = None) -> Floats:
            return mojd.upgrad(gramian, None if pref_vector is None else pref_vector**2)

        assert check(deaf, "optimal", like="pcd", examples=QUICK, raises=False).failures
        assert check(half_deaf, "optimal", like="upgrad", examples=QUICK, raises=False).failures

    def test_the_counterexample_knows(self) -> None:
        finding = check(half_upgrad, "optimal", like="upgrad", examples=QUICK, raises=False)["optimal"]
        assert 'like="upgrad")' in finding.assertion()
        with pytest.raises(AssertionError):
            exec(finding.assertion(), {})

    def test_of_one_of_mojds_own(self) -> None:
        assert check("upgrad", "optimal", like="mgda", examples=QUICK, raises=False).failures


class TestMeasures:
    def test_conflict_by_hand(self) -> None:
        gramian = np.array([[4.0, -8.0], [-8.0, 16.0]])
        # d = (−2 + 4)/2 = 1, g₀·d = −2, ‖g₀‖ = 2, Σ w‖g‖ = 3.
        assert conflict(gramian, [0.5, 0.5]) == pytest.approx(1 / 3)
        assert conflict(gramian, [2.0, 1.0]) == 0.0
        assert conflict(np.zeros((2, 2)), [1.0, 1.0]) == 0.0
        batch = conflict(np.stack([gramian, 2 * gramian]), np.array([[0.5, 0.5], [2.0, 1.0]]))
        np.testing.assert_allclose(batch, [1 / 3, 0.0])

    @pytest.mark.parametrize("scale", [2.0**-200, 1.0, 2.0**200])
    def test_conflict_has_no_unit(self, scale: float) -> None:
        gramian = np.array([[4.0, -8.0], [-8.0, 16.0]]) * scale**2
        assert conflict(gramian, np.array([0.5, 0.5]) / scale) == pytest.approx(1 / 3)

    def test_conflict_of_a_direction_by_hand(self) -> None:
        assert conflict_of_direction([[-2.0], [4.0]], [1.0]) == pytest.approx(0.25)
        assert conflict_of_direction([[-2.0], [4.0]], [8.0]) == pytest.approx(1.0)
        assert conflict_of_direction([[2.0], [4.0]], [8.0]) == 0.0

    def test_span_by_hand(self) -> None:
        assert outside_of_span([[1.0, 0.0], [2.0, 0.0]], [3.0, 4.0]) == pytest.approx(0.8)
        assert outside_of_span([[1.0, 1.0], [1.0, -1.0]], [3.0, 4.0]) <= 1e-15
        # A short row spans as well as a long one.
        assert outside_of_span([[1e200, 0.0], [0.0, 1e-20]], [3.0, 4.0]) <= 1e-15
        assert outside_of_span([[1e200, 0.0]], [3e200, 4e200]) == pytest.approx(0.8)
        assert outside_of_span([[0.0, 0.0]], [3.0, 4.0]) == pytest.approx(1.0)

    def test_of_a_method(self) -> None:
        assert violation("non_conflicting", equal_weights, [[-2.0], [4.0]]) == pytest.approx(1 / 3)
        assert violation("non_conflicting", "mgda", [[-2.0], [4.0]]) == 0.0
        ones, twos = np.ones(2), np.array([1.0, 2.0])
        jacobian = np.array([[0.0, 1.0], [1.0, 0.0]])
        # (2, 3), (1, 1) and (1, 2): shortest convex combinations (18, 12)/13, (1, 1)/2 and (4, 2)/5.
        error = np.array([12 / 13 - 0.5 - 0.4, 18 / 13 - 0.5 - 0.8])
        measured = violation("linear_under_scaling", mojd.mgda, jacobian, a=ones, b=twos)
        assert measured == pytest.approx(np.linalg.norm(error) / 3)


class TestAnybodysFunction:
    def test_of_a_gramian(self) -> None:
        report = check(equal_weights, JACOBIAN_DESCENT, examples=QUICK, raises=False)
        assert [finding.holds for finding in report.findings] == [False, True, True]
        assert subject(equal_weights).takes == "gramian"

    def test_of_a_jacobian(self) -> None:
        report = check(projected_pairwise, JACOBIAN_DESCENT, examples=QUICK, raises=False)
        assert [finding.holds for finding in report.findings] == [False, True, True]
        assert subject(projected_pairwise).takes == "jacobian"
        counterexample = report["non_conflicting"].counterexample
        assert counterexample is not None
        assert len(counterexample.jacobian) == 3, "with two rows, PCGrad conflicts with neither"

    def test_of_a_tensor(self) -> None:
        torch = pytest.importorskip("torch")

        def softmin(gramian: Any) -> Any:
            return torch.softmax(-torch.diagonal(gramian), dim=0)

        found = subject(softmin)
        assert (found.takes, found.library) == ("gramian", "torch")
        report = check(softmin, ("non_conflicting", "positively_homogeneous"), examples=QUICK, raises=False)
        assert [finding.holds for finding in report.findings] == [False, False]

    def test_torchjd_as_it_is(self) -> None:
        """Its objects are callables on tensors. The ridge costs UPGrad its properties."""
        aggregation = pytest.importorskip("torchjd.aggregation")
        for method, takes in ((aggregation.UPGrad(), "jacobian"), (aggregation.UPGradWeighting(), "gramian")):
            assert subject(method).takes == takes
            report = check(method, "non_conflicting", examples=QUICK, raises=False)
            assert report["non_conflicting"].holds is False
        mean = check(aggregation.Mean(), JACOBIAN_DESCENT, examples=QUICK, raises=False)
        assert [finding.holds for finding in mean.findings] == [False, True, True]

    def test_a_partial(self) -> None:
        cautious = functools.partial(mojd.pcd, tau=1.0)
        assert subject(cautious).name == "partial(mojd.weightings.pcd.pcd, tau=1.0)"
        assert check(cautious, "fallback_to_primary", examples=QUICK, raises=False).failures

    def test_random_ones_are_seeded(self) -> None:
        """The same draws for each evaluation of an example: random weights are linear under scaling."""

        def random_weights(gramian: Floats) -> Floats:
            return np.random.rand(len(gramian))  # noqa: NPY002

        np.random.seed(5)  # noqa: NPY002
        before = np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
        found = subject(random_weights)
        assert found.is_stochastic
        assert check(random_weights, "linear_under_scaling", examples=QUICK)["linear_under_scaling"].holds
        after = np.random.get_state()[1]  # type: ignore[index]  # noqa: NPY002
        assert np.array_equal(before, after)
        with pytest.raises(mojd.InvalidInputError, match="equivariant in distribution only"):
            check(random_weights, "permutation_equivariant", examples=QUICK)

    def test_one_that_modifies_its_argument(self) -> None:
        """Each evaluation gets an array of its own."""

        def in_place(jacobian: Floats) -> Floats:
            jacobian *= 0.5
            return jacobian.sum(axis=0)

        assert not check(in_place, "linear_under_scaling", examples=QUICK).failures

    def test_randomness_that_needs_more_than_two_rows(self) -> None:
        """PCGrad has nothing to draw for K = 2."""

        def shuffled(jacobian: Floats) -> Floats:
            order = np.random.permutation(len(jacobian))  # noqa: NPY002
            return jacobian[order[0]] if len(jacobian) >= 3 else jacobian[0]

        assert subject(shuffled).is_stochastic
        assert check(shuffled, "linear_under_scaling", examples=QUICK)["linear_under_scaling"].holds

    def test_answers_that_change(self) -> None:
        """With a state or a generator of its own: a finding, and no error from hypothesis."""
        own = np.random.default_rng(0)

        def restless(gramian: Floats) -> Floats:
            return own.random(len(gramian))

        finding = check(restless, "linear_under_scaling", examples=QUICK, raises=False)[
            "linear_under_scaling"
        ]
        assert finding.holds is False
        calls = []

        def now_and_then(gramian: Floats) -> Floats:
            calls.append(0)
            return np.full(len(gramian), np.nan if len(calls) == 60 else 1.0)

        finding = check(now_and_then, "weighted", examples=QUICK, raises=False)["weighted"]
        assert "gave another answer to the same input" in finding.evidence

    def test_a_smallest_size_is_found(self) -> None:
        def for_three_or_more(gramian: Floats) -> Floats:
            return mojd.krum(gramian, 0)

        found = subject(for_three_or_more)
        assert (found.takes, found.min_size) == ("gramian", 3)
        assert check(for_three_or_more, "weighted", examples=QUICK)["weighted"].sizes == (3, 6)

    def test_other_sizes(self) -> None:
        def wrong_for_seven(gramian: Floats) -> Floats:
            return (-1.0 if len(gramian) > 6 else 1.0) * mojd.upgrad(gramian)

        assert check(wrong_for_seven, "non_conflicting", examples=QUICK)["non_conflicting"].holds
        report = check(wrong_for_seven, "non_conflicting", examples=QUICK, k=(5, 9), n=8, raises=False)
        assert report["non_conflicting"].holds is False
        assert report["non_conflicting"].sizes == (5, 9)

    def test_another_tolerance(self) -> None:
        def single(gramian: Floats) -> Floats:
            """Weights with the 24 bits of float32, and a range that float32 lacks."""
            mantissa, exponent = np.frexp(mojd.upgrad(gramian))
            return np.ldexp(np.round(mantissa * 2.0**24) / 2.0**24, exponent)

        assert check(single, "non_conflicting", examples=QUICK, raises=False).failures
        assert not check(single, "non_conflicting", examples=QUICK, tolerance=1e-5).failures

    def test_weights_that_are_huge_buy_nothing(self) -> None:
        """A null direction of length 1e13 leaves d as noise, whatever the weights add up to."""

        def noisy(gramian: Floats) -> Floats:
            weights = mojd.mean(gramian)
            if len(gramian) > 1 and (gramian[0] == gramian[1]).all():
                weights[:2] += [1e13, -1e13]
            return weights

        assert violation("non_conflicting", noisy, [[2.0], [2.0], [-1.0]]) > 1e-12

    def test_overflow_is_a_violation(self) -> None:
        assert violation("non_conflicting", lambda J: 1e308 * np.ones(J.shape[1]), np.eye(3, 5)) == np.inf

    def test_what_it_prints_does_not_mix_with_reports(self, capsys: pytest.CaptureFixture[str]) -> None:
        def talkative(gramian: Floats) -> Floats:
            print("hello")
            return np.ones(len(gramian))

        check(talkative, "weighted", examples=5)
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "hello" in captured.err

    def test_one_that_imports_torch_itself(self) -> None:
        pytest.importorskip("torch")

        def lazily(gramian: Any) -> Any:
            import torch

            return torch.ones_like(torch.diagonal(gramian))

        assert subject(lazily).library == "torch"

    def test_nan_violates_everything(self) -> None:
        def unsafe(gramian: Floats) -> Floats:
            with np.errstate(all="ignore"):
                inverse = 1 / np.diag(gramian)
                return inverse / inverse.sum()

        finding = check(unsafe, "weighted", examples=QUICK, raises=False)["weighted"]
        assert finding.counterexample is not None
        assert finding.counterexample.violation == np.inf
        assert finding.counterexample.jacobian.tolist() == [[0.0]]
        assert "J = [[0]]: it is not finite" in finding.evidence

    def test_one_that_raises(self) -> None:
        def strict(gramian: Floats) -> Floats:
            return np.linalg.solve(gramian, np.ones(len(gramian)))

        finding = check(strict, "weighted", examples=QUICK, raises=False)["weighted"]
        assert finding.counterexample is not None
        assert "LinAlgError: Singular matrix" in finding.counterexample.error
        assert "J = [[0]]: it raised LinAlgError: Singular matrix" in finding.evidence
        assert "# it raised LinAlgError" in finding.assertion()


class TestReport:
    def report(self) -> Report:
        return check("mgda", ["non_conflicting", "linear_under_scaling"], examples=QUICK, raises=False)

    def test_findings(self) -> None:
        report = self.report()
        held, failed = report.findings
        assert held.holds
        assert held.mark == "✓"
        assert held.examples == QUICK == sum(held.structures.values())
        assert len(held.structures) > 8
        assert held.violation <= held.tolerance
        assert f"no counterexample among {QUICK} examples" in held.evidence
        assert "prove" not in held.evidence
        assert "K = 1 to 6" in held.evidence
        assert failed.mark == "✗"
        assert failed.counterexample is not None
        assert failed.counterexample.violation > 1e-3
        assert failed.violation == failed.counterexample.violation
        assert report["mgda", "linear_under_scaling"] is failed
        with pytest.raises(KeyError):
            report["weighted"]
        with pytest.raises(ValueError, match="no counterexample"):
            held.assertion()

    def test_the_counterexample_runs_and_fails(self) -> None:
        failed = self.report()["linear_under_scaling"]
        with pytest.raises(AssertionError):
            exec(failed.assertion(), {})
        # It is the last line that fails, and only for its tolerance.
        exec(failed.assertion().replace(f"<= {failed.tolerance:g}", "<= 1"), {})

    def test_a_function_without_a_name_of_its_own(self) -> None:
        report = check(lambda gramian: np.ones(len(gramian)), examples=QUICK)
        code = report["non_conflicting"].assertion()
        assert "# method is <lambda>" in code
        for callable_object in (functools.partial(mojd.pcd, tau=0.5), Halved(), Halved().weights):
            assert subject(callable_object).expression == "method"
        with pytest.raises(AssertionError):
            exec(code, {"method": lambda gramian: np.ones(len(gramian))})

    def test_naming_a_property_is_a_claim(self) -> None:
        with pytest.raises(PropertyViolated, match="mgda fails linear_under_scaling") as caught:
            check("mgda", ["non_conflicting", "linear_under_scaling"], examples=QUICK)
        assert len(caught.value.report.findings) == 2
        assert check("mgda", examples=20).failures
        with pytest.raises(PropertyViolated):
            check("mgda", examples=20, raises=True)

    def test_it_is_the_same_each_time(self) -> None:
        assert self.report().to_dict() == self.report().to_dict()

    def test_json(self) -> None:
        report = self.report()
        text = json.dumps(report.to_dict(), allow_nan=False)
        held, failed = json.loads(text)["findings"]
        assert held["counterexample"] is None
        assert failed["counterexample"]["jacobian"] == failed_jacobian(report)
        assert failed["property"] == "linear_under_scaling"

    def test_markdown_and_text(self) -> None:
        report = self.report()
        assert report.to_markdown() == (
            "| Method | non-conflicting | linear under scaling |\n"
            "| --- | :---: | :---: |\n"
            "| `mgda` | ✓ | ✗ |\n"
        )
        assert str(report).splitlines()[0].startswith("✓  non_conflicting")

    def test_statements_keep_every_digit(self) -> None:
        example = Counterexample(
            np.array([[0.0625, 1.05], [10.0, -2.0]]),
            "integers",
            0,
            {"tau": 2.0**-6, "c": np.array([2.0, 0.5])},
            1.0,
        )
        assert example.statement == "J = [[0.0625, 1.05], [10, -2]], tau = 0.015625, c = [2, 0.5]"

    def test_a_name_that_one_of_mojds_methods_has(self) -> None:
        """What a paper says is said of mojd's method, and not of a namesake."""

        def upgrad(gramian: Floats) -> Floats:
            return np.ones(len(gramian))

        finding = check(upgrad, "non_conflicting", examples=QUICK, raises=False)["non_conflicting"]
        assert finding.mark == "✗"

    def test_disagreement_with_a_paper_is_marked(self) -> None:
        finding = Finding("mgda", "non_conflicting", False, "mojd.mgda", published=True)
        assert finding.mark == "✗!"
        assert Report((finding,)).disagreements == (finding,)

    def test_examples_that_do_not_count_are_not_counted(self) -> None:
        """The fallback speaks of examples on which the primary suffices."""
        item = next(item for item in registered_properties() if item.name == "fallback_to_primary")
        finding = find(subject("pcd"), item, 40)
        assert finding.examples == 40
        assert finding.holds


def failed_jacobian(report: Report) -> Any:
    counterexample = report["linear_under_scaling"].counterexample
    assert counterexample is not None
    return counterexample.jacobian.tolist()


class TestErrors:
    @pytest.mark.parametrize(
        ("call", "kind", "message"),
        [
            (
                lambda: check("upgrade"),
                mojd.InvalidInputError,
                "method 'upgrade' is not known",
            ),
            (lambda: check(3), mojd.InvalidTypeError, "method must be a name or a function, got int"),
            (
                lambda: check("mgda", "linear"),
                mojd.InvalidInputError,
                "property 'linear' is not known; choose",
            ),
            (lambda: check("mgda", []), mojd.InvalidInputError, "properties is empty"),
            (
                lambda: check("mgda", examples=0),
                mojd.InvalidInputError,
                "examples must be a positive integer",
            ),
            (lambda: check("mgda", "one_dial"), mojd.InvalidInputError, "one_dial makes no sense for mgda"),
            (
                lambda: check(equal_weights, "optimal"),
                mojd.InvalidInputError,
                "no problem is known that it is to solve; name one with like=",
            ),
            (
                lambda: check(equal_weights, like="upgradd"),
                mojd.InvalidInputError,
                "method 'upgradd' is not known",
            ),
            (
                lambda: check(lambda gramian: np.ones(70)),
                mojd.InvalidInputError,
                r"(?s)neither a function from Gramians \(K, K\) to weights.*returned the shape \(70,\)",
            ),
            (
                lambda: check(lambda: None),
                mojd.InvalidInputError,
                "takes 0 positional arguments but 1 was given",
            ),
            (
                lambda: violation("optimal", equal_weights, [[1.0]]),
                mojd.InvalidInputError,
                "optimal makes no sense for",
            ),
            (
                lambda: violation("weighted", equal_weights, [[1.0], [2.0, 3.0]]),
                mojd.InvalidTypeError,
                "jacobian is a nested sequence of uneven lengths",
            ),
            (
                lambda: violation("weighted", equal_weights, [1.0]),
                mojd.InvalidInputError,
                r"jacobian must have shape",
            ),
            (
                lambda: violation("linear_under_scaling", equal_weights, [[1.0]]),
                mojd.InvalidInputError,
                r"linear_under_scaling needs a, b",
            ),
            (
                lambda: conflict([[1.0]], [1.0, 2.0]),
                mojd.InvalidInputError,
                r"weights must have shape \(..., 1\)",
            ),
        ],
    )
    def test_messages(self, call: Any, kind: type[Exception], message: str) -> None:
        with pytest.raises(kind, match=message):
            call()

    def test_a_shape_that_fits_small_examples_only(self) -> None:
        def pairs_only(gramian: Floats) -> Floats:
            return np.ones(2)

        finding = check(pairs_only, "weighted", examples=QUICK, raises=False)["weighted"]
        assert (
            "returned an array of shape (2,) for a gramian of shape (3, 3); expected weights of shape (3,)"
            in (finding.evidence)
        )
        assert check(pairs_only, "weighted", examples=QUICK, k=2)["weighted"].holds
