"""How weightings are called: functions of mojd, their names, objects with a state, anybody's functions."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

import mojd
from mojd._checks import did_you_mean
from mojd.errors import InvalidInputError, InvalidTypeError
from mojd.torch._inputs import a_type
from mojd.weightings import Weighting, get_method, method_of, registered_weightings

_WANTED = "weighting must map a Gramian to weights, or be the name of a method"


class Weighed(NamedTuple):
    """Weights, and the function without a state that maps the Gramian to them.

    Attributes
    ----------
    weights : Tensor, shape (K,)
        In the dtype and on the device of the Gramian.
    function : callable or None
        What the diagnostics of the step are about, with the options of this step; None if there is none.
    """

    weights: Tensor
    function: Callable[..., Any] | None


@runtime_checkable
class StatefulWeighting(Protocol):
    """What a weighting that learns from step to step looks like.

    `weigh` maps this step's Gramian (K, K) to weights and moves the state on. A Gramian that is not finite
    gives weights of NaN and leaves the state as it was.
    """

    def weigh(self, gramian: Tensor) -> Weighed:
        """Return the weights of this step, and move the state on."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state."""


def checked(weighting: Any) -> Any:
    """Return a weighting as :func:`weigh` calls it: a callable or an object with a state.

    Functions of mojd get ``nonfinite="propagate"``, unless they are partials that say otherwise.

    Raises
    ------
    InvalidInputError
        If a name is unknown, or a method weighs no Gramians or has a state of its own.
    InvalidTypeError
        If it is neither callable nor a name, weighs Jacobians, or options are missing or unknown.
    """
    if isinstance(weighting, type):
        raise InvalidTypeError(_class_advice(weighting))
    if isinstance(weighting, StatefulWeighting):
        return weighting
    if isinstance(weighting, str):
        weighting = getattr(mojd, get_method(weighting).name)
    if is_front_end(type(weighting)):
        raise InvalidTypeError(_front_end_advice(type(weighting), "an object of"))
    if not callable(weighting):
        raise InvalidTypeError(f"{_WANTED}; got {weighting!r}: pass a function such as mojd.upgrad")
    _refuse_aggregator(weighting)
    method = method_of(weighting)
    if method is None:
        return weighting
    if not isinstance(method, Weighting):
        usable = ", ".join(known.name for known in registered_weightings() if not known.is_stateful)
        raise InvalidInputError(
            f"{method.name!r} needs more than the Gramian of the gradients: call mojd.{method.name} on "
            "what it "
            f"takes. These need no more: {usable}"
        )
    if method.is_stateful:
        raise InvalidInputError(
            f"{method.name!r} has a state to carry along: use mojd.torch.{method.title}, whose objects do"
        )
    given = _options_of_partial(weighting, method)
    return weighting if "nonfinite" in given else partial(weighting, nonfinite="propagate")


def is_front_end(kind: type) -> bool:
    """Whether a class is one of those that know the parameters, such as :class:`mojd.torch.UPGrad`."""
    from mojd.torch.methods import GradientMethod  # which is built on this module

    return issubclass(kind, GradientMethod)


def _class_advice(kind: type) -> str:
    """Say what to pass instead of a class."""
    if is_front_end(kind):
        return _front_end_advice(kind, "the class")
    return f"{_WANTED}; got the class {kind.__name__}: pass an instance of it"


def _front_end_advice(kind: type, what: str) -> str:
    """Say how a class that knows the parameters is used, and what weighs as it does."""
    name = getattr(kind, "_name", None)
    weighs = "the attribute `weighting` of such an object" if name is None else f"mojd.{name}"
    return (
        f"weighting is {what} {kind.__name__}, which knows its own parameters: call "
        f"{kind.__name__}(params, ...).backward(losses), or pass {weighs}"
    )


def _refuse_aggregator(weighting: Any) -> None:
    """Raise for an Aggregator of TorchJD, which would take the Gramian for a Jacobian."""
    torchjd = sys.modules.get("torchjd.aggregation")
    if torchjd is None or not isinstance(weighting, torchjd.Aggregator):
        return
    name = type(weighting).__name__
    known = {method.title.replace("-", ""): method.name for method in registered_weightings()}
    choices = [f"TorchJD's {name}Weighting()"] if hasattr(torchjd, f"{name}Weighting") else []
    choices += [repr(known[name])] if name in known else []
    raise InvalidTypeError(
        f"weighting is the Aggregator {name} of TorchJD, which takes a Jacobian, not a Gramian: pass "
        f"{' or '.join(choices) or 'a Weighting of TorchJD, or a function such as mojd.upgrad'}"
    )


