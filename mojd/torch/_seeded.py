"""Weightings that draw: a function of mojd with ``seed=``, and the generator that moves on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mojd._checks import check_seed
from mojd.errors import InvalidInputError
from mojd.torch._states import check_entries
from mojd.torch._weighing import Weighed, weights_like


def generator_from(seed: Any) -> np.random.Generator:
    """Return a generator for a seed, or the generator itself; an object draws anew in every step."""
    check_seed(seed)
    return seed if isinstance(seed, np.random.Generator) else np.random.default_rng(seed)


def load_generator(generator: np.random.Generator, state: Any) -> None:
    """Set a generator to a saved state.

    Raises
    ------
    InvalidInputError
        If it is the state of another kind of generator. The generator is as it was then.
    """
    kind = type(generator.bit_generator)
    trial = kind()
    try:
        trial.state = state
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise InvalidInputError(f"state['seed'] is no state of NumPy's {kind.__name__}: {error}") from error
    generator.bit_generator.state = state


def is_broken(gramian: Tensor) -> bool:
    """Whether a Gramian on the CPU is not finite, so that the step can be left out; False on a device."""
    return gramian.device.type == "cpu" and not bool(torch.isfinite(gramian).all())


class SeededWeighting:
    """Weigh by a stochastic function of mojd, with a generator as the state.

    Draws are made on the host. After a Gramian with NaN the generator is where it was on the CPU; on a device
    it has moved on, as nobody waits to see the NaN.
    """

    def __init__(self, function: Callable[..., Any], *, seed: Any, **options: Any) -> None:
        self.function = function
        self.generator = generator_from(seed)
        self.options = {"nonfinite": "propagate", **options}

    def __repr__(self) -> str:
        """Show the function."""
        return f"{self.function.__name__}, drawn anew"

    def __call__(self, gramian: Tensor) -> Tensor:
        """Return the weights of this step."""
        return self.weigh(gramian).weights

    def weigh(self, gramian: Tensor) -> Weighed:
        """Return the weights of this step, and move the generator on."""
        if is_broken(gramian):
            return Weighed(torch.full_like(gramian[0], torch.nan), self.function)
        weights = self.function(gramian, seed=self.generator, **self.options)
        return Weighed(weights_like(weights, gramian), self.function)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the generator."""
        return {"seed": self.generator.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Set the generator to a saved state."""
        check_entries(state, ("seed",))
        load_generator(self.generator, state["seed"])

    def to(self, device: torch.device | str) -> None:
        """Do nothing: the generator is NumPy's."""
