"""Every kind of bad input: which exception, and whether it names the argument, its shape and a way out."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import mojd
from mojd import (
    NNQP,
    InvalidInputError,
    InvalidTypeError,
    MissingDependencyError,
    MojdError,
    NonFiniteError,
    NotDifferentiableError,
    SolverError,
)
from mojd.weightings import registered_programmes

EYE = np.eye(3)
ONES = np.ones(3)
BY_GRAMIAN: dict[str, Callable[..., Any]] = {
    **{weighting.name: weighting.weights for weighting in registered_programmes()},
    "project": lambda gramian, **options: mojd.project(np.ones(np.shape(gramian)[-1:]), gramian, **options),
    "solve": lambda gramian, **options: mojd.solve(NNQP(gramian, np.ones(np.shape(gramian)[-1:])), **options),
}


@pytest.fixture(params=BY_GRAMIAN)
def compute(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Everything that takes a Gramian and options of a solver."""
    return BY_GRAMIAN[request.param]


def check(call: Callable[[], Any], kind: type[Exception], *parts: str) -> None:
    """Call, and look for all parts in the message of the exception."""
    with pytest.raises(kind) as caught:
        call()
    assert isinstance(caught.value, MojdError)
    message = str(caught.value)
    for part in parts:
        assert part in message, message


class TestHierarchy:
    @pytest.mark.parametrize(
        ("kind", "builtin"),
        [
            (InvalidInputError, ValueError),
            (InvalidTypeError, TypeError),
            (NonFiniteError, ValueError),
            (MissingDependencyError, ImportError),
            (SolverError, RuntimeError),
            (NotDifferentiableError, NotImplementedError),
        ],
    )
    def test_each_is_what_a_caller_expects(self, kind: type[Exception], builtin: type[Exception]) -> None:
        assert issubclass(kind, MojdError)
        assert issubclass(kind, builtin)

    def test_nan_is_bad_input(self) -> None:
        assert issubclass(NonFiniteError, InvalidInputError)


