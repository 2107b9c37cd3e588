"""Priority-Constrained Descent with its normaliser: the primary loss first, then the secondaries."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

import mojd
from mojd._arrays import FloatArray, as_array, to_host
from mojd._checks import check_tau, number
from mojd.errors import InvalidInputError
from mojd.status import Status
from mojd.torch._weighing import Weighed, weights_like
from mojd.torch.info import StepInfo
from mojd.torch.methods import GradientMethod

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
    scales = torch.where(positive, 1.0 / torch.sqrt(torch.where(positive, square, 1.0)), 0.0 * square)
    return scales, mean_square, steps


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
        self.beta = number(beta, "beta", "the decay of the average")
        self.eps = number(eps, "eps", "it is added to the average")
        if not 0.0 <= self.beta < 1.0:
            raise InvalidInputError(f"beta must lie in [0, 1), got {beta!r}")
        if not 0.0 <= self.eps < math.inf:
            raise InvalidInputError(f"eps must be finite and not negative, got {eps!r}")
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
        InvalidInputError
            If an entry is missing, or there is one too many.
        """
        if set(state) != set(_STATE):
            given = ", ".join(map(str, state))
            raise InvalidInputError(
                f"state must have the entries {', '.join(_STATE)}, from state_dict(); got {given}"
            )
        for name in _STATE:
            value = state[name]
            setattr(self, name, value.clone() if isinstance(value, Tensor) else value)

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


class PCDInfo(StepInfo):
    """Hold the Gramian and the weights of a PCD step, and tell about them.

    As :class:`StepInfo`, whose names are about the direction, and the names of the official release, which
    are about the programme: they are Python numbers, of the problem that was solved, with this step's scales.
    Index 0 is the primary; lists about secondaries have K − 1 entries.
    """

    @cached_property
    def _scales(self) -> FloatArray:
        assert isinstance(self.function, partial)
        return to_host(self.function.keywords["scales"])

    @cached_property
    def mu(self) -> list[float]:
        """The multipliers μ ≥ 0 of the secondaries, for normalised gradients.

        The direction is s₀·g₀ + Σ μ_j·s_j·g_j before it is rescaled. All are 0 where the primary's gradient
        is 0 and the step halts, and where the constraints were dropped; NaN where the step is not finite.
        """
        count = len(self) - 1
        if self.status == Status.NONFINITE:
            return [math.nan] * count
        if self._halts or not self.feasible or self._optimum is None:
            return [0.0] * count
        scales = self._scales[1:]
        safe = np.where(scales > 0, scales, 1.0)
        return _numbers(np.where(scales > 0, self._optimum.x / safe, 0.0))

    @property
    def _halts(self) -> bool:
        return self._is_finite and self._values[0][0, 0] == 0.0

    @property
    def active(self) -> tuple[int, ...]:
        """The losses whose constraint binds, by their index; empty where the step halts or is not finite."""
        return tuple(index for index, value in enumerate(self.mu, start=1) if value > 0)

    @property
    def feasible(self) -> bool:
        """False where the constraints contradict each other, and the step follows the primary alone."""
        return self.status != Status.INFEASIBLE

    @property
    def cosine(self) -> list[float]:
        """The cosine of the primary's gradient with each secondary's; 0 where one of them is 0."""
        gramian = self._values[0]
        norms = np.sqrt(np.diagonal(gramian))
        sizes = norms[0] * norms[1:]
        cosines = np.where(sizes == 0, 0.0, gramian[0, 1:] / np.where(sizes == 0, 1.0, sizes))
        return _numbers(np.clip(cosines, -1.0, 1.0))

    @property
    def grad_norm(self) -> list[float]:
        """The norms of the raw gradients, without a loss scale."""
        return _numbers(np.sqrt(np.diagonal(self._values[0])))

    @property
    def scale(self) -> list[float]:
        """The scales s of this step: one over the usual norm of each gradient."""
        return _numbers(self._scales)


def _numbers(values: FloatArray) -> list[float]:
    return [float(value) for value in values]


class PCD(GradientMethod):
    r"""Follow the primary loss, with progress on every secondary one.

    .. math:: \tilde d = \operatorname*{arg\,min}_{d} \|d - \tilde g_0\|^2 \quad \text{s.t.} \quad
       \tilde g_j^\top d \ge \tau_j \|\tilde g_j\|^2, \; j \ge 1, \qquad \tilde g_i = s_i g_i

    with s from a moving average of ‖g‖², and :math:`d = \tilde d \cdot \|g_0\| / \|\tilde d\|` in ``.grad``.

    Parameters
    ----------
    params : iterable of tensors, or of parameter groups
        What is to be trained.
    tau : float, or sequence of K − 1 floats, default 0.02
        τ in [0, 1], the share of its normalised progress that each secondary is guaranteed.
    beta : float in [0, 1), default 0.999
        Decay of the moving average.
    eps : float ≥ 0, default 1e-8
        Added to the average, in units of a squared gradient norm.
    rescale : bool, default True
        Whether d gets the norm of the primary's gradient.

    Raises
    ------
    InvalidTypeError, InvalidInputError
        If an option is out of range, or `params` is not what an optimiser would take.

    Notes
    -----
    Names, order and defaults are those of the official release, and so are those of what :meth:`backward`
    returns (see :class:`PCDInfo`). Two things differ: ``.grad`` is added to, as by ``loss.backward()``, so that
    ``optimizer.zero_grad()`` is needed; and a step with NaN or infinity leaves the average as it was, bit for
    bit. Nothing waits for a device.

    References
    ----------
    PCD, arXiv 2606.29521, Algorithm 1.

    Examples
    --------
    >>> import torch, mojd.torch
    >>> p = torch.tensor([1.0, 1.0], requires_grad=True)
    >>> pcd = mojd.torch.PCD([p], tau=0.3)
    >>> info = pcd.backward([p[0], -p[0] + p[1]])  # the second loss is a constraint
    >>> info.active, info.feasible, [round(c, 4) for c in info.cosine]
    ((1,), True, [-0.7071])
    >>> p.grad
    tensor([0.3748, 0.9271])
    """

    weighting: PCDWeighting
    _info: Callable[..., StepInfo] = PCDInfo

    def __init__(
        self,
        params: Iterable[Any],
        tau: float | Sequence[float] | Tensor = 0.02,
        beta: float = 0.999,
        eps: float = 1e-8,
        rescale: bool = True,
    ) -> None:
        super().__init__(params, PCDWeighting(tau, beta, eps, rescale))