def _options_of_partial(weighting: Any, method: Weighting) -> dict[str, Any]:
    """Return the options that a partial of a method's function binds; raise if they don't fit."""
    bound = weighting if isinstance(weighting, partial) else partial(weighting)
    if bound.args:
        raise InvalidTypeError(
            f"a partial of mojd.{method.name} binds {bound.args[0]!r} by its position, where the Gramian "
            "goes: pass options by name"
        )
    return check_options(bound.func, (), bound.keywords, f"functools.partial(mojd.{method.name}, {{}})")


def weigh(weighting: Any, gramian: Tensor) -> Weighed:
    """Return the weights of a Gramian, NaN where it is not finite.

    On the CPU, a weighting does not see a Gramian that is not finite, so that it can neither raise nor spoil
    a state of its own. On a device nothing is waited for, and weights are masked.

    Parameters
    ----------
    weighting : callable or StatefulWeighting
        From :func:`checked`.
    gramian : Tensor, shape (K, K)

    Raises
    ------
    InvalidInputError
        If the weighting does not return K weights.
    """
    # Anybody's code may work in place, and the Gramian is reported after the step.
    seen = gramian if _is_own(weighting) else gramian.clone()
    if isinstance(weighting, StatefulWeighting):
        return weighting.weigh(seen)
    missing = torch.full_like(gramian[0], torch.nan)
    finite = torch.isfinite(gramian).all()
    if gramian.device.type == "cpu" and not finite:
        return Weighed(missing, weighting)
    weights = weights_like(weighting(seen), gramian)
    return Weighed(torch.where(finite, weights, missing), weighting)


def _is_own(weighting: Any) -> bool:
    """Whether a weighting is mojd's, which never writes to its input."""
    return method_of(weighting) is not None or type(weighting).__module__.startswith("mojd.")


def weights_like(weights: Any, gramian: Tensor) -> Tensor:
    """Return what a weighting gave as a tensor (K,) such as the Gramian."""
    if "complex" in str(getattr(weights, "dtype", "")):
        raise InvalidTypeError(
            f"the weighting returned weights of dtype {weights.dtype}; they must be real numbers"
        )
    try:
        found = torch.as_tensor(weights, dtype=gramian.dtype, device=gramian.device).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidTypeError(
            f"the weighting returned {a_type(weights)}; it must return one weight per loss"
        ) from error
    if found.shape != gramian.shape[:1]:
        raise InvalidInputError(
            f"the weighting returned weights of shape {tuple(found.shape)} for a Gramian of shape "
            f"{tuple(gramian.shape)}; it must return one weight per loss"
        )
    return found


def check_options(
    function: Callable[..., Any],
    given: tuple[Any, ...],
    options: dict[str, Any],
    call: str | None = None,
    hidden: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Return options of a method by name, or say which of them it does not have, or lacks.

    Parameters
    ----------
    function : callable
        A function of mojd.
    given, options
        By their position, and by name.
    call : str, optional
        How a call with options looks, with {} in their place, for the error if one is missing.
    hidden : tuple of str
        Options of the function that can't be set here.
    """
    import inspect

    parameters = list(inspect.signature(function).parameters.values())
    names = [p.name for p in parameters if p.name not in ("gramian", "state", *hidden)]
    positional = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY and p.name in names]
    if len(given) > len(positional):
        raise InvalidTypeError(
            f"{function.__name__} takes {len(positional)} positional options ({', '.join(positional)}), "
            f"got {len(given)}"
        )
    found = dict(zip(positional, given, strict=False))
    for name, value in options.items():
        if name not in names or name in found:
            problem = "was given twice" if name in found else "is no option"
            raise InvalidTypeError(
                f"{name!r} {problem} of {function.__name__}, which takes: {', '.join(names) or 'none'}"
                f"{did_you_mean(name, names)}"
            )
        found[name] = value
    needed = [p.name for p in parameters if p.name in names and p.default is p.empty]
    missing = [name for name in needed if name not in found]
    if missing:
        shown = ", ".join("seed=0" if name == "seed" else f"{name}=..." for name in missing)
        how = "it by name" if call is None else call.format(shown)
        raise InvalidTypeError(f"{function.__name__} needs {', '.join(missing)}: pass {how}")
    return found