class TestGramian:
    @pytest.mark.parametrize("shape", [(3,), (), (0, 0), (2, 0, 0)])
    def test_shapes_that_are_none(self, shape: tuple[int, ...]) -> None:
        for weighting in registered_programmes():
            check(
                partial(weighting.weights, np.ones(shape)),
                InvalidInputError,
                "gramian must have shape (..., K, K)",
                f"got shape {shape}",
            )

    @pytest.mark.parametrize("shape", [(3, 5), (2, 3, 5)])
    def test_a_jacobian_in_its_place(self, shape: tuple[int, ...]) -> None:
        """The likeliest mistake of all gets a hint."""
        for weighting in registered_programmes():
            check(
                partial(weighting.weights, np.ones(shape)),
                InvalidInputError,
                "gramian must have shape (..., K, K)",
                f"got shape {shape}",
                "if it is a Jacobian",
                "mojd.aggregate",
                "mojd.gramian",
            )

    def test_asymmetric(self, compute: Callable[..., Any]) -> None:
        gramian = 2.0 * EYE
        gramian[0, 2] = 0.5
        for options in ({}, {"solver": "array_api"}, {"solver": "scipy_nnls"}, {"nonfinite": "propagate"}):
            check(
                partial(compute, gramian, **options),
                InvalidInputError,
                "gramian of shape (3, 3) is not symmetric",
                "0.5 at index (0, 2) but 0.0 at (2, 0)",
                "J @ J.T",
            )

    def test_asymmetric_in_a_batch(self, compute: Callable[..., Any]) -> None:
        for size in (2, 3, 5):
            gramians = np.stack([np.eye(size)] * 11)
            gramians[8, 1, 0] = 0.25
            check(
                partial(compute, gramians),
                InvalidInputError,
                f"gramian of shape (11, {size}, {size}) is not symmetric",
                "0.0 at index (8, 0, 1) but 0.25 at (8, 1, 0)",
            )

    def test_negative_diagonal(self, compute: Callable[..., Any]) -> None:
        for size in (1, 2, 3, 6):
            gramian = np.eye(size)
            gramian[-1, -1] = -1.5
            for options in ({}, {"solver": "array_api"}):
                check(
                    partial(compute, gramian, **options),
                    InvalidInputError,
                    f"gramian of shape ({size}, {size}) has the negative diagonal entry -1.5",
                    f"at index ({size - 1}, {size - 1})",
                    "squared norm can't be negative",
                )

    @pytest.mark.parametrize("value", [1.5, -1.5])
    def test_entries_that_no_inner_product_has(self, compute: Callable[..., Any], value: float) -> None:
        for size in (2, 3, 7):
            gramian = np.eye(size)
            gramian[0, 1] = gramian[1, 0] = value
            check(
                partial(compute, gramian),
                InvalidInputError,
                f"gramian of shape ({size}, {size}) is not positive semi-definite",
                f"the entry {value} at index (0, 1)",
                "geometric mean 1.0 of its two diagonal entries",
            )

    def test_something_beside_a_zero_row(self, compute: Callable[..., Any]) -> None:
        for size in (2, 4):
            gramian = np.eye(size)
            gramian[0, 0] = 0.0
            gramian[0, 1] = gramian[1, 0] = 1e-3
            check(
                partial(compute, gramian),
                InvalidInputError,
                "not positive semi-definite",
                "0.001 at index (0, 1)",
                "geometric mean 0.0",
            )

    @pytest.mark.parametrize(("dtype", "off"), [(np.float64, 1e-9), (np.float32, 1e-4), (np.float16, 1e-2)])
    def test_rounding_errors_of_the_dtype_are_no_reason(
        self, compute: Callable[..., Any], dtype: Any, off: float
    ) -> None:
        gramian = np.array([[1.0, 0.5 + off], [0.5, 1.0]]).astype(dtype)
        compute(gramian)
        compute(np.array([[1.0, 1.0 + off], [1.0 + off, 1.0]]).astype(dtype))
        if dtype != np.float64:
            with pytest.raises(InvalidInputError, match="not symmetric"):
                compute(gramian.astype(np.float64))

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_nonfinite(self, compute: Callable[..., Any], bad: float) -> None:
        gramians = np.stack([np.eye(4)] * 3)
        gramians[2, 1, 3] = bad
        for options in ({}, {"solver": "array_api"}, {"solver": "scipy_nnls"}):
            check(
                partial(compute, gramians, **options),
                NonFiniteError,
                f"gramian of shape (3, 4, 4) holds {bad} at index (2, 1, 3)",
                "(1 such entries)",
                "nonfinite='propagate'",
            )

    @pytest.mark.parametrize(
        "value",
        [
            "a Gramian",
            {"gramian": 1},
            np.array([["a", "b"]]),
            np.eye(2, dtype=complex),
            np.eye(2, dtype=bool),
            np.array([[1, None], [None, 1]]),
        ],
        ids=["text", "dict", "strings", "complex", "bool", "objects"],
    )
    def test_things_that_are_no_numbers(self, compute: Callable[..., Any], value: Any) -> None:
        check(
            lambda: compute(value),
            InvalidTypeError,
            "gramian must hold real numbers, got dtype",
            "shape",
            "convert",
        )

    def test_none(self, compute: Callable[..., Any]) -> None:
        """What NumPy makes of it, an object of shape (), says less."""
        check(lambda: compute(None), InvalidTypeError, "gramian must hold real numbers, got None")

    def test_uneven_lists(self) -> None:
        for weighting in registered_programmes():
            check(
                partial(weighting.weights, [[1.0, 2.0], [3.0]]),
                InvalidTypeError,
                "gramian is a nested sequence of uneven lengths",
            )


