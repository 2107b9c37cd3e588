"""Every registered method without state or randomness as an operator, its schema read off its signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, get_type_hints

import torch
from torch import Tensor

from mojd._checks import did_you_mean
from mojd.errors import InvalidInputError, InvalidTypeError, NotDifferentiableError
from mojd.torch import weightings
from mojd.torch._calls import beside, is_direct, refuse_tangents, require_tensor
from mojd.torch._operators import Operator, TensorArgument, define, keep_nothing, refuse
from mojd.torch._shapes import batch_of, check_gramian, check_rows, empty
from mojd.weightings._registry import Weighting, get_method, registered_weightings

# What a schema calls the types of options. Options of any type are arrays with one row per problem.
_TYPES: dict[Any, str] = {
    bool: "bool",
    int: "int",
    float: "float",
    str: "str",
    int | None: "int?",
    float | None: "float?",
}
# Those whose weights are the same for every Gramian.
_INDEPENDENT = ("constant", "mean", "sum")
# How the operator computes, and not what.
_NOT_AN_OPTION = ("solver", "threads", "nonfinite")


class Registered(NamedTuple):
    """A method and its operator.

    Attributes
    ----------
    weights : callable
        The method's own function.
    operator : callable
        The operator: the Gramian, then the options in their order.
    arrays : tuple of str
        The names of options that are arrays.
    options : dict
        All options with their defaults, arrays first.
    """

    weights: Callable[..., Any]
    operator: Callable[..., Tensor]
    arrays: tuple[str, ...]
    options: dict[str, Any]


def _register(method: Weighting) -> Registered:
    """Define the operator of a method."""
    hints = get_type_hints(method.weights)
    parameters = list(inspect.signature(method.weights).parameters.values())[1:]
    parameters = [parameter for parameter in parameters if parameter.name not in _NOT_AN_OPTION]
    arrays = [parameter for parameter in parameters if hints[parameter.name] is Any]
    plain = [parameter for parameter in parameters if hints[parameter.name] is not Any]
    names = tuple(parameter.name for parameter in arrays + plain)
    count = 1 + len(arrays)

    def weights(gramian: Tensor, *options: Any) -> Tensor:
        found = method.weights(gramian, **dict(zip(names, options, strict=False)), nonfinite="propagate")
        # An operator must not return its input, such as constant weights.
        return torch.clone(found, memory_format=torch.contiguous_format)

    def fake(gramian: Tensor, *options: Any) -> Tensor:
        check_gramian(gramian)
        rows = dict(zip(names, options[: len(arrays)], strict=False))
        for name, row in rows.items():
            check_rows(row, gramian.shape[-1], name, "one per objective")
        batch = batch_of({"gramian": gramian, **rows}, (2, *(1 for _ in rows)))
        return empty((*batch, gramian.shape[-1]), gramian)

    operator = Operator(
        method.name,
        (
            TensorArgument("Tensor gramian", 2),
            *(TensorArgument(_array_declaration(parameter), 1) for parameter in arrays),
        ),
        tuple(_declaration(method.name, parameter, hints[parameter.name]) for parameter in plain),
        weights,
        fake,
    )
    what = f"derivatives of mojd.torch.weighting({method.name!r}, ...)"
    if method.name in _INDEPENDENT:
        apply = define(operator, _keep_gramian, _backward_of_constants(what, count))
    else:
        apply = define(operator, keep_nothing, refuse(what))
    options = {parameter.name: parameter.default for parameter in arrays + plain}
    return Registered(method.weights, apply, tuple(names[: len(arrays)]), options)


def _array_declaration(parameter: inspect.Parameter) -> str:
    """Return how a schema declares an optional or required array."""
    optional = parameter.default is not inspect.Parameter.empty
    return f"Tensor? {parameter.name}=None" if optional else f"Tensor {parameter.name}"


def _declaration(method: str, parameter: inspect.Parameter, kind: Any) -> str:
    """Return how a schema declares a number, a name or a flag."""
    if kind not in _TYPES:
        raise InvalidTypeError(
            f"method {method!r} can't be an operator: option {parameter.name} is annotated with {kind!r}; "
            f"annotate it with Any if it is an array, else with one of {', '.join(map(str, _TYPES))}"
        )
    if parameter.default is inspect.Parameter.empty:
        return f"{_TYPES[kind]} {parameter.name}"
    default = f'"{parameter.default}"' if kind is str else parameter.default
    return f"{_TYPES[kind]} {parameter.name}={default}"


def _keep_gramian(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Remember the Gramian, and how many other arguments there are."""
    del output
    ctx.save_for_backward(inputs[0])
    ctx.others = len(inputs) - 1


