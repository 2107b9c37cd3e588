"""What losses and parameters may be, and what to say about everything else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mojd.errors import InvalidInputError, InvalidTypeError
from mojd.torch._shards import is_dtensor

_PARAMS = "pass model.parameters(), a list of tensors, or parameter groups as an optimiser takes them"
_SWAPPED = "; if these are the losses, they come first: backward(losses, params)"
_SWAPPED_PARAMETER = "; if these are the parameters, they come second: backward(losses, params)"


def a_type(value: Any) -> str:
    """Return the name of a value's type after its article."""
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeioAEIO' else 'a'} {name}"


def parameters_of(params: Any) -> tuple[Tensor, ...]:
    """Return the tensors of `params`, each once, in their order.

    Raises
    ------
    InvalidTypeError
        If `params` or an entry is none of what optimisers take, or an entry is complex.
    InvalidInputError
        If there is no parameter, or one is not a leaf.
    """
    if isinstance(params, torch.nn.Module):
        raise InvalidTypeError("params is a module; pass its parameters: model.parameters()")
    if isinstance(params, Tensor):
        hint = "" if params.grad_fn is None else _SWAPPED
        raise InvalidTypeError(
            f"params is one tensor of shape {tuple(params.shape)}; pass a list: [tensor]{hint}"
        )
    if isinstance(params, Mapping | str) or not isinstance(params, Iterable):
        raise InvalidTypeError(f"params is {a_type(params)}; {_PARAMS}")
    found: dict[int, Tensor] = {}
    for index, entry in enumerate(params):
        for tensor in _tensors_of(entry, index):
            _check_parameter(tensor, index)
            found[id(tensor)] = tensor
    if not found:
        raise InvalidInputError(
            "params is empty; model.parameters() is a generator, which can be used once: call it again"
        )
    return tuple(found.values())


def _tensors_of(entry: Any, index: int) -> list[Any]:
    """Return the tensors of a parameter group, or the entry if it is none."""
    if not isinstance(entry, Mapping):
        return [entry]
    if "params" not in entry:
        raise InvalidInputError(f"params[{index}] is a parameter group without the key 'params'")
    group = entry["params"]
    return [group] if isinstance(group, Tensor) else list(group)


def _check_parameter(tensor: Any, index: int) -> None:
    if not isinstance(tensor, Tensor):
        hint = "; model.named_parameters() yields pairs, model.parameters() does not"
        raise InvalidTypeError(
            f"params[{index}] is {a_type(tensor)}, not a tensor; {_PARAMS}"
            f"{hint if isinstance(tensor, tuple) else ''}"
        )
    shape = tuple(tensor.shape)
    if tensor.is_complex():
        raise InvalidTypeError(
            f"params[{index}] of shape {shape} is complex ({tensor.dtype}): inner products of its gradients "
            "would be too; keep real and imaginary parts as real parameters"
        )
    if not tensor.is_leaf:
        hint = _SWAPPED if tensor.numel() == 1 else ""
        raise InvalidInputError(
            f"params[{index}] of shape {shape} is computed from other tensors ({tensor.grad_fn}), so that no "
            f"optimiser can move it; pass the leaf that it comes from{hint}"
        )