class TestOptions:
    def test_solver(self, compute: Callable[..., Any]) -> None:
        check(
            lambda: compute(EYE, solver="gurobi"),
            InvalidInputError,
            "solver='gurobi' is not known",
            "'auto'",
            "active_set",
            "quadprog",
        )

    def test_a_solver_for_fewer_objectives(self, compute: Callable[..., Any]) -> None:
        check(
            lambda: compute(np.eye(7), solver="closed_form"),
            InvalidInputError,
            "solver 'closed_form' takes K <= 3",
            "use solver='auto'",
        )

    def test_a_solver_that_is_not_installed(
        self, compute: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda _module: None)
        check(
            lambda: compute(EYE, solver="osqp"),
            MissingDependencyError,
            "solver 'osqp' needs the package(s) osqp",
            "pip install 'mojd[solvers]'",
        )

    @pytest.mark.parametrize("threads", [0, -1, 2.0, "2", None])
    def test_threads(self, compute: Callable[..., Any], threads: Any) -> None:
        check(
            lambda: compute(EYE, threads=threads),
            InvalidInputError,
            f"threads must be an integer of at least 1, got {threads!r}",
        )

    def test_nonfinite(self, compute: Callable[..., Any]) -> None:
        check(
            lambda: compute(np.full((2, 2), np.nan), nonfinite="ignore"),
            InvalidInputError,
            "nonfinite='ignore' is not one of ('raise', 'propagate')",
        )

    def test_a_solver_that_gives_up(self) -> None:
        """Weights without an answer must not pass for weights."""
        singular = np.array([[1.0, -2.0], [-2.0, 4.0]])
        for weights in (mojd.upgrad, mojd.dualproj):
            check(
                partial(weights, singular, solver="quadprog"),
                SolverError,
                "solver 'quadprog' gave up on",
                "of",
                "solver='active_set'",
            )


class TestProblem:
    @pytest.mark.parametrize("shape", [(), (2,), (4,), (3, 1), (5, 2)])
    def test_shape_of_the_linear_term(self, shape: tuple[int, ...]) -> None:
        check(
            lambda: NNQP(EYE, np.ones(shape)),
            InvalidInputError,
            "linear must have shape (..., 3)",
            "the gramian is 3 x 3",
            f"got shape {shape}",
        )

    def test_batches_that_do_not_broadcast(self) -> None:
        check(
            lambda: NNQP(np.ones((2, 3, 3)), np.ones((4, 3))),
            InvalidInputError,
            "the leading (batch) axes of gramian and linear do not broadcast: (2,) against (4,)",
            "batch axis of length 1",
        )

    def test_a_linear_term_that_is_no_array(self) -> None:
        check(lambda: NNQP(EYE, "q"), InvalidTypeError, "linear must hold real numbers")
        check(lambda: NNQP(EYE, [[1.0], [1.0, 2.0]]), InvalidTypeError, "linear is a nested sequence")

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_nonfinite_linear_term(self, bad: float) -> None:
        for solver in ("auto", "active_set", "array_api", "scipy_nnls"):
            check(
                partial(mojd.solve, NNQP(EYE, [1.0, bad, 1.0]), solver),
                NonFiniteError,
                f"linear of shape (3,) holds {bad} at index (1,)",
                "nonfinite='propagate'",
            )

    @pytest.mark.parametrize("problem", [EYE, None, (EYE, ONES)], ids=["array", "None", "tuple"])
    def test_something_else_than_a_problem(self, problem: Any) -> None:
        check(
            lambda: mojd.solve(problem),
            InvalidTypeError,
            f"problem must be an NNQP, got {type(problem).__name__}",
            "mojd.NNQP(gramian, linear)",
            "mojd.upgrad_problem(gramian)",
        )


class TestPreferences:
    @pytest.mark.parametrize(
        "method", [mojd.upgrad, mojd.upgrad_problem, mojd.dualproj, mojd.dualproj_problem]
    )
    def test_pref_vector(self, method: Callable[..., Any]) -> None:
        for shape in ((), (2,), (4, 5)):
            check(
                partial(method, EYE, np.ones(shape)),
                InvalidInputError,
                "pref_vector must have shape (..., 3), one preference per objective",
                f"got shape {shape}",
            )
        check(
            lambda: method(EYE, [[1.0, 1.0, 1.0], [1.0, 0.0, -0.5]]),
            InvalidInputError,
            "pref_vector of shape (2, 3) has the negative entry -0.5 at index (1, 2)",
            "must be >= 0",
        )
        check(
            lambda: method(EYE, [1.0, np.nan, 1.0]),
            NonFiniteError,
            "pref_vector of shape (3,) holds nan at index (1,)",
        )
        check(lambda: method(EYE, "me first"), InvalidTypeError, "pref_vector must hold real numbers")
        check(
            lambda: method(np.ones((2, 3, 3)), np.ones((5, 3))),
            InvalidInputError,
            "the leading (batch) axes of gramian and pref_vector do not broadcast: (2,) against (5,)",
        )

    def test_zero_preferences_are_none(self) -> None:
        assert mojd.upgrad(EYE, np.zeros(3)).tolist() == [0.0, 0.0, 0.0]


