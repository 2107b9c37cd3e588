"""Examples on several ranks: the Gramian of all of them, from factors gathered one parameter at a time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mojd._checks import check_rows
from mojd.errors import InvalidInputError
from mojd.torch._fsdp import managed_parameters
from mojd.torch._groups import broadcast, check_devices, group_of
from mojd.torch.distributed import gather_rows, sum_gradients
from mojd.torch.examples.alike import Form, alike, common_form, form_of
from mojd.torch.examples.factors import products
from mojd.torch.examples.gradients import JointGradients, PerExampleGradients, add_to_grads


def check_replica(module: nn.Module, parameters: Mapping[str, nn.Parameter]) -> None:
    """Raise if FSDP keeps the parameters, even where they are all gathered at the moment.

    Raises
    ------
    InvalidInputError
        If a parameter is sharded.
    """
    advice = (
        "the engine needs a whole replica of the module on each rank, with process_group=; for a few losses, "
        "mojd.torch.backward takes modules of fully_shard"
    )
    managed = managed_parameters(list(parameters.values()))
    if managed:
        names = list(parameters)
        raise InvalidInputError(
            f"parameter {names[min(managed)]!r} is sharded over ranks by fully_shard: {advice}"
        )
    # Who has not imported it can't have used it.
    if "torch.distributed.fsdp" not in sys.modules:
        return
    from torch.distributed.fsdp import FullyShardedDataParallel

    for name, part in module.named_modules():
        if isinstance(part, FullyShardedDataParallel):
            raise InvalidInputError(
                f"{name or 'module'!r} is a FullyShardedDataParallel, which shards its parameters: {advice}"
            )


class Summary(NamedTuple):
    """What a rank tells the others before it sends anything whose size depends on it.

    Attributes
    ----------
    size : int
        How many losses it has.
    shapes : dict
        The shape and dtype of each trainable parameter.
    forms : dict
        The form of the gradients of each parameter that a loss reaches.
    error : str
        Why it can't go on; empty if it can.
    """

    size: int
    shapes: dict[str, tuple[tuple[int, ...], torch.dtype]]
    forms: dict[str, Form]
    error: str = ""


def _exchanged(summary: Summary, process_group: Any) -> list[Summary]:
    """Return the summaries of all ranks, in their order; raise on all of them if one can't go on."""
    found: list[Any] = [None] * dist.get_world_size(process_group)
    dist.all_gather_object(found, summary, group=process_group)
    if summary.error:
        return found
    for rank, other in zip(dist.get_process_group_ranks(process_group), found, strict=True):
        if other.error:
            raise InvalidInputError(
                f"rank {rank} of process_group can't go on, and so can no other: {other.error}"
            )
    return found


def over_ranks(
    compute: Callable[[], Sequence[PerExampleGradients]],
    parameters: Mapping[str, nn.Parameter],
    process_group: Any,
) -> GradientsOverRanks:
    """Compute this rank's gradients, and join them to those of the others.

    Parameters
    ----------
    compute : callable
        Returns the gradients of this rank's losses, one for each micro-batch; none if it has no losses.
    parameters : mapping
        All trainable parameters by name.
    process_group : ProcessGroup

    Raises
    ------
    Exception
        Whatever `compute` raises; on the other ranks an InvalidInputError says what it was, instead of
        waiting for a rank that will not come.
    """
    try:
        parts = compute()
    except Exception as error:
        _exchanged(Summary(0, {}, {}, f"{type(error).__name__}: {error}"), process_group)
        raise
    return GradientsOverRanks(parts, parameters, process_group)


