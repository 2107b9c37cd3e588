"""The gradients of several losses, parameter by parameter: their Gramian, and their weighted sum."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from mojd.errors import InvalidInputError, InvalidTypeError
from mojd.torch._inputs import check_gradient, check_layout, losses_of, parameters_of, trainable
from mojd.torch._products import gramians
from mojd.torch._weighted_sums import WeightedSum, add_on_cpu, add_on_device

_USED_UP = "second time"


class LossGradients:
    """Hold one gradient per loss, as one tensor per parameter, between the backward passes and the step.

    Gradients are those that autograd made, held without a copy. :meth:`add` may be called for several
    micro-batches; gradients of a loss then add up.

    Parameters
    ----------
    params : iterable of tensors, or of parameter groups
        Leaves. Those that require no gradient are left out, and each is taken once.

    Attributes
    ----------
    params : tuple of tensors
        The parameters with a gradient.
    gradients : list of lists of tensors or None
        ``gradients[k][i]`` is the gradient of loss k with respect to ``params[i]``; None where the loss
        misses it. Empty until something is added.

    Raises
    ------
    InvalidTypeError, InvalidInputError
        If `params` is not what an optimiser would take, or all of it is frozen.

    Examples
    --------
    >>> import torch, mojd, mojd.torch
    >>> p = torch.zeros(3, requires_grad=True)
    >>> held = mojd.torch.LossGradients([p])
    >>> held.add([p @ torch.tensor([-4.0, 1.0, 1.0]), p @ torch.tensor([6.0, 1.0, 1.0])])
    >>> held.gramian()
    tensor([[ 18., -22.],
            [-22.,  38.]])
    >>> held.write(mojd.upgrad(held.gramian()))
    >>> p.grad
    tensor([0.2924, 1.9006, 1.9006])
    """

    def __init__(self, params: Iterable[Any]) -> None:
        self.params = trainable(parameters_of(params))
        self.gradients: list[list[Tensor | None]] = []
        # Tensors that were made here, so that nobody else can hold them.
        self._owned: set[tuple[int, int]] = set()
        self._scale: Tensor | None = None

    def __len__(self) -> int:
        """Return the number of losses, K; 0 if nothing is held."""
        return len(self.gradients)

    def __repr__(self) -> str:
        """Show the sizes, not the numbers."""
        entries = sum(tensor.numel() for tensor in self.params)
        return f"LossGradients(losses={len(self)}, params={len(self.params)} with {entries:,} entries)"

    def add(
        self, losses: Sequence[Tensor] | Tensor, *, scale: Tensor | None = None, retain_graph: bool = False
    ) -> None:
        """Differentiate each loss, and add its gradient to the one that is held for it.

        Parameters
        ----------
        losses : sequence of scalar tensors, or tensor of shape (K,)
            Losses without a graph are constants, whose gradient is 0.
        scale : scalar tensor, optional
            By which losses are multiplied on the way back, as loss scaling does against underflow. Held
            gradients are the scaled ones; :meth:`gramian` takes it out. The same for all that is added up.
        retain_graph : bool, default False
            Whether the graph is kept for another backward pass.

        Raises
        ------
        InvalidTypeError, InvalidInputError
            If losses are no real scalars, none has a graph or reaches a parameter, their graph has been
            freed, or their number differs from that of earlier ones. What was held stays as it was.

        Notes
        -----
        Cost: a backward pass per loss; the graph is walked as often, and freed by the last. Hooks of tensors
        run. Those of DistributedDataParallel and ``register_post_accumulate_grad_hook`` don't, as nothing is
        accumulated into ``.grad`` here.
        """
        values = losses_of(losses)
        self._check_count(len(values), "losses")
        last = max(index for index, loss in enumerate(values) if loss.requires_grad)
        fresh = []
        for index, loss in enumerate(values):
            fresh.append(self._differentiate(loss, index, scale, retain_graph or index < last))
        if all(part is None for row in fresh for part in row):
            raise InvalidInputError(
                f"no loss depends on any of the {len(self.params)} params; pass the parameters of the "
                "model that "
                "computed the losses"
            )
        self._merge(fresh)
        self._scale = scale

    def _differentiate(
        self, loss: Tensor, index: int, scale: Tensor | None, retain_graph: bool
    ) -> list[Tensor | None]:
        if not loss.requires_grad:
            return [None] * len(self.params)
        seed = None if scale is None else scale.to(loss).expand_as(loss)
        try:
            found = torch.autograd.grad(
                loss, self.params, grad_outputs=seed, retain_graph=retain_graph, allow_unused=True
            )
        except RuntimeError as error:
            if _USED_UP not in str(error):
                raise
            raise InvalidInputError(
                f"the graph of losses[{index}] has been freed by an earlier backward pass; compute the "
                "losses "
                "anew, or pass retain_graph=True to the call that comes first"
            ) from error
        for tensor, gradient in zip(self.params, found, strict=True):
            check_layout(tensor, gradient)
        return list(found)

    def add_gradients(
        self, gradients: Sequence[Sequence[Tensor | None]], *, scale: Tensor | None = None
    ) -> None:
        """Add gradients that were computed elsewhere.

        Parameters
        ----------
        gradients : sequence of sequences of tensors or None
            ``gradients[k][i]`` belongs to loss k and ``params[i]``, with its shape, dtype and device; None
            stands for 0. They are held, not copied, and never written to.
        scale : scalar tensor, optional
            By which they have been multiplied.

        Raises
        ------
        InvalidTypeError, InvalidInputError
            If a number, a shape, a dtype or a device does not fit.
        """
        if isinstance(gradients, Tensor) or not isinstance(gradients, Iterable):
            raise InvalidTypeError(
                f"gradients is a {type(gradients).__name__}; pass one sequence per loss, with a tensor or "
                "None per "
                "parameter"
            )
        rows = [list(row) for row in gradients]
        if not rows:
            raise InvalidInputError("gradients is empty; pass one sequence per loss")
        self._check_count(len(rows), "gradients")
        for k, row in enumerate(rows):
            if len(row) != len(self.params):
                raise InvalidInputError(
                    f"gradients[{k}] has {len(row)} entries for {len(self.params)} params that require a "
                    "gradient; "
                    "pass one for each, None where there is none"
                )
            for i, (tensor, gradient) in enumerate(zip(self.params, row, strict=True)):
                check_gradient(tensor, gradient, f"gradients[{k}][{i}]")
        self._merge(rows)
        self._scale = scale

    def _check_count(self, count: int, name: str) -> None:
        if self.gradients and count != len(self):
            raise InvalidInputError(
                f"{name} has {count} entries, but gradients of {len(self)} losses are held already; pass "
                "the same "
                "losses of every micro-batch, a constant for one that is missing"
            )

    def _merge(self, fresh: list[list[Tensor | None]]) -> None:
        """Add new gradients to those held. The first sum is a new tensor: autograd's may be shared."""
        if not self.gradients:
            self.gradients = fresh
            return
        with torch.no_grad():
            for k, (held, row) in enumerate(zip(self.gradients, fresh, strict=True)):
                for i, gradient in enumerate(row):
                    before = held[i]
                    if gradient is None:
                        continue
                    if before is None:
                        held[i] = gradient
                    elif (k, i) in self._owned:
                        before += gradient
                    else:
                        held[i] = before + gradient
                        self._owned.add((k, i))

    @torch.no_grad()
    def gramian(self) -> Tensor:
        r"""Compute the Gramian of the gradients that are held.

        .. math:: G_{kl} = \sum_i \langle g_k^{(i)}, g_l^{(i)} \rangle

        Returns
        -------
        Tensor, shape (K, K)
            On the device of the first parameter: float64 if a parameter is, float32 otherwise. Without the
            loss scale.

        Raises
        ------
        InvalidInputError
            If no gradients are held.

        Notes
        -----
        No Jacobian is formed, and no gradient is copied: parameters are read in pieces that stay in the
        cache. On the CPU, up to 12 gradients take dot products in their own precision (float32 for half
        precision), added up in float64; more take matrix products in float64, as on devices. The relative
        error, against √(G_kk·G_ll), is some 1e-7 in float32 and 1e-15 in float64. Squares of entries below
        1e-19 are lost in float32. Memory: some pieces, 1 MiB on the CPU, up to 64 MiB each on devices.
        Nothing waits for a device.
        """
        self._require("gramian()")
        device = self.params[0].device
        parts = [part.to(device) for part in gramians(self.gradients)]
        total = sum(parts[1:], start=parts[0])
        if self._scale is not None:
            total = total / self._scale.to(total).square()
        exact = any(tensor.dtype == torch.float64 for tensor in self.params)
        return total if exact else total.float()

    @torch.no_grad()
    def write(self, weights: Tensor) -> None:
        """Add ``Σ weights[k]·gradient[k]`` to the ``.grad`` of every parameter, and let go of the gradients.

        Parameters
        ----------
        weights : Tensor, shape (K,)
            On any device; NaN reaches all that is written.

        Raises
        ------
        InvalidInputError
            If no gradients are held or the number of weights differs from theirs.

        Notes
        -----
        Each gradient is read once, on the CPU, and not at all if its weight is 0. Half precision is added up
        in float32 and rounded once. Parameters that no loss reaches keep their ``.grad``, None included. With
        a loss scale, what is written is scaled, as ``GradScaler.step`` expects it.
        """
        self._require("write(weights)")
        if tuple(weights.shape) != (len(self),):
            raise InvalidInputError(
                f"weights has shape {tuple(weights.shape)}; gradients of {len(self)} losses take "
                f"({len(self)},)"
            )
        on_host: list[float] = []
        on_devices: dict[torch.device, list[tuple[Tensor, WeightedSum]]] = {}
        for index, tensor in enumerate(self.params):
            item = self._release(index, tensor)
            if item is None:
                continue
            if tensor.device.type != "cpu":
                on_devices.setdefault(tensor.device, []).append((tensor, item))
                continue
            on_host = on_host or weights.tolist()
            tensor.grad = add_on_cpu(item, on_host)
        for device, pairs in on_devices.items():
            results = add_on_device([item for _, item in pairs], weights.to(device))
            for (tensor, _), result in zip(pairs, results, strict=True):
                tensor.grad = result
        self.clear()

    def _release(self, index: int, tensor: Tensor) -> WeightedSum | None:
        """Return what one parameter gets, and forget its gradients; None if no loss reaches it."""
        rows = [k for k, row in enumerate(self.gradients) if row[index] is not None]
        if not rows:
            return None
        parts = [part for row in self.gradients if (part := row[index]) is not None]
        for row in self.gradients:
            row[index] = None
        return WeightedSum(tensor, parts, rows, tensor.grad, (rows[0], index) in self._owned)

    def clear(self) -> None:
        """Let go of everything that is held."""
        self.gradients = []
        self._owned = set()
        self._scale = None

    def _require(self, call: str) -> None:
        if not self.gradients:
            raise InvalidInputError(
                f"{call} needs gradients: call add(losses) first; write() lets go of them"
            )
