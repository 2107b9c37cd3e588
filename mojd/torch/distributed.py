"""What crosses ranks when there are a few losses: averages of gradients, and sums of Gramians.

Loss k of a batch that is split over ranks is the mean of the ranks' own loss k, and so is its gradient. The
Gramian is not the mean of the ranks' Gramians: gradients are averaged first. Where parameters are sharded,
every rank has the inner products of its own elements, and the Gramian is their sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mojd.torch import _fsdp
from mojd.torch._averages import Gradients, PendingGradients
from mojd.torch._collectives import check_dense, gather_rows, row_counts, sum_gradients
from mojd.torch._groups import Group, agree, broadcast, check_devices, group_of
from mojd.torch._shards import Layout, add_to_grad, is_dtensor, layouts, local_part

__all__ = ["PendingGradients", "Ranks", "crosses_ranks", "gather_rows", "row_counts", "sum_gradients"]


def crosses_ranks(params: Sequence[Tensor], process_group: Any) -> bool:
    """Return whether a step on these parameters needs :class:`Ranks`.

    Parameters
    ----------
    params : sequence of Tensor
        The parameters.
    process_group : torch.distributed.ProcessGroup or None
        The ranks over which the batch is split, if any.

    Returns
    -------
    bool
        False if there is no process group and every parameter is this process's alone.

    Examples
    --------
    >>> import torch
    >>> from mojd.torch.distributed import crosses_ranks
    >>> crosses_ranks([torch.nn.Parameter(torch.ones(2))], None)
    False
    """
    if process_group is not None or any(is_dtensor(param) for param in params):
        return True
    return bool(_fsdp.managed_parameters(params))


class Ranks:
    """The ranks that take a step together: who holds which parameters, and who has to hear from whom.

    Gradients in and out are lists with this rank's part of the gradient of every parameter, as plain tensors:
    of a DTensor its local shard, of a plain tensor all of it, and None for what the loss misses.

    Parameters
    ----------
    params : sequence of Tensor
        The parameters, plain tensors or DTensors, the same on all ranks and in the same order.
    process_group : torch.distributed.ProcessGroup, optional
        The ranks over which the batch is split, each with a replica of the plain parameters. Default: plain
        parameters are this process's alone. DTensors know their ranks; if `process_group` is not part of
        their mesh, it joins replicas of the shards.

    Raises
    ------
    InvalidInputError
        If the group is not initialised, does not have this process, has no backend for the parameters'
        device, or contradicts the mesh of a parameter; or FSDP2 has been told not to reduce gradients.
    InvalidTypeError
        If `process_group` is none.

    Attributes
    ----------
    params : tuple of Tensor
        The parameters. Those that FSDP2 has gathered for the backward pass are replaced by their shards,
        which is what the optimiser has.

    Notes
    -----
    What goes over the wire, in numbers per rank and step, for K losses and n parameters:

    ==================  ==================================  ===================  =======================
    parameters          gradients                           Gramian              to have the same bits
    ==================  ==================================  ===================  =======================
    plain, replicated   K all-reduces of n                  none                 K² + K, from rank 0
    FSDP2               K reduce-scatters of n, and what    an all-reduce of K²  K² + K per mesh dimension
                        FSDP2 gathers again: n per loss
    DTensors            an all-reduce of what is Partial    K² per sharded mesh  K² + K per mesh dimension
                                                            dimension
    ==================  ==================================  ===================  =======================

    Besides, ten integers per group and step are compared, so that ranks that differ in their losses raise
    an error instead of waiting for each other. In a group that reaches no CPU (NCCL alone), that would wait
    for the device, and is done in the first step only.

    Examples
    --------
    A step, without what is done to be fast; rank 0 of 1:

    >>> import tempfile, torch, torch.distributed as dist, mojd
    >>> from mojd.torch.distributed import Ranks
    >>> store = f"file://{tempfile.mkdtemp()}/store"
    >>> dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    >>> x = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> losses = [x.square().sum(), -x.sum()]
    >>> ranks = Ranks([x], dist.group.WORLD)
    >>> ranks.agree(losses)
    >>> pending = [ranks.start_average(ranks.gradients_of(loss, retain_graph=True)) for loss in losses]
    >>> rows = [gradients.wait() for gradients in pending]
    >>> def inner_products(rows):
    ...     J = torch.stack([row[0] for row in rows])
    ...     return J @ J.T
    >>> weights = ranks.same(mojd.upgrad(ranks.same(ranks.gramian(rows, inner_products))))
    >>> ranks.add_to_grads([weights[0] * rows[0][0] + weights[1] * rows[1][0]])
    >>> x.grad
    tensor([-0.7000,  0.6000])
    >>> dist.destroy_process_group()
    """

    def __init__(self, params: Sequence[Tensor], process_group: Any = None) -> None:
        self._replicas = None if process_group is None else group_of(process_group)
        self._managed = _fsdp.managed_parameters(params)
        _fsdp.check_managed(self._managed)
        self.params: tuple[Tensor, ...] = tuple(
            self._managed[index].sharded if index in self._managed else param
            for index, param in enumerate(params)
        )
        self._layouts: list[Layout] = layouts(self.params, self._replicas)
        self._averaged = [index for index, layout in enumerate(self._layouts) if layout.averaged]
        self._has_dtensors = any(layout.mesh for layout in self._layouts)
        groups = dict.fromkeys(group for layout in self._layouts for group in layout.mesh)
        self._mesh_groups = [group for group in groups if len(group.ranks) > 1]
        self._groups: list[Group] = list(self._mesh_groups)
        if self._replicas is not None and len(self._replicas.ranks) > 1:
            if self._replicas not in groups:
                self._groups.append(self._replicas)
            check_devices(self._replicas, [(i, self.params[i]) for i in self._averaged], "parameter")

    @property
    def are_several(self) -> bool:
        """Whether anything crosses ranks at all."""
        return bool(self._groups)

    def agree(self, losses: Sequence[Tensor], problem: Exception | None = None) -> None:
        """Raise, on all ranks, if they differ in what they are about to do, or one of them can't.

        Parameters
        ----------
        losses : sequence of Tensor
            The losses of this step.
        problem : Exception, optional
            Why this rank can't go on. It is raised here, once the others know.

        Raises
        ------
        InvalidInputError
            If the ranks have different numbers of losses or parameters; some parameter is sharded, and a
            loss that has a graph on one rank is a constant on another; or another rank has a problem.
        """
        if not self._groups and problem is None:
            return
        constant = [index for index, loss in enumerate(losses) if not loss.requires_grad]
        mismatch = (
            "some loss has a graph on one rank and is a constant on another; here, losses "
            f"{constant} are constants. Shards need all ranks in every backward pass; add a zero that "
            "depends on the model, such as 0.0 * output.sum(), where there is nothing to learn from"
        )
        self._agree(len(losses), bytes(loss.requires_grad for loss in losses), mismatch, problem)

    def agree_on_gradients(self, rows: Sequence[Gradients], problem: Exception | None = None) -> None:
        """Raise, on all ranks, if they differ in the gradients that they bring, or one of them can't go on.

        Parameters
        ----------
        rows : sequence of K lists of Tensor or None
            Gradients that were computed elsewhere, those of DTensors as DTensors.
        problem : Exception, optional
            As for :meth:`agree`.

        Raises
        ------
        InvalidInputError
            If the ranks have different numbers of losses or parameters, the gradient of a DTensor is there on
            one rank and None on another, or another rank has a problem.
        """
        sharded = [index for index, param in enumerate(self.params) if is_dtensor(param)]
        pattern = [[row[index] is not None for index in sharded] for row in rows] if problem is None else []
        mismatch = "the gradient of a DTensor is None on one rank and a tensor on another; pass zeros instead"
        self._agree(len(rows), b"".join(map(bytes, pattern)), mismatch, problem)

    def _agree(self, count: int, pattern: bytes, mismatch: str, problem: Exception | None) -> None:
        if self._groups:
            agree(count, pattern, mismatch, self.params, self._mesh_groups, self._groups, problem)
        elif problem is not None:
            raise problem

    def gradients_of(self, loss: Tensor, retain_graph: bool, seed: Tensor | None = None) -> Gradients:
        """Compute this rank's part of a loss's gradient.

        Gradients of shards are those of the mean over the ranks of FSDP2, which reduces them on the way;
        gradients of plain tensors are this rank's own, for :meth:`start_average`.

        Parameters
        ----------
        loss : Tensor, shape ()
            The loss. A constant has no gradients.
        retain_graph : bool
            Whether another backward pass follows. It does, for all but the last loss.
        seed : Tensor, shape (), optional
            By what the loss is multiplied on the way back, such as the scale of a GradScaler. Default: 1.

        Returns
        -------
        list of Tensor or None
            One per parameter. No `.grad` is changed.
        """
        found: Sequence[Tensor | None]
        if self._managed:
            found = _fsdp.gradients_of(loss, self.params, self._managed, retain_graph, seed)
        elif loss.requires_grad:
            found = torch.autograd.grad(
                loss, self.params, grad_outputs=seed, retain_graph=retain_graph, allow_unused=True
            )
        else:
            found = [None] * len(self.params)
        if not self._has_dtensors:
            return list(found)
        with torch.no_grad():
            pairs = zip(found, self.params, strict=True)
            return [None if gradient is None else local_part(gradient, param) for gradient, param in pairs]

    def start_average(self, gradients: Gradients) -> PendingGradients:
        """Start to average one loss's gradients over the replicas, while the next loss's are computed.

        Parameters
        ----------
        gradients : list of Tensor or None
            From :meth:`gradients_of`.

        Returns
        -------
        PendingGradients
            Its ``wait()`` returns the averages. A parameter that some rank's loss misses counts as zero
            there, and is None only if the losses of all ranks miss it.

        Raises
        ------
        InvalidTypeError
            If a gradient is sparse.
        """
        check_dense(gradients, "the gradient of parameter")
        return PendingGradients(gradients, self.params, self._averaged, self._replicas)

    def gramian(
        self, rows: Sequence[Gradients], local_gramian: Callable[[list[Gradients]], Tensor]
    ) -> Tensor:
        """Compute the Gramian of gradients of which every rank holds a part.

        Parameters
        ----------
        rows : sequence of K lists of Tensor or None
            The gradients, one list per loss.
        local_gramian : callable
            Maps K lists of gradients of some of the parameters to their (K, K) inner products. None counts
            as zero, and so do tensors without elements, of which ranks may have nothing else. Its dtype and
            device must be the same on all ranks.

        Returns
        -------
        Tensor, shape (K, K)
            The sum over all parameters, each element counted once, wherever it is and however often.
        """
        columns: dict[frozenset[Group], list[int]] = {}
        for index, layout in enumerate(self._layouts):
            columns.setdefault(layout.sharded, []).append(index)
        parts = {
            sharded: local_gramian([[row[index] for index in indices] for row in rows])
            for sharded, indices in columns.items()
        }
        while split := [group for group in self._mesh_groups if any(group in sharded for sharded in parts)]:
            # The rarest first: what it leaves may be added to others before they are sent.
            group = min(split, key=lambda group: sum(group in sharded for sharded in parts))
            concerned = [sharded for sharded in parts if group in sharded]
            sums = torch.stack([parts.pop(sharded) for sharded in concerned])
            dist.all_reduce(sums, group=group.handle)
            for sharded, part in zip(concerned, sums, strict=True):
                rest = sharded - {group}
                parts[rest] = parts[rest] + part if rest in parts else part
        return parts[frozenset()]

    def same(self, tensor: Tensor) -> Tensor:
        """Return the first rank's tensor, so that it is bit for bit the same on all ranks.

        Processors of different makes round differently, and so may sums in different orders: the Gramian goes
        through here, for the sake of the state of a weighting, and so do the weights, some of which are drawn
        at random.

        Parameters
        ----------
        tensor : Tensor
            Of the same shape, dtype and type of device on all ranks.

        Returns
        -------
        Tensor
            A copy. NaN stays NaN: the sums have brought it to all ranks already.
        """
        return broadcast(tensor, self._groups)

    def add_to_grads(self, directions: Gradients) -> None:
        """Add this rank's part of the direction to every parameter's `.grad`.

        Parameters
        ----------
        directions : list of Tensor or None
            One per parameter. They may become the `.grad` itself. None leaves `.grad` as it is.
        """
        for direction, param in zip(directions, self.params, strict=True):
            if direction is not None:
                add_to_grad(direction, param)
