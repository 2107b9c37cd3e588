"""Per-loss gradients of what FSDP2's `fully_shard` manages.

FSDP2 gathers a module's parameters before its forward and backward pass, into leaves of the autograd graph
that are parameters of their own, and reduces the leaves' gradients into the shards' `.grad` when the backward
pass leaves the module. So `torch.autograd.grad` neither finds the shards in the graph nor reduces anything.
What works is a backward pass into those leaves, after which the shards' `.grad` is this loss's gradient.

The map from shards to leaves has no public name in PyTorch; this module is the only one that reads it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mojd.errors import InvalidInputError, MissingDependencyError


@dataclass(frozen=True, slots=True)
class Managed:
    """A parameter of FSDP2: its record there, with the group of parameters and the module it belongs to."""

    record: Any
    group: Any
    state: Any

    @property
    def sharded(self) -> Tensor:
        """The shard that the optimiser has."""
        shard: Tensor = self.record.sharded_param
        return shard

    @property
    def gathered(self) -> Tensor | None:
        """The leaf of the graph, once there was a forward pass."""
        return getattr(self.record, "_unsharded_param", None)


def managed_parameters(params: Sequence[Tensor]) -> dict[int, Managed]:
    """Return, by their index, the parameters that FSDP2 manages.

    Between the forward pass and the backward pass, `model.parameters()` lists gathered parameters instead of
    shards; both are recognised.
    """
    if "torch.distributed.fsdp._fully_shard" not in sys.modules:
        return {}
    indices = {id(param): index for index, param in enumerate(params)}
    found: dict[int, Managed] = {}
    for entry in _all_managed():
        record = entry.record
        resharded = getattr(record, "_sharded_post_forward_param", None)
        for tensor in (entry.sharded, entry.gathered, resharded):
            if tensor is not None and id(tensor) in indices:
                found[indices[id(tensor)]] = entry
    return found


def _all_managed() -> Iterator[Managed]:
    """Yield all parameters that FSDP2 manages in this process."""
    try:
        from torch.distributed._composable_state import _module_state_mapping
        from torch.distributed.fsdp._fully_shard._fsdp_state import FSDPState
    except ImportError:
        raise MissingDependencyError(
            f"mojd does not know where PyTorch {torch.__version__} keeps the parameters of fully_shard; it "
            "was written for PyTorch 2.13. Please report it"
        ) from None
    seen: set[int] = set()
    for reference in list(_module_state_mapping.values()):
        state = reference()
        if not isinstance(state, FSDPState) or id(state) in seen:
            continue
        seen.add(id(state))
        # In older versions of PyTorch, a module has one group or none.
        groups = getattr(state, "_fsdp_param_groups", None)
        if groups is None:
            groups = [group for group in [state._fsdp_param_group] if group is not None]
        for group in groups:
            for record in group.fsdp_params:
                yield Managed(record, group, state)


def check_managed(managed: dict[int, Managed]) -> None:
    """Raise if FSDP2 has been told not to reduce gradients, or hooks would step on those of single losses."""
    for index, entry in managed.items():
        if not (entry.group.reduce_grads and entry.group.all_reduce_grads):
            raise InvalidInputError(
                f"params[{index}] belongs to a module of fully_shard whose gradients are not reduced "
                "(set_requires_gradient_sync(False) or set_requires_all_reduce(False)); the Gramian needs "
                "reduced gradients, also of micro-batches: set it to True"
            )
        if not entry.state._state_ctx.is_last_backward:
            raise InvalidInputError(
                f"params[{index}] belongs to a module of fully_shard with set_is_last_backward(False), which "
                "leaves gradients unfinished after a backward pass; set it to True"
            )
        if getattr(entry.sharded, "_post_accumulate_grad_hooks", None):
            raise InvalidInputError(
                f"params[{index}] has a hook of register_post_accumulate_grad_hook, which would run on the "
                "gradient of every single loss; remove it, and step the optimiser after mojd"
            )


def gradients_of(
    loss: Tensor,
    params: Sequence[Tensor],
    managed: dict[int, Managed],
    retain_graph: bool,
    seed: Tensor | None = None,
) -> list[Tensor | None]:
    """Return the gradients of a loss, times `seed`, with respect to parameters some of which FSDP2 manages.

    Every `.grad` is as it was before, whatever happens.
    """
    leaves: list[Tensor] = []
    for index, param in enumerate(params):
        leaf = managed[index].gathered if index in managed else param
        if leaf is not None:
            leaves.append(leaf)
    if not loss.requires_grad or not leaves:
        return [None] * len(params)
    kept = [param.grad for param in params]
    try:
        for param in params:
            param.grad = None
        seeds = None if seed is None else [seed]
        torch.autograd.backward([loss], seeds, inputs=leaves, retain_graph=retain_graph)
        return [param.grad for param in params]
    finally:
        for param, grad in zip(params, kept, strict=True):
            param.grad = grad