class TestProject:
    def test_rows(self) -> None:
        for shape in ((), (2,), (4, 5)):
            check(
                partial(mojd.project, np.ones(shape), EYE),
                InvalidInputError,
                "U must have shape (..., 3), one vector of weights per row",
                f"got shape {shape}",
            )
        check(lambda: mojd.project("rows", EYE), InvalidTypeError, "U must hold real numbers")

    def test_batches_that_do_not_broadcast(self) -> None:
        check(
            lambda: mojd.project(np.ones((5, 4, 3)), np.stack([EYE] * 2)),
            InvalidInputError,
            "do not broadcast",
            "2",
            "5",
        )


class TestPCD:
    @pytest.mark.parametrize("method", [mojd.pcd, mojd.pcd_problem])
    @pytest.mark.parametrize("tau", [-0.1, 1.1, np.nan, np.inf, -np.inf])
    def test_tau_out_of_range(self, method: Callable[..., Any], tau: float) -> None:
        parts = "tau must lie in [0, 1]", "fraction of normalised progress"
        check(lambda: method(EYE, tau), InvalidInputError, *parts, f"got {tau}", "(shape ())")
        check(
            lambda: method(EYE, [0.5, tau]),
            InvalidInputError,
            *parts,
            f"got {tau} at index (1,)",
            "(shape (2,))",
        )

    @pytest.mark.parametrize("method", [mojd.pcd, mojd.pcd_problem])
    def test_tau_of_the_wrong_shape(self, method: Callable[..., Any]) -> None:
        for shape in ((1,), (3,), (2, 4)):
            check(
                partial(method, EYE, np.full(shape, 0.5)),
                InvalidInputError,
                "tau must have shape (..., 2), one per secondary objective (or a number for all)",
                f"got shape {shape}",
            )
        check(lambda: method(EYE, "much"), InvalidTypeError, "tau must hold real numbers")
        check(
            lambda: method(np.stack([EYE] * 4), np.full((3, 2), 0.5)),
            InvalidInputError,
            "axes of gramian and tau do not broadcast: (4,) against (3,)",
        )

    @pytest.mark.parametrize("method", [mojd.pcd, mojd.pcd_problem])
    def test_scales(self, method: Callable[..., Any]) -> None:
        check(
            lambda: method(EYE, scales=np.ones(2)),
            InvalidInputError,
            "scales must have shape (..., 3), one per objective, from mojd.normalise",
            "got shape (2,)",
        )
        check(
            lambda: method(EYE, scales=[1.0, -2.0, 1.0]),
            InvalidInputError,
            "scales of shape (3,) has the negative entry -2.0 at index (1,)",
        )
        check(
            lambda: method(EYE, scales=[1.0, np.inf, 1.0]), NonFiniteError, "scales of shape (3,) holds inf"
        )

    def test_no_secondary(self) -> None:
        check(
            lambda: mojd.pcd_problem([[1.0]]),
            InvalidInputError,
            "gramian of shape (1, 1) has no secondary objective",
            "K >= 2",
        )

    @pytest.mark.parametrize("size", [2, 3, 4, 6])
    def test_the_row_of_the_primary_is_looked_at_too(self, size: int) -> None:
        """It is no part of the secondaries' problem."""
        gramian = np.eye(size)
        gramian[0, 0] = -1.0
        check(lambda: mojd.pcd(gramian), InvalidInputError, "negative diagonal entry -1.0 at index (0, 0)")
        gramian[0, 0] = 1.0
        gramian[0, -1] = 0.5
        check(lambda: mojd.pcd(gramian), InvalidInputError, "not symmetric", f"0.5 at index (0, {size - 1})")
        gramian[-1, 0] = 0.5
        gramian[0, -1] = gramian[-1, 0] = 1.5
        check(lambda: mojd.pcd(gramian), InvalidInputError, "not positive semi-definite")
        for bad in (np.nan, np.inf):
            for index in ((0, 0), (0, size - 1)):
                gramian = np.eye(size)
                gramian[index] = bad
                check(
                    partial(mojd.pcd, gramian),
                    NonFiniteError,
                    f"gramian of shape ({size}, {size})",
                )


