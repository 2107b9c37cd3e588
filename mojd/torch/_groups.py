"""Groups of ranks: which are meant, what they can carry, and whether all of a group ask for the same."""

from __future__ import annotations

import weakref
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mojd.errors import InvalidInputError, InvalidTypeError, MissingDependencyError


@dataclass(frozen=True, slots=True)
class Group:
    """A process group and the global ranks in it.

    PyTorch makes several groups of the same ranks; here they are one.
    """

    ranks: tuple[int, ...]
    handle: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Group) and other.ranks == self.ranks

    def __hash__(self) -> int:
        return hash(self.ranks)

    def backends(self) -> dict[str, str]:
        """Return the backend for every type of device that the group can reach."""
        entries = dist.get_backend_config(self.handle).split(",")
        return dict(entry.split(":", 1) for entry in entries)


def group_of(process_group: Any, name: str = "process_group") -> Group:
    """Return the group that a user passed, or raise if this process can't use it."""
    if not dist.is_available():
        raise MissingDependencyError(
            f"{name} was given, and this build of PyTorch comes without torch.distributed; install one "
            "that has it, or leave the argument out"
        )
    if hasattr(process_group, "get_group"):
        names = getattr(process_group, "mesh_dim_names", None)
        raise InvalidTypeError(
            f"{name} must be a ProcessGroup, got a DeviceMesh with the dimensions {names}; pass the group of "
            "the dimension over which the batch is split, such as mesh.get_group('dp')"
        )
    if process_group is dist.GroupMember.NON_GROUP_MEMBER:
        raise InvalidInputError(
            f"this process is not a member of {name}: torch.distributed.new_group returns a placeholder to "
            "ranks that it leaves out; call mojd on the group's own ranks only"
        )
    if not isinstance(process_group, dist.ProcessGroup):
        raise InvalidTypeError(
            f"{name} must be a torch.distributed.ProcessGroup, got {process_group!r} of type "
            f"{type(process_group).__name__}; for all ranks pass torch.distributed.group.WORLD, after "
            "init_process_group"
        )
    if not dist.is_initialized():
        raise InvalidInputError(
            f"{name} was given, and torch.distributed is not initialised; call "
            "torch.distributed.init_process_group first, or start the script with torchrun and do so"
        )
    try:
        ranks = dist.get_process_group_ranks(process_group)
    except KeyError:
        raise InvalidInputError(
            f"{name} belongs to a torch.distributed that has been shut down since; make a new one"
        ) from None
    return Group(tuple(ranks), process_group)


def check_devices(group: Group, tensors: Iterable[tuple[int, Tensor]], name: str) -> None:
    """Raise if the group can't carry one of the (index, tensor) pairs."""
    backends = group.backends()
    for index, tensor in tensors:
        if tensor.device.type not in backends:
            raise InvalidInputError(
                f"{name} {index} of shape {tuple(tensor.shape)} is on {tensor.device}, and the process group "
                f"of ranks {list(group.ranks)} has backends for {backends} only; leave the backend of "
                "init_process_group out, so that there is one for every device, or move the model"
            )


def exchange_device(group: Group, device: torch.device) -> torch.device:
    """Return where small numbers travel: through the CPU if the group can, which waits for no kernel."""
    return torch.device("cpu") if "cpu" in group.backends() else device


def broadcast(tensor: Tensor, groups: Sequence[Group]) -> Tensor:
    """Return a copy of the tensor of the first rank, bit for bit the same on all ranks of the groups."""
    shared = tensor.detach().clone(memory_format=torch.contiguous_format)
    for group in groups:
        dist.broadcast(shared, src=group.ranks[0], group=group.handle)
    return shared


# Groups without a backend for the CPU, in which all have agreed once: to ask again would wait for the device.
_asked: weakref.WeakSet[Any] = weakref.WeakSet()


def agree(
    count: int,
    pattern: bytes,
    mismatch: str,
    params: Sequence[Tensor],
    mesh_groups: Sequence[Group],
    groups: Sequence[Group],
    problem: Exception | None = None,
) -> None:
    """Raise on all ranks if they differ in how many losses or parameters they have, or one has a problem.

    Every collective that follows has a size or a number that depends on these, and ranks that differ wait for
    each other forever. `groups` are all groups; among those of `mesh_groups`, `pattern`, which says what
    there is to be done, must be the same too, and `mismatch` is the error if it is not.
    """
    elements = sum(param.numel() for param in params)
    own = (count, len(params), elements, zlib.crc32(pattern), int(problem is not None))
    # The largest of x and of −x are the largest and the smallest x.
    bounds = torch.tensor([own, own], dtype=torch.int64)
    bounds[1] *= -1
    others = [group for group in groups if group not in mesh_groups]
    bounds = _exchange(bounds, mesh_groups, params[0].device)
    bounds[:, 3] = torch.stack([bounds[:, 3].sum(), torch.zeros((), dtype=torch.int64)])
    bounds = _exchange(bounds, others, params[0].device)
    if problem is not None:
        raise problem
    largest, smallest = bounds[0].tolist(), (-bounds[1]).tolist()
    if largest[4]:
        raise InvalidInputError(
            "another rank has refused what it was given; nothing has been computed, and the error there "
            "says what is wrong"
        )
    what = ("losses", "parameters", "elements of all parameters together")
    for name, high, low, mine in zip(what, largest, smallest, own, strict=False):
        if high != low:
            raise InvalidInputError(
                f"the ranks do not agree: the number of {name} is {mine} here, {low} on some rank and {high} "
                "on some other; every rank must pass the same losses and parameters, in the same order"
            )
    if largest[3] != smallest[3]:
        raise InvalidInputError(f"the ranks do not agree: {mismatch}")


def _exchange(bounds: Tensor, groups: Sequence[Group], device: torch.device) -> Tensor:
    """Return the maxima of `bounds` over all groups that can be asked without waiting, or never were."""
    for group in groups:
        place = exchange_device(group, device)
        if place.type != "cpu":
            if group.handle in _asked:
                continue
            _asked.add(group.handle)
        bounds = bounds.to(place)
        dist.all_reduce(bounds, op=dist.ReduceOp.MAX, group=group.handle)
        bounds = bounds.cpu()
    return bounds