def trainable(params: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the parameters that require gradients; raise if none does."""
    kept = tuple(tensor for tensor in params if tensor.requires_grad)
    if not kept:
        raise InvalidInputError(
            f"none of the {len(params)} params requires a gradient: the model is frozen; call "
            "requires_grad_() on what is to be trained"
        )
    return kept


def losses_of(losses: Any, may_be_constants: bool = False) -> tuple[Tensor, ...]:
    """Return losses as scalars, from a sequence of scalars or a tensor of shape (K,).

    All of them may be constants where other ranks have losses, too.

    Raises
    ------
    InvalidTypeError
        If `losses` is no sequence of real floating-point tensors.
    InvalidInputError
        If there is none, one is no scalar, or none has a graph and not all may be constants.
    """
    if isinstance(losses, Tensor):
        if losses.ndim != 1:
            raise InvalidInputError(_shape_advice(losses))
        # Views made without gradients would have no graph.
        with torch.enable_grad():
            found = tuple(losses.unbind())
    elif isinstance(losses, torch.nn.Module):
        raise InvalidTypeError(
            f"losses is a module, {a_type(losses)}; pass the losses that it computes, and then its parameters"
        )
    elif isinstance(losses, np.ndarray):
        raise InvalidTypeError(
            f"losses is a NumPy array of shape {losses.shape}, which has no graph; pass the tensors that the "
            "model computed, without .numpy()"
        )
    elif isinstance(losses, Mapping):
        raise InvalidTypeError(
            f"losses is {a_type(losses)}; pass list(losses.values()), so that their order is yours"
        )
    elif isinstance(losses, str) or not isinstance(losses, Iterable):
        raise InvalidTypeError(
            f"losses is {a_type(losses)}; pass a sequence of scalar tensors, or a tensor of shape (K,)"
        )
    else:
        found = tuple(losses)
    if not found:
        raise InvalidInputError("losses is empty; pass one scalar tensor per objective")
    for index, loss in enumerate(found):
        _check_loss(loss, index)
    if not may_be_constants and not any(loss.requires_grad for loss in found):
        raise InvalidInputError(
            f"none of the {len(found)} losses has a graph, so that none has a gradient; compute them "
            "outside of "
            "torch.no_grad(), without detach() or item()"
        )
    return found


def _shape_advice(losses: Tensor) -> str:
    shape = tuple(losses.shape)
    if not shape:
        return (
            "losses is one scalar tensor; pass a sequence with one tensor per objective, and for a single "
            "objective call loss.backward()"
        )
    return f"losses is a tensor of shape {shape}; pass one of shape (K,), or a sequence of K scalars"


def _check_loss(loss: Any, index: int) -> None:
    if isinstance(loss, list | tuple):
        raise InvalidTypeError(
            f"losses[{index}] is {a_type(loss)} of {len(loss)}; pass one flat sequence with a scalar "
            "tensor per objective"
        )
    if not isinstance(loss, Tensor):
        raise InvalidTypeError(
            f"losses[{index}] is {a_type(loss)}, not a tensor; pass the loss itself, not loss.item()"
        )
    if not loss.is_floating_point():
        raise InvalidTypeError(
            f"losses[{index}] has dtype {loss.dtype}; a loss is a real floating-point number"
        )
    if loss.numel() != 1:
        is_parameter = isinstance(loss, torch.nn.Parameter)
        raise InvalidInputError(
            f"losses[{index}] has shape {tuple(loss.shape)}; a loss is a scalar: reduce it, as with .mean()"
            f"{_SWAPPED_PARAMETER if is_parameter else ''}"
        )


def check_layout(tensor: Tensor, gradient: Tensor | None) -> None:
    """Raise if a gradient is sparse."""
    if gradient is not None and gradient.layout != torch.strided:
        raise InvalidTypeError(
            f"a parameter of shape {tuple(tensor.shape)} has a gradient of layout {gradient.layout}; use "
            "sparse=False in its module"
        )


def check_gradient(tensor: Tensor, gradient: Any, name: str) -> None:
    """Raise unless a gradient from elsewhere is None, or a tensor such as its parameter."""
    if gradient is None:
        return
    if not isinstance(gradient, Tensor):
        raise InvalidTypeError(f"{name} is {a_type(gradient)}; pass a tensor or None")
    check_layout(tensor, gradient)
    if is_dtensor(tensor) != is_dtensor(gradient):
        raise InvalidTypeError(
            f"{name} is {a_type(gradient)}, but its parameter is {a_type(tensor)}; "
            "gradients of DTensors are DTensors, and those of others are not"
        )
    for what in ("shape", "dtype", "device"):
        mine, its = getattr(gradient, what), getattr(tensor, what)
        if mine != its:
            raise InvalidInputError(
                f"{name} has {what} {_plain(mine)}, but its parameter has {_plain(its)}; they must be the "
                "same"
            )


def rows_of(gradients: Any, params: Sequence[Tensor]) -> list[list[Tensor | None]]:
    """Return gradients from elsewhere as a list per loss, with an entry per parameter.

    Raises
    ------
    InvalidTypeError, InvalidInputError
        If there are none, a number of them does not fit, or one is not such as its parameter.
    """
    if isinstance(gradients, Tensor) or not isinstance(gradients, Iterable):
        raise InvalidTypeError(
            f"gradients is {a_type(gradients)}; pass one sequence per loss, with a tensor or "
            "None per parameter"
        )
    rows = [_row_of(row, k) for k, row in enumerate(gradients)]
    if not rows:
        raise InvalidInputError("gradients is empty; pass one sequence per loss")
    for k, row in enumerate(rows):
        if len(row) != len(params):
            raise InvalidInputError(
                f"gradients[{k}] has {len(row)} entries for {len(params)} params that require a gradient; "
                "pass one for each, None where there is none"
            )
        for i, (param, gradient) in enumerate(zip(params, row, strict=True)):
            check_gradient(param, gradient, f"gradients[{k}][{i}]")
    return rows


def _row_of(row: Any, index: int) -> list[Tensor | None]:
    """Return the gradients of one loss as a list."""
    if row is None or isinstance(row, Tensor):
        what = "None" if row is None else f"a tensor of shape {tuple(row.shape)}"
        raise InvalidTypeError(
            f"gradients[{index}] is {what}; pass one sequence per loss, with a tensor or None per parameter: "
            "[gradients] if these are those of a single loss"
        )
    if isinstance(row, Mapping | str) or not isinstance(row, Iterable):
        raise InvalidTypeError(
            f"gradients[{index}] is {a_type(row)}; pass a sequence with a tensor or None per parameter"
        )
    return list(row)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, torch.Size) else value