class TestJacobian:
    @pytest.mark.parametrize(
        "function", [mojd.gramian, lambda jacobian: mojd.aggregate(jacobian, mojd.upgrad)]
    )
    def test_shapes_and_types(self, function: Callable[..., Any]) -> None:
        for shape in ((), (3,), (0, 4)):
            check(
                partial(function, np.ones(shape)),
                InvalidInputError,
                "jacobian must have shape (..., K, n): one row per objective, one column per parameter",
                f"got shape {shape}",
            )
        check(lambda: function("J"), InvalidTypeError, "jacobian must hold real numbers")

    @pytest.mark.parametrize("weighting", [None, 3, np.ones(3)])
    def test_a_weighting_that_is_none(self, weighting: Any) -> None:
        check(
            lambda: mojd.aggregate(np.ones((3, 4)), weighting),
            InvalidTypeError,
            "weighting must be a function from Gramians to weights or a name, "
            f"got {type(weighting).__name__}",
        )

    def test_an_unknown_name(self) -> None:
        check(
            lambda: mojd.aggregate(np.ones((3, 4)), "upgrade"),
            InvalidInputError,
            "method 'upgrade' is not known",
            "mgda, nash_mtl",
            "did you mean 'upgrad'?",
        )

    @pytest.mark.parametrize("form", ["name", "function", "partial"])
    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("gradvac", "has a state to carry along: call mojd.gradvac itself"),
            ("famo", "weights losses, not gradients: call mojd.famo"),
            ("weighted_sum", "weights losses, not gradients: call mojd.weighted_sum"),
        ],
    )
    def test_methods_that_need_more_than_gradients(self, name: str, reason: str, form: str) -> None:
        function = getattr(mojd, name)
        weighting = {"name": name, "function": function, "partial": partial(function, ONES)}[form]
        check(lambda: mojd.aggregate(EYE, weighting), InvalidInputError, f"{name!r} {reason}")

    def test_nan_in_the_jacobian(self) -> None:
        jacobian = np.ones((2, 3))
        jacobian[0, 1] = np.nan
        check(
            lambda: mojd.aggregate(jacobian, mojd.upgrad), NonFiniteError, "gramian of shape (2, 2) holds nan"
        )


class TestNormaliser:
    @pytest.mark.parametrize("size", [0, -1, 2.0, "two", True, None])
    def test_size(self, size: Any) -> None:
        check(
            lambda: mojd.init_normaliser(size),
            InvalidInputError,
            "size must be the number of objectives",
            repr(size),
        )

    @pytest.mark.parametrize("beta", [-0.1, 1.0, 2.0, np.nan])
    def test_beta(self, beta: float) -> None:
        state = mojd.init_normaliser(3)
        check(
            lambda: mojd.normalise(state, EYE, beta=beta),
            InvalidInputError,
            f"beta must lie in [0, 1), got {beta}",
        )

    @pytest.mark.parametrize("eps", [-1e-9, np.nan, np.inf])
    def test_eps(self, eps: float) -> None:
        state = mojd.init_normaliser(3)
        check(
            lambda: mojd.normalise(state, EYE, eps=eps),
            InvalidInputError,
            f"eps must be finite and not negative, got {eps}",
        )

    @pytest.mark.parametrize("option", ["beta", "eps"])
    def test_options_that_are_no_numbers(self, option: str) -> None:
        options: dict[str, Any] = {option: "a"}
        state = mojd.init_normaliser(3)
        message = f"{option} must be a number, got str"
        check(lambda: mojd.normalise(state, EYE, **options), InvalidTypeError, message)

    def test_state(self) -> None:
        check(
            lambda: mojd.normalise(mojd.init_normaliser(2), EYE),
            InvalidInputError,
            "state.mean_square must have shape (..., 3)",
            "got shape (2,)",
        )
        check(
            lambda: mojd.normalise(mojd.NormaliserState([0.0] * 3, 0), EYE),
            InvalidInputError,
            "state must come from mojd.init_normaliser or from mojd.normalise",
        )

    def test_gramian(self) -> None:
        state = mojd.init_normaliser(3)
        check(
            lambda: mojd.normalise(state, np.ones((3, 4))),
            InvalidInputError,
            "gramian must have shape (..., K, K)",
        )
        check(lambda: mojd.normalise(state, "G"), InvalidTypeError, "gramian must hold real numbers")


