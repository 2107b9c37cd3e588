"""GradVac with its targets as a state."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

import mojd
from mojd._checks import number
from mojd.errors import InvalidInputError
from mojd.torch._seeded import generator_from, is_broken, load_generator
from mojd.torch._states import check_entries, check_numbers
from mojd.torch._weighing import Weighed, check_options, weights_like
from mojd.torch.methods import GradientMethod


class GradVacWeighting:
    """Weigh by :func:`mojd.gradvac`, and carry its moving averages of cosines along.

    Parameters
    ----------
    seed : int or numpy.random.Generator
    beta : float in [0, 1], default 0.5

    Attributes
    ----------
    cosines : Tensor, shape (K, K), or None
        The targets, in float64 on the device of the Gramians. None before the first step.
    """

    def __init__(self, *, seed: Any, beta: float = 0.5) -> None:
        self.generator = generator_from(seed)
        self.beta = _beta_of(beta, "beta")
        self.cosines: Tensor | None = None

    def __repr__(self) -> str:
        """Show the options."""
        return f"gradvac, beta={self.beta}"

    def __call__(self, gramian: Tensor) -> Tensor:
        """Return the weights of this step."""
        return self.weigh(gramian).weights

    def weigh(self, gramian: Tensor) -> Weighed:
        """Return the weights of this step, and update the averages; NaN leaves them as they were."""
        if is_broken(gramian):
            return Weighed(torch.full_like(gramian[0], torch.nan), mojd.gradvac)
        held = self.cosines
        if held is None:
            held = torch.zeros_like(gramian, dtype=torch.float64)
        elif held.shape != gramian.shape:
            raise InvalidInputError(
                f"GradVac has the state of {len(held)} losses, got {len(gramian)}; make a new object for "
                "others"
            )
        state = mojd.weightings.GradVacState(held.to(gramian.device))
        weights, state = mojd.gradvac(
            state, gramian, seed=self.generator, beta=self.beta, nonfinite="propagate"
        )
        self.cosines = torch.as_tensor(state.cosines)
        return Weighed(weights_like(weights, gramian), mojd.gradvac)

    def state_dict(self) -> dict[str, Any]:
        """Return the averages, the generator's state and beta."""
        cosines = None if self.cosines is None else self.cosines.clone()
        return {"cosines": cosines, "beta": self.beta, "seed": self.generator.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state.

        Raises
        ------
        InvalidTypeError, InvalidInputError
            If it is no mapping, or an entry is missing, unknown or not what it should be. Nothing has changed
            then.
        """
        check_entries(state, ("cosines", "beta", "seed"))
        beta = _beta_of(state["beta"], "state['beta']")
        cosines = state["cosines"]
        if cosines is not None:
            check_numbers(cosines, "cosines", "(K, K)", 2)
            cosines = cosines.detach().to(torch.float64, copy=True)
        load_generator(self.generator, state["seed"])
        self.beta, self.cosines = beta, cosines

    def to(self, device: torch.device | str) -> None:
        """Move the averages."""
        if self.cosines is not None:
            self.cosines = self.cosines.to(device)


def _beta_of(value: Any, name: str) -> float:
    """Return a number in [0, 1]."""
    beta = number(value, name, "how fast the averages follow")
    if not 0.0 <= beta <= 1.0:
        raise InvalidInputError(f"{name} must be a number in [0, 1], got {value!r}")
    return beta


class GradVac(GradientMethod):
    """Follow GradVac: gradients are turned until their cosines are no less than usual.

    Parameters
    ----------
    params : iterable of tensors, or of parameter groups
        What is to be trained.
    seed : int or numpy.random.Generator
        For the order in which gradients are compared; drawn anew in every step.
    beta : float in [0, 1], default 0.5
        How fast the averages follow.
    process_group : torch.distributed.ProcessGroup, optional
        As for :func:`mojd.torch.backward`. Its ranks draw from their own generators: give all the same seed.

    Notes
    -----
    The averages of cosines and the generator are the state. A step with NaN leaves both as they were (on a
    device, the averages).

    References
    ----------
    arXiv 2010.05874, Algorithm 1; formulas: :func:`mojd.gradvac`.
    """

    def __init__(self, params: Iterable[Any], *args: Any, process_group: Any = None, **options: Any) -> None:
        found = check_options(mojd.gradvac, args, options, hidden=("nonfinite",))
        super().__init__(params, GradVacWeighting(**found), process_group=process_group)

    __signature__ = inspect.Signature(
        [
            inspect.Parameter("params", inspect.Parameter.POSITIONAL_OR_KEYWORD),
            inspect.Parameter("seed", inspect.Parameter.KEYWORD_ONLY),
            inspect.Parameter("beta", inspect.Parameter.KEYWORD_ONLY, default=0.5),
            inspect.Parameter("process_group", inspect.Parameter.KEYWORD_ONLY, default=None),
        ]
    )
