"""Parameters that are spread over a mesh of ranks: DTensors.

Gradients are handled as this rank's own part of them, a plain tensor laid out as the parameter is.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mojd.errors import InvalidInputError
from mojd.torch._groups import Group


def is_dtensor(tensor: Tensor) -> bool:
    """Return whether a tensor is spread over a mesh, without importing what only those need."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the elements of a parameter are.

    Parameters
    ----------
    sharded : frozenset of Group
        The groups whose ranks hold different elements. In all others they hold the same.
    averaged : bool
        Whether the ranks of `process_group` have replicas, whose gradients have to be averaged.
    mesh : tuple of Group
        The groups of all dimensions of the parameter's mesh.
    """

    sharded: frozenset[Group]
    averaged: bool
    mesh: tuple[Group, ...] = ()


def layouts(params: Sequence[Tensor], process_group: Group | None) -> list[Layout]:
    """Return the layout of every parameter, or raise if its mesh contradicts `process_group`."""
    meshes: dict[Any, tuple[tuple[Group, ...], bool]] = {}
    found: list[Layout] = []
    plain = Layout(frozenset(), averaged=process_group is not None)
    for index, param in enumerate(params):
        if not is_dtensor(param):
            found.append(plain)
            continue
        mesh, placements = param.device_mesh, param.placements  # type: ignore[attr-defined]
        if mesh not in meshes:
            meshes[mesh] = _groups(mesh), _joins_replicas(process_group, mesh, f"params[{index}]")
        groups, averaged = meshes[mesh]
        # Neither replicated nor partial, rather than is_shard(), which denies the strided shards that
        # FSDP2 makes of tensor-parallel parameters.
        split = [not (placement.is_replicate() or placement.is_partial()) for placement in placements]
        if any(placement.is_partial() for placement in placements):
            raise InvalidInputError(
                f"params[{index}] of shape {tuple(param.shape)} has the placements {placements}: a parameter "
                "of which every rank holds an addend has no gradient; redistribute it to Replicate or Shard"
            )
        pairs = zip(groups, split, strict=True)
        sharded = frozenset(group for group, own in pairs if own and len(group.ranks) > 1)
        found.append(Layout(sharded, averaged, groups))
    return found


def _groups(mesh: Any) -> tuple[Group, ...]:
    """Return this rank's group in every dimension of a mesh."""
    handles = mesh.get_all_groups()
    return tuple(Group(tuple(dist.get_process_group_ranks(handle)), handle) for handle in handles)


def _joins_replicas(process_group: Group | None, mesh: Any, name: str) -> bool:
    """Return whether `process_group` joins replicas of the mesh; raise unless that, or it is a part."""
    if process_group is None:
        return False
    ranks = set(mesh.mesh.flatten().tolist())
    shared = ranks & set(process_group.ranks)
    if len(shared) == 1:
        return True
    if shared == set(process_group.ranks):
        return False
    raise InvalidInputError(
        f"{name} is a DTensor on the ranks {sorted(ranks)}, and process_group has the ranks "
        f"{list(process_group.ranks)}: some of both, not all. Gradients are averaged over process_group, so "
        "that it must either lie inside of the mesh (which then says what to do) or join the ranks with "
        "the same shards: one dimension of a mesh over all ranks, such as mesh.get_group('dp')"
    )


def local_part(gradient: Tensor, param: Tensor) -> Tensor:
    """Return this rank's part of a gradient, laid out as the parameter is.

    Gradients of replicated parameters come as addends (Partial) if the ranks saw different inputs; here they
    are summed.
    """
    if not is_dtensor(gradient):
        return gradient
    placements = param.placements  # type: ignore[attr-defined]
    if gradient.placements != placements:  # type: ignore[attr-defined]
        gradient = gradient.redistribute(placements=placements)  # type: ignore[attr-defined]
    local: Tensor = gradient.to_local()  # type: ignore[attr-defined]
    # The result of a collective may still be on its way.
    return local.wait() if hasattr(local, "wait") else local


def as_gradient(local: Tensor, param: Tensor) -> Tensor:
    """Return what goes into the parameter's `.grad`, from this rank's part of it."""
    if not is_dtensor(param):
        return local
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        local,
        param.device_mesh,  # type: ignore[attr-defined]
        param.placements,  # type: ignore[attr-defined]
        run_check=False,
        shape=param.shape,
        stride=param.stride(),
    )


def own_part(param: Tensor) -> Tensor:
    """Return this rank's part of a parameter."""
    return local_part(param.detach(), param) if is_dtensor(param) else param


def seed_of(scale: Tensor, loss: Tensor) -> Tensor:
    """Return a scale as the seed of a loss's backward pass: laid out as the loss is."""
    if not is_dtensor(loss):
        return scale.to(loss).expand_as(loss)
    from torch.distributed.tensor import DTensor, Replicate

    mesh = loss.device_mesh  # type: ignore[attr-defined]
    local = scale.to(loss.device, loss.dtype).expand(loss.shape).contiguous()
    return DTensor.from_local(local, mesh, [Replicate()] * mesh.ndim, run_check=False)


def set_grad(local: Tensor, param: Tensor) -> None:
    """Make a sum the parameter's `.grad`, unless it was added up in the memory of the one that is there."""
    if not is_dtensor(param):
        param.grad = local
        return
    grad = param.grad
    if grad is None or grad.placements != param.placements:  # type: ignore[attr-defined]
        param.grad = as_gradient(local, param)


@torch.no_grad()
def add_to_grad(local: Tensor, param: Tensor) -> None:
    """Add this rank's part of a direction to the parameter's `.grad`."""
    if param.grad is None:
        param.grad = as_gradient(local, param)
        return
    if is_dtensor(param.grad) and param.grad.placements != param.placements:  # type: ignore[attr-defined]
        param.grad = as_gradient(local_part(param.grad, param) + local, param)
        return
    local_part(param.grad, param).add_(local)