def _backward_of_constants(what: str, count: int) -> Callable[..., Any]:
    """Return the backward of weights that do not depend on the first of `count` tensors, the Gramian."""

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        del grad
        if any(ctx.needs_input_grad[1:count]):
            raise NotDifferentiableError(f"{what} with respect to its options are not implemented")
        return (torch.zeros_like(ctx.saved_tensors[0]), *(None for _ in range(ctx.others)))

    return backward


_DIFFERENTIABLE: dict[str, Callable[..., Tensor]] = {
    "dualproj": weightings.dualproj,
    "mgda": weightings.mgda,
    "pcd": weightings.pcd,
    "upgrad": weightings.upgrad,
}


def _is_pure(method: Any) -> bool:
    return isinstance(method, Weighting) and not (method.is_stochastic or method.is_stateful)


@cache
def _late(name: str) -> Registered:
    """Register a method that was added after this module was imported, or say why there is none."""
    method = get_method(name)
    if not isinstance(method, Weighting):
        raise InvalidInputError(f"method {name!r} does not go from a Gramian to weights; see mojd.{name}")
    if not _is_pure(method):
        raise InvalidInputError(
            f"method {name!r} draws random numbers or keeps a state, so it can't be an operator; call "
            f"mojd.{name} outside of what is compiled"
        )
    return _register(method)


_REGISTERED: dict[str, Registered] = {
    method.name: _register(method)
    for method in registered_weightings()
    if _is_pure(method) and method.name not in _DIFFERENTIABLE
}


def weighting(name: str, gramian: Tensor, **options: Any) -> Tensor:
    """Compute the weights of a registered method, in compiled code too.

    Parameters
    ----------
    name : str
        The name of a method from Gramians to weights without state or randomness, such as 'cagrad'.
    gramian : tensor, shape (..., K, K)
        G = J Jᵀ of the gradients.
    **options
        The options of ``mojd.<name>``: arrays as tensors or lists, the rest as they are.

    Returns
    -------
    tensor, shape (..., K)
        The weights, in the dtype and on the device of `gramian`. NaN where there is NaN or infinity.

    Raises
    ------
    InvalidInputError
        If the method is not known, or has a state or randomness, or as ``mojd.<name>`` raises it.
    InvalidTypeError
        If `gramian` is no tensor, or there is no such option.
    NotDifferentiableError
        If a gradient is to go through a method other than UPGrad, DualProj, MGDA and PCD, and those
        whose weights are the same for every Gramian.

    Examples
    --------
    >>> import mojd.torch, torch
    >>> gramian = torch.tensor([[1.0, -0.5], [-0.5, 4.0]])
    >>> mojd.torch.weighting("cagrad", gramian, c=0.4)
    tensor([0.9000, 0.5000])
    """
    if name in _DIFFERENTIABLE:
        return _DIFFERENTIABLE[name](gramian, **options)
    method = _REGISTERED[name] if name in _REGISTERED else _late(name)
    require_tensor(gramian, "gramian")
    for option in options:
        if option not in method.options:
            known, hint = ", ".join(method.options) or "none", did_you_mean(option, list(method.options))
            raise InvalidTypeError(f"{option} is no option of {name}, which has: {known}{hint}")
    if is_direct(gramian, *options.values()):
        weights: Tensor = method.weights(gramian, **options, nonfinite="propagate")
        return weights
    values = {**method.options, **options}
    for missing in [option for option, value in values.items() if value is inspect.Parameter.empty]:
        raise InvalidTypeError(f"{name} needs {missing}=")
    for array in method.arrays:
        values[array] = _row(values[array], gramian)
    refuse_tangents(name, gramian, *(values[array] for array in method.arrays))
    weights = method.operator(gramian, *(values[option] for option in method.options))
    return weights


def _row(value: Any, gramian: Tensor) -> Tensor | None:
    """Return an array option as a tensor with one entry per objective."""
    row = beside(value, gramian)
    return row.expand(gramian.shape[-1]) if isinstance(row, Tensor) and row.ndim == 0 else row