class GradientsOverRanks:
    """The gradients of the losses of all ranks, in the order of the ranks.

    Every rank holds those of its own losses, multiplies them with those of all ranks, and gets the rows of
    the Gramian that the others have computed. The weighted gradients of the ranks are added up.

    Parameters
    ----------
    parts : sequence of PerExampleGradients
        Those of this rank's losses: one for each micro-batch. A rank may have none.
    parameters : mapping
        All trainable parameters by name.
    process_group : ProcessGroup
        Each rank has a replica of the parameters.

    Raises
    ------
    InvalidInputError
        On all ranks, if they differ in their parameters, or none of them has a loss.

    Notes
    -----
    Memory: beside what is held already, the factors of one parameter, of all ranks, at a time. Ranks may have
    different numbers of losses and of positions, such as words; those with fewer positions are filled up.
    Where ranks hold the gradients of a parameter in different forms, they are written out.
    """

    def __init__(
        self, parts: Sequence[PerExampleGradients], parameters: Mapping[str, nn.Parameter], process_group: Any
    ) -> None:
        self._parts = parts
        self._parameters = parameters
        self._process_group = process_group
        self._group = group_of(process_group)
        check_devices(self._group, enumerate(parameters.values()), "parameter")
        self._size = sum(part.size for part in parts)
        shapes = {name: (tuple(p.shape), p.dtype) for name, p in parameters.items()}
        own = Summary(self._size, shapes, self._own_forms())
        summaries = _exchanged(own, process_group)
        if any(list(other.shapes.items()) != list(shapes.items()) for other in summaries):
            raise InvalidInputError(_difference(summaries, self._group.ranks))
        self._sizes = [other.size for other in summaries]
        if not sum(self._sizes):
            raise InvalidInputError("no rank of process_group has a loss: pass losses, or call add(losses)")
        self._forms: dict[str, Form] = {}
        for name in parameters:
            found = [other.forms[name] for other in summaries if name in other.forms]
            if found:
                self._forms[name] = reduce(common_form, found)

    def _own_forms(self) -> dict[str, Form]:
        """Return the form in which all micro-batches can be put, for each parameter that one reaches."""
        forms: dict[str, Form] = {}
        for part in self._parts:
            for name, factor in part.factors.items():
                form = form_of(factor)
                forms[name] = common_form(forms[name], form) if name in forms else form
        return forms

    def gramian(self) -> Tensor:
        """Compute the Gramian of the losses of all ranks; bit for bit the same on each of them."""
        like = PerExampleGradients(self._size, self._parameters, {})
        total = like.empty_gramian(sum(self._sizes))
        for name, form in self._forms.items():
            factors = [(part.size, part.factors.get(name)) for part in self._parts]
            own = alike(factors, form, self._parameters[name])
            tensors = [gather_rows(tensor, self._process_group, self._sizes) for tensor in own.tensors]
            if self._size:
                total += products(own, form.made_of(tensors, own.shape))
        rows = gather_rows(total, self._process_group, self._sizes)
        # Each rank has rounded its rows in its own way, and all have the same rows here.
        return 0.5 * (rows + rows.T)

    def shared(self, weights: Tensor) -> Tensor:
        """Return the weights that the first rank has found, for :meth:`write` on all of them."""
        return broadcast(weights, [self._group])

    def write(self, weights: Tensor) -> None:
        """Add the direction for the losses of all ranks to ``.grad``, the same on each of them.

        Parameters
        ----------
        weights : Tensor, shape (sum of the ranks' losses,)
            The same on all ranks.
        """
        check_rows(weights, sum(self._sizes), "weights", "one per loss of all ranks")
        own = torch.split(weights, self._sizes)[dist.get_rank(self._process_group)]
        totals = JointGradients(self._parts).weighted(own)
        local = [
            totals[name] if name in totals else torch.zeros_like(self._parameters[name])
            for name in self._forms
        ]
        sums = sum_gradients([tensor.detach() for tensor in local], self._process_group)
        add_to_grads(self._parameters, dict(zip(self._forms, sums, strict=True)))


def _difference(summaries: Sequence[Summary], ranks: Sequence[int]) -> str:
    """Say in which parameter the ranks differ first."""
    first = summaries[0].shapes
    for rank, other in zip(ranks, summaries, strict=True):
        for name in [*first, *other.shapes]:
            mine, its = first.get(name), other.shapes.get(name)
            if mine != its:
                return (
                    f"the ranks of process_group have different trainable parameters: {name!r} is "
                    f"{_described(mine)} on rank {ranks[0]} and {_described(its)} on rank {rank}; each "
                    "needs a replica of the module"
                )
    return (
        "the ranks of process_group have their trainable parameters in different orders; each needs a "
        "replica of the module"
    )


def _described(entry: tuple[tuple[int, ...], torch.dtype] | None) -> str:
    return "missing or frozen" if entry is None else f"{entry[1]} of shape {entry[0]}"
