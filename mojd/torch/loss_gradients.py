"""The gradients of several losses, parameter by parameter: their Gramian, and their weighted sum."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from mojd.errors import InvalidInputError, InvalidTypeError
from mojd.torch._averages import Gradients
from mojd.torch._held import HeldGradients
from mojd.torch._inputs import check_layout, losses_of, parameters_of, rows_of, trainable
from mojd.torch._products import gramians
from mojd.torch._shards import local_part, seed_of
from mojd.torch._weighted_sums import write
from mojd.torch.distributed import Ranks

_USED_UP = "second time"


class LossGradients:
    """Hold one gradient per loss, as one tensor per parameter, between the backward passes and the step.

    Gradients are those that autograd made, held without a copy. :meth:`add` may be called for several
    micro-batches; gradients of a loss then add up.

    Parameters
    ----------
    params : iterable of tensors, or of parameter groups
        Leaves. Those that require no gradient are left out, and each is taken once.
    process_group : torch.distributed.ProcessGroup, optional
        The ranks over which the batch is split; gradients are averaged over them. Default: this process
        alone, and the ranks of parameters that are sharded (DTensors, those of FSDP2).

    Attributes
    ----------
    params : tuple of tensors
        The parameters with a gradient.
    gradients : list of lists of tensors or None
        ``gradients[k][i]`` is the gradient of loss k with respect to ``params[i]``, this rank's part of it
        if it is sharded; None where the loss misses it. Empty until something is added.

    Raises
    ------
    InvalidTypeError, InvalidInputError
        If `params` is not what an optimiser would take, or all of it is frozen; or `process_group` is none,
        or can't be used with `params`.

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

    def __init__(self, params: Iterable[Any], process_group: Any = None) -> None:
        self._ranks = Ranks(trainable(parameters_of(params)), process_group)
        self.params = self._ranks.params
        self._held = HeldGradients()
        self._scale: Tensor | None = None

    @property
    def gradients(self) -> list[Gradients]:
        """What is held."""
        return self._held.rows

    def __len__(self) -> int:
        """Return the number of losses, K; 0 if nothing is held."""
        return len(self.gradients)

    def __repr__(self) -> str:
        """Show the sizes, not the numbers."""
        entries = sum(tensor.numel() for tensor in self.params)
        return f"LossGradients(losses={len(self)}, params={len(self.params)} with {entries:,} entries)"

    def add(
        self,
        losses: Sequence[Tensor] | Tensor,
        *,
        scale: Tensor | None = None,
        retain_graph: bool = False,
        is_last: bool = False,
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
        is_last : bool, default False
            Whether nothing more is to be added. On several ranks, a loss's gradients are then averaged while
            the next loss is differentiated; otherwise all are, when they are needed.

        Raises
        ------
        InvalidTypeError, InvalidInputError
            If losses are no real scalars, none has a graph or reaches a parameter, their graph has been
            freed, or their number or scale differs from that of earlier ones (two scales are compared on the
            CPU only). What was held stays as it was. On
            several ranks: on all of them if one passes something else than the others; what none of the
            losses of any rank reaches is an error when gradients have been averaged.

        Notes
        -----
        Cost: a backward pass per loss; the graph is walked as often, and freed by the last. Hooks of tensors
        run. Those of DistributedDataParallel and ``register_post_accumulate_grad_hook`` don't, as nothing is
        accumulated into ``.grad`` here.
        """
        values = self._checked(losses, scale)
        last = max((index for index, loss in enumerate(values) if loss.requires_grad), default=-1)
        overlaps = is_last and not self.gradients and self._ranks.are_several
        fresh, pending = [], []
        for index, loss in enumerate(values):
            row = self._differentiate(loss, index, scale, retain_graph or index < last)
            if overlaps:
                pending.append(self._ranks.start_average(row))
            else:
                fresh.append(row)
        if overlaps:
            self._take_averages([average.wait() for average in pending])
        else:
            if not self._ranks.are_several:
                self._require_some(fresh)
            self._held.merge(fresh)
        self._scale = scale

    def _checked(self, losses: Any, scale: Tensor | None) -> tuple[Tensor, ...]:
        """Return the losses; raise on all ranks if one can't go on."""
        values: tuple[Tensor, ...] = ()
        problem = None
        try:
            values = losses_of(losses, may_be_constants=self._ranks.are_several)
            self._check_count(len(values), "losses")
            self._check_scale(scale)
        except (InvalidInputError, InvalidTypeError) as error:
            problem = error
        self._ranks.agree(values, problem)
        return values

    def _differentiate(self, loss: Tensor, index: int, scale: Tensor | None, retain_graph: bool) -> Gradients:
        seed = None if scale is None else seed_of(scale, loss)
        try:
            found = self._ranks.gradients_of(loss, retain_graph, seed)
        except RuntimeError as error:
            if _USED_UP not in str(error):
                raise
            raise InvalidInputError(
                f"the graph of losses[{index}] has been freed by an earlier backward pass; compute the "
                "losses anew, or pass retain_graph=True to the call that comes first"
            ) from error
        for tensor, gradient in zip(self.params, found, strict=True):
            check_layout(tensor, gradient)
        return found

    def _require_some(self, rows: list[Gradients]) -> None:
        if all(part is None for row in rows for part in row):
            where = "of any rank " if self._ranks.are_several else ""
            raise InvalidInputError(
                f"no loss {where}depends on any of the {len(self.params)} params; pass the parameters of the "
                "model that computed the losses"
            )

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
            If a number, a shape, a dtype, a device or the scale does not fit.
        """
        rows: list[Gradients] = []
        problem = None
        try:
            rows = rows_of(gradients, self.params)
            self._check_count(len(rows), "gradients")
            self._check_scale(scale)
        except (InvalidInputError, InvalidTypeError) as error:
            problem = error
        self._ranks.agree_on_gradients(rows, problem)
        with torch.no_grad():
            for row in rows:
                pairs = zip(row, self.params, strict=True)
                row[:] = [None if part is None else local_part(part, param) for part, param in pairs]
        self._held.merge(rows)
        self._scale = scale

    def _check_count(self, count: int, name: str) -> None:
        if self.gradients and count != len(self):
            raise InvalidInputError(
                f"{name} has {count} entries, but gradients of {len(self)} losses are held already; pass the "
                "same losses of every micro-batch, a constant for one that is missing"
            )

    def check_held(self, scale: Tensor | None = None) -> None:
        """Raise, on all ranks, unless every one of them holds gradients for a step without further losses.

        Parameters
        ----------
        scale : scalar tensor, optional
            That of what is held, if the caller knows of one.

        Raises
        ------
        InvalidInputError
            If nothing is held, what is held has another scale, or another rank has losses to add.
        """
        problem = None
        try:
            if not self.gradients:
                raise InvalidInputError("there are no losses: pass losses, or call accumulate(losses) before")
            if scale is not None:
                self._check_scale(scale)
        except InvalidInputError as error:
            problem = error
        self._ranks.agree((), problem)

    def _check_scale(self, scale: Tensor | None) -> None:
        """Raise if what is held has another scale; two are compared where nothing waits for it."""
        held = self._scale
        if not self.gradients or (held is None and scale is None):
            return
        advice = "pass the same scaler to every call of a step, and call scaler.update() after it only"
        if held is None or scale is None:
            one, other = ("not scaled", "are") if held is None else ("scaled", "are not")
            raise InvalidInputError(
                f"the gradients that are held are {one}, and those to be added {other}: {advice}"
            )
        on_host = held.device.type == scale.device.type == "cpu"
        if on_host and float(held) != float(scale):
            raise InvalidInputError(
                f"the gradients that are held have the scale {float(held):g}, and those to be added "
                f"{float(scale):g}: {advice}"
            )

    def _average(self) -> None:
        """Average what is held over the ranks that have replicas of the parameters, all losses at once."""
        if not self._held.is_averaged and self._ranks.are_several:
            pending = [self._ranks.start_average(row) for row in self.gradients]
            self._take_averages([average.wait() for average in pending])

    def _take_averages(self, rows: list[Gradients]) -> None:
        self._require_some(rows)
        self._held.replace(rows)

    @torch.no_grad()
    def gramian(self) -> Tensor:
        r"""Compute the Gramian of the gradients that are held.

        .. math:: G_{kl} = \sum_i \langle g_k^{(i)}, g_l^{(i)} \rangle

        Returns
        -------
        Tensor, shape (K, K)
            On the device of the first parameter: float64 if a parameter is, float32 otherwise. Without the
            loss scale. Of averaged gradients on several ranks, and bit for bit the same on all of them.

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
        1e-19 are lost in float32, and norms above 1.8e19 overflow.
        Memory: some pieces, 1 MiB on the CPU, up to 64 MiB each on devices.
        Nothing waits for a device.
        """
        self._require("gramian()")
        self._average()
        total = self._ranks.gramian(self.gradients, self._inner_products)
        if self._scale is not None:
            total = total / self._scale.to(total).square()
        exact = any(tensor.dtype == torch.float64 for tensor in self.params)
        return self.shared(total if exact else total.float())

    def _inner_products(self, rows: Sequence[Sequence[Tensor | None]]) -> Tensor:
        """Return the inner products of what is here, float64 (K, K) on the first parameter's device."""
        device = self.params[0].device
        parts = [part.to(device) for part in gramians(rows)]
        if not parts:
            return torch.zeros((len(rows), len(rows)), dtype=torch.float64, device=device)
        return sum(parts[1:], start=parts[0])

    def shared(self, weights: Tensor) -> Tensor:
        """Return the weights that the first rank has found, for :meth:`write` on all of them.

        Weights may be drawn at random, or rounded differently by processors of different makes.

        Parameters
        ----------
        weights : Tensor, shape (K,)

        Returns
        -------
        Tensor, shape (K,)
        """
        return self._ranks.same(weights) if self._ranks.are_several else weights

    @torch.no_grad()
    def write(self, weights: Tensor) -> None:
        """Add ``Σ weights[k]·gradient[k]`` to the ``.grad`` of every parameter, and let go of the gradients.

        Parameters
        ----------
        weights : Tensor, shape (K,)
            On any device, the same on all ranks; NaN reaches all that is written.

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
        self._average()
        write(self._held.sums(self.params), weights)
        self.clear()

    def clear(self) -> None:
        """Let go of everything that is held."""
        self._held = HeldGradients()
        self._scale = None

    def _require(self, call: str) -> None:
        if not self.gradients:
            raise InvalidInputError(
                f"{call} needs gradients: call add(losses) first; write() lets go of them"
            )
