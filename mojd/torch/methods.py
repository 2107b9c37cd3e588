"""Methods as objects that know the parameters: ``upgrad = UPGrad(params); upgrad.backward(losses)``.

There is a class for every registered method that weighs Gramians. Those of methods without a state are
made from the registry: a new method needs one line here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor

import mojd
from mojd.torch._inputs import a_type, parameters_of
from mojd.torch._seeded import SeededWeighting
from mojd.torch._weighing import StatefulWeighting, check_options, checked
from mojd.torch.info import StepInfo
from mojd.torch.loss_gradients import LossGradients
from mojd.torch.losses import apply, scale_of
from mojd.weightings import get_method

# Options of functions that objects do not have.
_HIDDEN = ("nonfinite",)


class GradientMethod:
    """Turn several losses into one direction in ``.grad``, by a weighting.

    Parameters
    ----------
    params : iterable of tensors, or of parameter groups
        What is to be trained. Which of them require a gradient is looked up in every step.
    weighting : callable, str or object with a state
        As for :func:`mojd.torch.backward`.
    process_group : torch.distributed.ProcessGroup, optional
        As for :func:`mojd.torch.backward`. A weighting with a state keeps the same one on all ranks.

    Attributes
    ----------
    params : tuple of tensors
    process_group : torch.distributed.ProcessGroup or None
    weighting : callable
        From Gramians (K, K) to weights (K,). With a state, if the method has one.

    Raises
    ------
    InvalidTypeError, InvalidInputError
        If `params` or `weighting` is not what it should be.

    Examples
    --------
    Two micro-batches, whose gradients add up per loss before anything is solved:

    >>> import torch, mojd, mojd.torch
    >>> p = torch.zeros(2, requires_grad=True)
    >>> method = mojd.torch.GradientMethod([p], mojd.dualproj)
    >>> method.accumulate([p[0], -p[0] + p[1]])
    >>> info = method.backward([p[0], -p[0] + p[1]])
    >>> p.grad
    tensor([0., 1.])
    """

    _info: Callable[..., StepInfo] = StepInfo

    def __init__(
        self,
        params: Iterable[Any],
        weighting: Callable[..., Any] | StatefulWeighting | str,
        *,
        process_group: Any = None,
    ) -> None:
        self.params = parameters_of(params)
        self.process_group = process_group
        self.weighting = checked(weighting)
        self._held: LossGradients | None = None

    def backward(
        self,
        losses: Sequence[Tensor] | Tensor | None = None,
        *,
        scaler: torch.amp.GradScaler | None = None,
        retain_graph: bool = False,
    ) -> StepInfo:
        """Differentiate the losses, weigh what has been accumulated, and add the direction to ``.grad``.

        Parameters
        ----------
        losses, scaler, retain_graph
            As for :func:`mojd.torch.backward`. Losses may be left out after :meth:`accumulate`, on all ranks
            then.

        Returns
        -------
        StepInfo

        Raises
        ------
        InvalidTypeError, InvalidInputError
            As :func:`mojd.torch.backward`; or if there are no losses and nothing has been accumulated. What
            has been accumulated is lost then.
        """
        try:
            held = (
                self._accumulated(scaler)
                if losses is None
                else self._add(losses, scaler, retain_graph, is_last=True)
            )
            return apply(held, self.weighting, self._info, held.shared)
        finally:
            self._held = None

    def accumulate(
        self,
        losses: Sequence[Tensor] | Tensor,
        *,
        scaler: torch.amp.GradScaler | None = None,
        retain_graph: bool = False,
    ) -> None:
        """Differentiate the losses of a micro-batch, and keep their gradients for :meth:`backward`.

        Gradients of each loss add up, so that losses which are means over micro-batches are to be divided by
        their number. Call ``scaler.update()`` after the step only. Cost: K backward passes, and memory for K
        gradients until the step. Replicas on several ranks are averaged once, in the step.

        Parameters
        ----------
        losses, scaler, retain_graph
            As for :func:`mojd.torch.backward`. Every micro-batch has the same K losses, and the same scaler.
        """
        self._held = self._add(losses, scaler, retain_graph, is_last=False)

    def apply_gradients(
        self,
        grads: Sequence[Sequence[Tensor | None]],
        *,
        scaler: torch.amp.GradScaler | None = None,
    ) -> StepInfo:
        """Weigh gradients that were computed elsewhere, and add the direction to ``.grad``.

        Parameters
        ----------
        grads : sequence of sequences of tensors or None
            ``grads[k][i]`` is the gradient of loss k with respect to the i-th parameter that requires one.
            They are not written to. Those of DTensors are DTensors; others are this rank's, and averaged over
            the process group.
        scaler : torch.amp.GradScaler, optional
            By whose scale they have been multiplied.

        Returns
        -------
        StepInfo

        Raises
        ------
        InvalidTypeError, InvalidInputError
            If a number, a shape, a dtype or a device does not fit.
        """
        try:
            held = self._holder()
            held.add_gradients(grads, scale=scale_of(scaler, held.params[0].device))
            return apply(held, self.weighting, self._info, held.shared)
        finally:
            self._held = None

    def _holder(self) -> LossGradients:
        return LossGradients(self.params, self.process_group) if self._held is None else self._held

    def _accumulated(self, scaler: Any) -> LossGradients:
        """Return what is held, for a step without further losses."""
        held = self._holder()
        held.check_held(scale_of(scaler, held.params[0].device))
        return held

    def _add(self, losses: Any, scaler: Any, retain_graph: bool, is_last: bool) -> LossGradients:
        held = self._holder()
        scale = scale_of(scaler, held.params[0].device)
        held.add(losses, scale=scale, retain_graph=retain_graph, is_last=is_last)
        return held

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the weighting, {} if it has none. Accumulated gradients are no part of it."""
        return self.weighting.state_dict() if _has_state(self.weighting) else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state, bit for bit.

        Parameters
        ----------
        state : dict
            From :meth:`state_dict` of the same method.

        Raises
        ------
        InvalidTypeError, InvalidInputError
            If it is no mapping, or the state of something else. Nothing has changed then.
        """
        if not isinstance(state, Mapping):
            raise mojd.InvalidTypeError(f"state is {a_type(state)}; pass the dict that state_dict() returned")
        if _has_state(self.weighting):
            self.weighting.load_state_dict(state)
        elif state:
            raise mojd.InvalidInputError(
                f"{type(self).__name__} has no state, got one with {', '.join(map(repr, state))}: it is "
                "that of "
                "another method"
            )

    def to(self, device: torch.device | str) -> Self:
        """Move the state of the weighting to a device, where the Gramians will be; it moves by itself too."""
        if hasattr(self.weighting, "to"):
            self.weighting.to(device)
        return self

    def __repr__(self) -> str:
        """Show the weighting and the number of parameters."""
        entries = sum(tensor.numel() for tensor in self.params)
        options = ", ".join(f"{name}={value!r}" for name, value in self._options().items())
        return f"{type(self).__name__}({options or _shown(self.weighting)}; {entries:,} parameters)"

    def _options(self) -> dict[str, Any]:
        if isinstance(self.weighting, partial):
            return {name: value for name, value in self.weighting.keywords.items() if name != "nonfinite"}
        return {}


def _has_state(weighting: Any) -> bool:
    """Whether a weighting has what makes a state, mojd's or not: a Weighting of TorchJD has too."""
    return hasattr(weighting, "state_dict") and hasattr(weighting, "load_state_dict")


