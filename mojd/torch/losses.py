"""Training on a few losses: one gradient per loss, and a weighted sum of them in ``.grad``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

import mojd
from mojd.errors import InvalidTypeError
from mojd.torch._weighing import StatefulWeighting, checked, weigh
from mojd.torch.info import StepInfo
from mojd.torch.loss_gradients import LossGradients


def backward(
    losses: Sequence[Tensor] | Tensor,
    params: Iterable[Any],
    weighting: Callable[..., Any] | StatefulWeighting | str = mojd.upgrad,
    *,
    scaler: torch.amp.GradScaler | None = None,
    retain_graph: bool = False,
    process_group: Any = None,
) -> StepInfo:
    r"""Differentiate several losses, weigh their gradients, and add the direction to ``.grad``.

    .. math:: \texttt{.grad} \leftarrow \texttt{.grad} + d, \qquad d = \sum_k w_k\, g_k, \qquad
       w = \omega(J J^\top)

    It stands where ``loss.backward()`` does; any optimiser takes the step.

    Parameters
    ----------
    losses : sequence of scalar tensors, or tensor of shape (K,)
        In the order of the weights: for PCD the primary first. They may share parameters or not, and be
        constants, whose gradient is 0.
    params : iterable of tensors, or of parameter groups
        What is to be trained: shared and task-specific parameters alike. Those that require no gradient are
        left out.
    weighting : callable, str or object with a state, default mojd.upgrad
        From Gramians (K, K) to weights (K,): a function of mojd, a partial of one, as in
        ``functools.partial(mojd.pcd, tau=0.1)``, the name of one, a Weighting of TorchJD or a function of
        yours.
    scaler : torch.amp.GradScaler, optional
        Losses are multiplied by its scale on the way back; pass them unscaled. The weighting sees the Gramian
        without the scale, ``.grad`` is left scaled: ``scaler.step(optimizer)`` and ``scaler.update()``
        follow.
    retain_graph : bool, default False
        Whether the graph of the losses is kept for another backward pass.
    process_group : torch.distributed.ProcessGroup, optional
        The ranks over which the batch is split, with a replica of the parameters each. Every loss is then the
        mean of theirs, and all find the same weights. Default: this process alone; sharded parameters, of
        FSDP2's ``fully_shard`` or DTensors, know their own ranks.

    Returns
    -------
    StepInfo
        The Gramian, the weights, and what can be told of them, computed when it is read.

    Raises
    ------
    InvalidTypeError, InvalidInputError
        If losses, parameters or the weighting are not what they should be; each message says what to pass.
        On several ranks: on all of them, if one passes something else than the others.

    Notes
    -----
    NaN or infinity in any gradient makes all weights NaN, and so all of what is written, for a scaler to skip
    the step; nothing is raised. Parameters that no loss reaches keep their ``.grad``. Cost: K backward
    passes; reading each gradient twice; K² numbers. Memory: K gradients at a time. What runs when autograd
    accumulates into ``.grad`` (DistributedDataParallel, post-accumulate-grad hooks) does not run. The Gramian
    of float32 gradients is float32 too. It has all its digits for norms between about 1e-18 and 1e19, loses
    them below, to be 0 before 1e-23, and overflows above, which counts as infinity: keep the losses within,
    or parameters in float64.

    References
    ----------
    Jacobian descent, arXiv 2406.16232, Algorithm 1.

    Examples
    --------
    >>> import torch, mojd, mojd.torch
    >>> _ = torch.manual_seed(0)
    >>> x = torch.randn(16, 8)
    >>> trunk, heads = torch.nn.Linear(8, 4), [torch.nn.Linear(4, 1), torch.nn.Linear(4, 1)]
    >>> params = [p for module in (trunk, *heads) for p in module.parameters()]
    >>> optimizer = torch.optim.SGD(params, lr=0.1)
    >>> for step in range(3):
    ...     features = trunk(x).relu()
    ...     losses = [(heads[0](features) - 1).square().mean(), (heads[1](features) + 1).square().mean()]
    ...     optimizer.zero_grad()
    ...     info = mojd.torch.backward(losses, params, mojd.upgrad)
    ...     optimizer.step()
    >>> bool((info.cosines > 0).all())  # the direction opposes neither loss
    True
    """
    weighting = checked(weighting)
    held = LossGradients(params, process_group)
    scale = scale_of(scaler, held.params[0].device)
    held.add(losses, scale=scale, retain_graph=retain_graph, is_last=True)
    return apply(held, weighting, share=held.shared)


class Held(Protocol):
    """Gradients of K losses, whatever form they are held in."""

    def gramian(self) -> Tensor:
        """Compute the Gramian (K, K)."""

    def write(self, weights: Tensor) -> None:
        """Add the direction for weights (K,) to the ``.grad`` of the parameters."""


def apply(
    held: Held,
    weighting: Any,
    info: Callable[..., StepInfo] = StepInfo,
    share: Callable[[Tensor], Tensor] | None = None,
) -> StepInfo:
    """Weigh the gradients that are held, write the direction and let go of them.

    Parameters
    ----------
    held : Held
    weighting : callable or StatefulWeighting
        From :func:`mojd.torch._weighing.checked`.
    info : callable
        Makes the diagnostics from the Gramian, the weights and the function between them.
    share : callable, optional
        From this rank's weights to those that all ranks take.
    """
    gramian = held.gramian()
    weighed = weigh(weighting, gramian)
    weights = weighed.weights if share is None else share(weighed.weights)
    held.write(weights)
    return info(gramian, weights, weighed.function)


def scale_of(scaler: Any, device: torch.device) -> Tensor | None:
    """Return the scale of a scaler as a tensor, without waiting for a device; None if there is none."""
    if scaler is None:
        return None
    if not isinstance(scaler, torch.amp.GradScaler):
        raise InvalidTypeError(
            f"scaler must be a torch.amp.GradScaler, got {type(scaler).__name__}; without loss scaling, "
            "leave it out"
        )
    if not scaler.is_enabled():
        return None
    # The public way to its scale; it also counts as the call of scale() that step() insists on.
    scale = scaler.scale(torch.ones((), device=device))
    assert isinstance(scale, Tensor)
    return scale
