"""How weightings are called: functions of mojd, their names, objects with a state, anybody's functions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

import mojd
from mojd._checks import did_you_mean
from mojd.errors import InvalidInputError, InvalidTypeError
from mojd.weightings import Weighting, get_method, method_of, registered_weightings


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
        If it is neither callable nor a name.
    """
    if isinstance(weighting, StatefulWeighting):
        return weighting
    if isinstance(weighting, str):
        weighting = getattr(mojd, get_method(weighting).name)
    if isinstance(weighting, type) or not callable(weighting):
        hint = "an instance of it" if isinstance(weighting, type) else "such as mojd.upgrad"
        raise InvalidTypeError(
            f"weighting must map a Gramian to weights, or be the name of a method; got {weighting!r}: "
            f"pass {hint}"
        )
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
    given = weighting.keywords if isinstance(weighting, partial) else {}
    return weighting if "nonfinite" in given else partial(weighting, nonfinite="propagate")


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
    if isinstance(weighting, StatefulWeighting):
        return weighting.weigh(gramian)
    missing = torch.full_like(gramian[0], torch.nan)
    finite = torch.isfinite(gramian).all()
    if gramian.device.type == "cpu" and not finite:
        return Weighed(missing, weighting)
    weights = weights_like(weighting(gramian), gramian)
    return Weighed(torch.where(finite, weights, missing), weighting)


def weights_like(weights: Any, gramian: Tensor) -> Tensor:
    """Return what a weighting gave as a tensor (K,) such as the Gramian."""
    try:
        found = torch.as_tensor(weights, dtype=gramian.dtype, device=gramian.device).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidTypeError(
            f"the weighting returned a {type(weights).__name__}; it must return one weight per loss"
        ) from error
    if found.shape != gramian.shape[:1]:
        raise InvalidInputError(
            f"the weighting returned weights of shape {tuple(found.shape)} for a Gramian of shape "
            f"{tuple(gramian.shape)}; it must return one weight per loss"
        )
    return found


def check_options(
    function: Callable[..., Any], given: tuple[Any, ...], options: dict[str, Any]
) -> dict[str, Any]:
    """Return options of a method by name, or say which of them it does not have."""
    import inspect

    parameters = list(inspect.signature(function).parameters.values())
    names = [p.name for p in parameters if p.name not in ("gramian", "state")]
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
                f"{name!r} {problem} of {function.__name__}, which takes: {', '.join(names)}"
                f"{did_you_mean(name, names)}"
            )
        found[name] = value
    needed = [p.name for p in parameters if p.name in names and p.default is p.empty]
    missing = [name for name in needed if name not in found]
    if missing:
        raise InvalidTypeError(f"{function.__name__} needs {', '.join(missing)}: pass it by name")
    return found