class TestWhatLooksRight:
    def test_masked_arrays(self) -> None:
        masked = np.ma.masked_less([[2.0, 1.0], [1.0, 2.0]], 1.5)
        check(lambda: mojd.upgrad(masked), InvalidTypeError, "gramian is a masked array of shape (2, 2)")

    def test_bytes_in_the_other_order_are_numbers(self) -> None:
        swapped = np.array([[2.0, -1.0], [-1.0, 3.0]]).astype(">f8")
        assert mojd.upgrad(swapped).tolist() == mojd.upgrad(swapped.astype("<f8")).tolist()

    def test_arguments_of_normalise_in_the_wrong_order(self) -> None:
        swapped: Any = EYE
        state = mojd.init_normaliser(3)
        message = "got ndarray; the call is scales, state ="
        check(lambda: mojd.normalise(swapped, state), InvalidTypeError, message)

    @pytest.mark.parametrize("kind", [np.asarray, np.float32, np.ndarray.tolist])
    def test_a_negative_square_in_normalise(self, kind: Any) -> None:
        state, gramian = mojd.init_normaliser(2), kind(np.array([[-1.0, 0.0], [0.0, 1.0]]))
        check(lambda: mojd.normalise(state, gramian), InvalidInputError, "negative diagonal entry -1.0")

    def test_options_that_do_not_go_together(self) -> None:
        tau, scales = np.full((4, 1), 0.1), np.ones((3, 2))
        check(
            lambda: mojd.pcd(np.eye(2), tau, scales=scales),
            InvalidInputError,
            "axes of tau and scales do not",
        )

    def test_a_weighting_that_returns_too_few_weights(self) -> None:
        check(
            lambda: mojd.aggregate(np.ones((3, 5)), lambda gramian: gramian[0, :2]),
            InvalidInputError,
            "weights of shape (2,) for a jacobian of shape (3, 5)",
        )

    def test_the_argument_that_holds_nan_is_named(self) -> None:
        check(lambda: mojd.project([np.nan, 1.0, 1.0], EYE), NonFiniteError, "U of shape (3,) holds nan")
        check(lambda: mojd.pcd(EYE, scales=[1.0, np.nan, 1.0]), NonFiniteError, "it must be >= 0")

    def test_integers_of_numpy(self) -> None:
        two: Any = np.int64(2)
        assert mojd.upgrad(np.stack([EYE] * 3), threads=two).shape == (3, 3)
        assert mojd.init_normaliser(two).mean_square.shape == (2,)

    @pytest.mark.parametrize("name", ["upgrad", "dualproj", "mgda", "pcd"])
    def test_options_are_looked_at_for_plain_arrays_too(self, name: str) -> None:
        method = getattr(mojd, name)
        check(lambda: method(np.eye(2), nonfinite="typo"), InvalidInputError, "nonfinite")


@pytest.mark.parametrize("size", [1e-4, 1e-3, 1.0, 100.0])
def test_half_precision_is_enough_for_aggregate(size: float) -> None:
    """Squares of float16 gradients underflow or overflow: the Gramian must not be rounded to it."""
    jacobian = np.array([[1.0, 0.0, 0.0], [-20.0, 1.0, 0.0], [-3.0, 0.0, 5.0]])
    half = (size * jacobian).astype(np.float16)
    direction = mojd.aggregate(half, "upgrad")
    assert direction.dtype == np.float16
    expected = mojd.aggregate(half.astype(float), "upgrad")
    np.testing.assert_allclose(
        direction.astype(float), expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max()
    )
