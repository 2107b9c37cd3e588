"""Priority-Constrained Descent with its normaliser: the primary loss first, then the secondaries."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mojd._arrays import FloatArray, to_host
from mojd.status import Status
from mojd.torch.info import StepInfo
from mojd.torch.methods import GradientMethod
from mojd.torch.pcd_weighting import PCDWeighting


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
    process_group : torch.distributed.ProcessGroup, optional
        As for :func:`mojd.torch.backward`. The moving average is bit for bit the same on all ranks.

    Raises
    ------
    InvalidTypeError, InvalidInputError
        If an option is out of range, or `params` is not what an optimiser would take.

    Notes
    -----
    Names, order and defaults are those of the official release, and so are those of what :meth:`backward`
    returns (see :class:`PCDInfo`). Two things differ. ``.grad`` is added to, as by ``loss.backward()``: call
    ``optimizer.zero_grad()`` before. And a step with NaN or infinity leaves the average as it was, bit for
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
        *,
        process_group: Any = None,
    ) -> None:
        super().__init__(params, PCDWeighting(tau, beta, eps, rescale), process_group=process_group)

    def backward(
        self,
        losses: Sequence[Tensor] | Tensor | None = None,
        *,
        scaler: torch.amp.GradScaler | None = None,
        retain_graph: bool = False,
    ) -> PCDInfo:
        """Differentiate the losses, the primary first, and add the direction to ``.grad``.

        Parameters, errors and costs are those of :meth:`GradientMethod.backward`.

        Returns
        -------
        PCDInfo
        """
        info = super().backward(losses, scaler=scaler, retain_graph=retain_graph)
        assert isinstance(info, PCDInfo)
        return info

    def apply_gradients(
        self, grads: Sequence[Sequence[Tensor | None]], *, scaler: torch.amp.GradScaler | None = None
    ) -> PCDInfo:
        """Weigh gradients that were computed elsewhere, the primary's first.

        Parameters and errors are those of :meth:`GradientMethod.apply_gradients`.

        Returns
        -------
        PCDInfo
        """
        info = super().apply_gradients(grads, scaler=scaler)
        assert isinstance(info, PCDInfo)
        return info
