"""PCD's weighting with its normaliser: the moving average of squared gradient norms is the state."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

import mojd
from mojd._arrays import as_array, to_host
from mojd._checks import check_tau
from mojd.errors import InvalidInputError, InvalidTypeError
from mojd.torch._states import check_entries, check_numbers, steps_of
from mojd.torch._weighing import Weighed, weights_like
from mojd.weightings.normaliser import checked_decay

_STATE = ("tau", "beta", "eps", "rescale", "mean_square", "steps")


def update_average(
    mean_square: Tensor, steps: Tensor, gramian: Tensor, beta: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Update PCD's moving average with a Gramian, where it is and without waiting for it.

    What :func:`mojd.normalise` does, bit for bit. There, a NaN is looked for on the host.

    Parameters
    ----------
    mean_square : Tensor, shape (K,), float64
        v, the average of ‖g‖² without bias correction.
    steps : Tensor, shape (), int64
        How many finite Gramians went into it.
    gramian : Tensor, shape (K, K)
    beta, eps : float

    Returns
    -------
    scales, mean_square, steps : Tensor
        s = 1/√(v/(1 − βᵗ) + ε), and the new state: the old one if the Gramian is not finite.
    """
    finite = torch.isfinite(gramian).all()
    updated = beta * mean_square + (1.0 - beta) * gramian.diagonal().double()
    mean_square = torch.where(finite, updated, mean_square)
    steps = steps + finite
    correction = 1.0 - torch.pow(beta, steps.double())
    corrected = torch.where(steps > 0, mean_square / correction, mean_square)
    square = corrected + eps
    positive = square > 0
    scales = torch.where(positive, 1.0 / _root(torch.where(positive, square, 1.0)), 0.0 * square)
    return scales, mean_square, steps


def _root(values: Tensor) -> Tensor:
    """Return square roots, rounded as IEEE 754 wants it: on the CPU, PyTorch's may be off by a bit."""
    return torch.from_numpy(np.sqrt(values.numpy())) if values.device.type == "cpu" else values.sqrt()


class PCDWeighting:
    """Weigh by :func:`mojd.pcd`, with gradients normalised by a moving average of their norms.

    Maps this step's Gramian (K, K), the primary first, to weights (K,), and moves the average on: for
    :func:`mojd.torch.backward` and everything else that takes a weighting.

    Parameters
    ----------
    tau, beta, eps, rescale
        As for :class:`mojd.torch.PCD`.

    Attributes
    ----------
    mean_square : Tensor, shape (K,), float64, or None
        The moving average of ‖g‖², on the device of the Gramians. None before the first step.
    steps : Tensor, shape (), int64
        How many finite Gramians went into it.
    """

    def __init__(
        self,
        tau: float | Sequence[float] | Tensor = 0.02,
        beta: float = 0.999,
        eps: float = 1e-8,
        rescale: bool = True,
    ) -> None:
        self.tau = _tau_of(tau)
        self.beta, self.eps = checked_decay(beta, eps)
        if not isinstance(rescale, bool | np.bool_):
            raise InvalidTypeError(f"rescale must be True or False, got {rescale!r}")
        self.rescale = bool(rescale)
        self.mean_square: Tensor | None = None
        self.steps = torch.zeros((), dtype=torch.int64)

    def __repr__(self) -> str:
        """Show the options."""
        tau = self.tau if isinstance(self.tau, float) else self.tau.tolist()
        return f"tau={tau}, beta={self.beta}, eps={self.eps}, rescale={self.rescale}"

    def __call__(self, gramian: Tensor) -> Tensor:
        """Return the weights of this step."""
        return self.weigh(gramian).weights

    def weigh(self, gramian: Tensor) -> Weighed:
        """Return the weights of this step, and update the average; NaN leaves it as it was."""
        size, device = len(gramian), gramian.device
        held = self.mean_square
        if held is None:
            held = torch.zeros(size, dtype=torch.float64, device=device)
        elif len(held) != size:
            raise InvalidInputError(
                f"PCD has the state of {len(held)} losses, got {size}; make a new object for others"
            )
        if isinstance(self.tau, Tensor):
            if len(self.tau) != size - 1:
                raise InvalidInputError(
                    f"tau has {len(self.tau)} entries for {size - 1} secondaries: losses[0] is the "
                    "primary, and has none"
                )
            self.tau = self.tau.to(device)
        scales, mean_square, steps = update_average(
            held.to(device), self.steps.to(device), gramian, self.beta, self.eps
        )
        function = partial(mojd.pcd, tau=self.tau, scales=scales, rescale=self.rescale, nonfinite="propagate")
        weights = weights_like(function(gramian), gramian)
        is_first = self.mean_square is None and gramian.device.type == "cpu"
        # On a device nobody waits to see whether a first step was broken: there the average starts at 0.
        if not is_first or bool(torch.isfinite(gramian).all()):
            self.mean_square, self.steps = mean_square, steps
        return Weighed(weights, function)

    def state_dict(self) -> dict[str, Any]:
        """Return the options, the average and the number of steps."""
        state = {name: getattr(self, name) for name in _STATE}
        return {name: value.clone() if isinstance(value, Tensor) else value for name, value in state.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state, with its options.

        Raises
        ------
        InvalidTypeError, InvalidInputError
            If it is no mapping, or an entry is missing, unknown or not what it should be. Nothing has changed
            then.
        """
        check_entries(state, _STATE)
        try:
            options = type(self)(*(state[name] for name in ("tau", "beta", "eps", "rescale")))
        except (InvalidInputError, InvalidTypeError) as error:
            raise type(error)(f"state has an option that PCD does not take: {error}") from error
        mean_square, steps = state["mean_square"], steps_of(state["steps"])
        if mean_square is not None:
            check_numbers(mean_square, "mean_square", "(K,)", 1)
            mean_square = mean_square.detach().to(torch.float64, copy=True)
        self._check_average(mean_square, steps, options.tau)
        self.tau, self.beta, self.eps, self.rescale = options.tau, options.beta, options.eps, options.rescale
        self.mean_square, self.steps = mean_square, steps

    @staticmethod
    def _check_average(mean_square: Tensor | None, steps: Tensor, tau: float | Tensor) -> None:
        """Raise unless an average goes with the other entries of its state."""
        if mean_square is None:
            if not steps.is_meta and int(steps) > 0:
                raise InvalidInputError(
                    f"state['mean_square'] is None, but state['steps'] is {int(steps)}: it is their average"
                )
            return
        if not mean_square.is_meta and bool((mean_square < 0).any()):
            raise InvalidInputError("state['mean_square'] has a negative entry; it is an average of squares")
        if isinstance(tau, Tensor) and len(tau) != len(mean_square) - 1:
            raise InvalidInputError(
                f"state['mean_square'] has {len(mean_square)} entries and state['tau'] {len(tau)}: there "
                "must be one less, as the primary has none"
            )

    def to(self, device: torch.device | str) -> None:
        """Move the state."""
        self.steps = self.steps.to(device)
        if self.mean_square is not None:
            self.mean_square = self.mean_square.to(device)
        if isinstance(self.tau, Tensor):
            self.tau = self.tau.to(device)


def _tau_of(tau: Any) -> float | Tensor:
    """Return τ as a number for all secondaries, or a float64 tensor with one each."""
    array = as_array(tau, "tau")
    values = to_host(array)
    if values.ndim > 1 or values.size == 0:
        raise InvalidInputError(
            f"tau has shape {values.shape}; pass a number for all secondaries, or one for each in a sequence"
        )
    check_tau(values)
    return float(values) if values.ndim == 0 else torch.tensor(values, dtype=torch.float64)
