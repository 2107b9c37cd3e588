"""The diagnostics of a step, computed when they are read."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mojd._arrays import FloatArray, to_float64
from mojd.status import Status
from mojd.torch._certificate import Optimum, norms_of, optimum_of, residual_of


class StepInfo:
    """Hold the Gramian and the weights of a step, and tell about them.

    Tensors stay on the device, and reading one waits for nothing. What is a Python number or tuple
    (`status`, `active`, `residual`, `certificate`) copies the Gramian to the host when it is first read, and
    solves the method's programmes once more to certify them: for hundreds of losses that takes longer than
    the weights did.

    Parameters
    ----------
    gramian : Tensor, shape (K, K)
    weights : Tensor, shape (K,)
    function : callable, optional
        What mapped the Gramian to the weights. Optimality is known of mojd's own functions and their
        partials; for anything else it is None.

    Attributes
    ----------
    gramian : Tensor, shape (K, K)
        G, in squared units of gradients, without a loss scale.
    weights : Tensor, shape (K,)
        w: the direction is d = Σ w_k·g_k.

    Examples
    --------
    >>> import torch, mojd, mojd.torch
    >>> p = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    >>> rows = torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]], dtype=torch.float64)
    >>> info = mojd.torch.backward(rows @ p, [p], mojd.upgrad)
    >>> info.weights
    tensor([1.1111, 0.7895], dtype=torch.float64)
    >>> info.status.name, info.active, info.certificate < 1e-6
    ('OPTIMAL', (0, 1), True)
    >>> print(info)
    StepInfo: 2 losses, weights of upgrad
      ‖d‖ 2.704  status OPTIMAL  residual ...  ‖d − d*‖ ≤ ...
      loss       ‖g‖         w  cos(g, d)  active
         0     4.243     1.111     0.2294  yes
         1     6.164    0.7895     0.3333  yes
    """

    def __init__(self, gramian: Tensor, weights: Tensor, function: Callable[..., Any] | None = None) -> None:
        self.gramian = gramian
        self.weights = weights
        self.function = function

    def __len__(self) -> int:
        """Return K, the number of losses."""
        return len(self.weights)

    @property
    def norms(self) -> Tensor:
        """‖g_k‖ of every loss, shape (K,)."""
        return self.gramian.diagonal().sqrt()

    @property
    def direction_norm(self) -> Tensor:
        """‖d‖ = √(wᵀGw), shape ()."""
        weights = self.weights.double()
        square = weights @ self.gramian.double() @ weights
        return square.clamp(min=0.0).sqrt().to(self.gramian.dtype)

    @property
    def cosines(self) -> Tensor:
        """The cosine of d with each gradient, shape (K,); 0 where one of them is 0.

        Above 0, a short step along −d makes the loss fall.
        """
        gramian, weights = self.gramian.double(), self.weights.double()
        slopes = gramian @ weights
        norms = gramian.diagonal().sqrt() * (weights @ slopes).clamp(min=0.0).sqrt()
        cosines = torch.where(norms == 0.0, torch.zeros_like(slopes), slopes / norms)
        return cosines.clamp(-1.0, 1.0).to(self.gramian.dtype)

    @cached_property
    def _host_gramian(self) -> Tensor:
        return self.gramian.cpu()

    @cached_property
    def _values(self) -> tuple[FloatArray, FloatArray]:
        """The Gramian and the weights on the host, in float64."""
        return to_float64(self._host_gramian), to_float64(self.weights.cpu())

    @cached_property
    def _is_finite(self) -> bool:
        return all(bool(np.isfinite(values).all()) for values in self._values)

    @cached_property
    def _optimum(self) -> Optimum | None:
        return optimum_of(self.function, self._host_gramian) if self._is_finite else None

    @property
    def status(self) -> Status | None:
        """How the step ended.

        NONFINITE if there is NaN or infinity in the gradients, or in their Gramian: that of float32 gradients
        overflows for norms above about 1e19 (and has all its digits from about 1e-18 on). For methods with a
        quadratic programme, the status of its solution: INFEASIBLE says that PCD's constraints contradict
        each other and were dropped. None for other methods.
        """
        if not self._is_finite:
            return Status.NONFINITE
        return None if self._optimum is None else self._optimum.status

    @property
    def active(self) -> tuple[int, ...] | None:
        """The losses that the direction was bent for, by their index: their multipliers are positive.

        For MGDA, the gradients in the convex combination. None for methods without a quadratic programme,
        empty where the step is not finite.
        """
        if not self._is_finite:
            return ()
        return None if self._optimum is None else self._optimum.active

    @cached_property
    def residual(self) -> float | None:
        """By how much the weights miss the optimality conditions of their method, without a scale.

        About 1e-7 for a float32 Gramian and 1e-15 for a float64 one. NaN where the step is not finite, None
        for methods that define none.
        """
        if not self._is_finite:
            return math.nan
        return residual_of(self.function, *self._values)

    @cached_property
    def certificate(self) -> float | None:
        """A rigorous bound on ‖d − d*‖, in units of d, with d* the method's exact direction for this Gramian.

        None for methods without a quadratic programme. NaN where the step is not finite or the programme has
        no solution; infinite where no bound was found, as at stationary points. How exact the Gramian itself
        is, it does not know.
        """
        if not self._is_finite:
            return math.nan
        if self._optimum is None:
            return None
        gramian, weights = self._values
        return self._optimum.error + norms_of(weights - self._optimum.weights, gramian)[1]

    def __repr__(self) -> str:
        """Show a table with a row per loss, and how sure the step is."""
        _, weights = self._values
        active = self.active
        lines = [
            f"{type(self).__name__}: {len(self)} losses, weights of {_name_of(self.function)}",
            "  " + "  ".join(self._summary()),
            "  loss       ‖g‖         w  cos(g, d)" + ("" if active is None else "  active"),
        ]
        norms, cosines = self.norms.tolist(), self.cosines.tolist()
        for index in range(min(len(self), 16)):
            mark = "" if active is None else ("  yes" if index in active else "")
            lines.append(
                f"  {index:4}  {norms[index]:8.4g}  {weights[index]:8.4g}  {cosines[index]:9.4g}{mark}"
            )
        if len(self) > 16:
            lines.append(f"  ... and {len(self) - 16} more")
        return "\n".join(lines)

    def _summary(self) -> list[str]:
        found = [f"‖d‖ {self.direction_norm.item():.4g}"]
        found.append("status unknown" if self.status is None else f"status {self.status.name}")
        if self.residual is not None:
            found.append(f"residual {self.residual:.1e}")
        if self.certificate is not None:
            found.append(f"‖d − d*‖ ≤ {self.certificate:.1e}")
        return found


def _name_of(function: Any) -> str:
    """Return what a weighting is called."""
    while hasattr(function, "func"):
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__))