def _shown(weighting: Any) -> str:
    while isinstance(weighting, partial):
        weighting = weighting.func
    return str(getattr(weighting, "__name__", repr(weighting)))


class RegisteredMethod(GradientMethod):
    """Follow a function of mojd that has no state: see :func:`front_end`, which makes its classes.

    Parameters
    ----------
    params : iterable of tensors, or of parameter groups
        What is to be trained.
    *args, **options
        The options of the function, but for ``nonfinite``: NaN is written, and nothing is raised.
    process_group : torch.distributed.ProcessGroup, optional
        As for :class:`GradientMethod`.
    """

    _name: str

    def __init__(self, params: Iterable[Any], *args: Any, process_group: Any = None, **options: Any) -> None:
        function = getattr(mojd, self._name)
        found = check_options(function, args, options, hidden=_HIDDEN)
        stochastic = get_method(self._name).is_stochastic
        weighting = SeededWeighting(function, **found) if stochastic else partial(function, **found)
        super().__init__(params, weighting, process_group=process_group)


def front_end(name: str) -> type[RegisteredMethod]:
    """Make the class of a method that weighs Gramians: its options are those of the function.

    Parameters
    ----------
    name : str
        Of a registered method without a state, such as 'cagrad'.

    Returns
    -------
    type
        Constructed from the parameters and the method's options. Stochastic methods draw anew in every step,
        and their generator is their state.
    """
    method = get_method(name)
    function = getattr(mojd, name)
    accepted = [p for p in list(inspect.signature(function).parameters.values())[1:] if p.name not in _HIDDEN]
    first = inspect.Parameter("params", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    last = inspect.Parameter("process_group", inspect.Parameter.KEYWORD_ONLY, default=None)
    doc = f"""Follow {method.title}: {method.summary}.

    Parameters
    ----------
    params : iterable of tensors, or of parameter groups
        What is to be trained.
    *args, **options
        The options of :func:`mojd.{name}`, in its order or by name, but for ``nonfinite``: NaN is written.
    process_group : torch.distributed.ProcessGroup, optional
        As for :func:`mojd.torch.backward`.

    References
    ----------
    {method.source}; formulas and properties: :func:`mojd.{name}`.
    """
    attributes = {
        "_name": name,
        "__doc__": doc,
        "__module__": __name__,
        "__signature__": inspect.Signature([first, *accepted, last]),
    }
    return type(method.title.replace("-", ""), (RegisteredMethod,), attributes)


AlignedMTL = front_end("aligned_mtl")
AuxiNash = front_end("auxinash")
CAGrad = front_end("cagrad")
ConFIG = front_end("config")
Constant = front_end("constant")
DualProj = front_end("dualproj")
FairGrad = front_end("fairgrad")
IMTLG = front_end("imtl_g")
Krum = front_end("krum")
MGDA = front_end("mgda")
Mean = front_end("mean")
NashMTL = front_end("nash_mtl")
PCGrad = front_end("pcgrad")
RGW = front_end("rgw")
Sum = front_end("sum")
UPGrad = front_end("upgrad")
