"""What stands between a caller and mojd's own functions: transforms, modes, the tape, or nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey, DispatchKeySet, _dispatch_tls_local_include_set
from torch.autograd import forward_ad

from mojd.errors import InvalidTypeError, NotDifferentiableError

# The keys that are there in an ordinary call, and in inference mode; others belong to torch.func,
# torch.export and the like.
_INFERENCE = DispatchKeySet(DispatchKey.BackendSelect)
_ORDINARY = _INFERENCE | DispatchKeySet(DispatchKey.ADInplaceOrView)


def is_direct(*arguments: Any) -> bool:
    """Whether a call needs no operator: nothing traces it, transforms it or wants its gradient.

    An operator costs ten microseconds and more, as much as a solution with three losses.
    """
    if torch.compiler.is_compiling():
        return False
    keys = _dispatch_tls_local_include_set()
    if keys != _ORDINARY and keys != _INFERENCE:
        return False
    recording = torch.is_grad_enabled()
    for argument in arguments:
        if isinstance(argument, Tensor) and (
            type(argument) is not Tensor or (recording and argument.requires_grad)
        ):
            return False
    return forward_ad._current_level < 0


def require_tensor(value: Any, name: str) -> None:
    """Raise unless `value` is a tensor."""
    if not isinstance(value, Tensor):
        raise InvalidTypeError(
            f"{name} must be a torch.Tensor, got {type(value).__name__}; torch.as_tensor({name}) makes one, "
            "and the functions of mojd itself take arrays of any kind"
        )


def beside(value: Any, gramian: Tensor) -> Tensor | None:
    """Return an optional argument as a tensor: numbers and lists in float64 on the Gramian's device."""
    if value is None or isinstance(value, Tensor):
        return value
    return torch.as_tensor(value, dtype=torch.float64, device=gramian.device)


def refuse_tangents(name: str, *tensors: Tensor | None) -> None:
    """Raise if a tensor carries a tangent of forward-mode differentiation, which operators would drop."""
    if forward_ad._current_level < 0:
        return
    for tensor in tensors:
        # PyTorch leaves this function without types.
        if tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None:  # type: ignore[no-untyped-call]
            raise NotDifferentiableError(
                f"mojd.torch.{name} has no forward-mode derivative (torch.func.jvp, jacfwd); use reverse "
                "mode: backward(), torch.func.vjp, jacrev"
            )
