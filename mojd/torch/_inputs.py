"""What losses and parameters may be, and what to say about everything else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mojd.errors import InvalidInputError, InvalidTypeError
from mojd.torch._shards import is_dtensor

_PARAMS = "pass model.parameters(), a list of tensors, or parameter groups as an optimiser takes them"


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
        raise InvalidTypeError(f"params is one tensor of shape {tuple(params.shape)}; pass a list: [tensor]")
    if isinstance(params, Mapping | str) or not isinstance(params, Iterable):
        raise InvalidTypeError(f"params is a {type(params).__name__}; {_PARAMS}")
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
            f"params[{index}] is a {type(tensor).__name__}, not a tensor; {_PARAMS}"
            f"{hint if isinstance(tensor, tuple) else ''}"
        )
    shape = tuple(tensor.shape)
    if tensor.is_complex():
        raise InvalidTypeError(
            f"params[{index}] of shape {shape} is complex ({tensor.dtype}): inner products of its gradients "
            "would be too; keep real and imaginary parts as real parameters"
        )
    if not tensor.is_leaf:
        raise InvalidInputError(
            f"params[{index}] of shape {shape} is computed from other tensors ({tensor.grad_fn}), so that no "
            "optimiser can move it; pass the leaf that it comes from"
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
    elif isinstance(losses, Mapping):
        raise InvalidTypeError(
            f"losses is a {type(losses).__name__}; pass list(losses.values()), so that their order is yours"
        )
    elif isinstance(losses, str) or not isinstance(losses, Iterable):
        raise InvalidTypeError(
            f"losses is a {type(losses).__name__}; pass a sequence of scalar tensors, or a tensor of "
            "shape (K,)"
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
    if not isinstance(loss, Tensor):
        raise InvalidTypeError(
            f"losses[{index}] is a {type(loss).__name__}, not a tensor; pass the loss itself, not loss.item()"
        )
    if not loss.is_floating_point():
        raise InvalidTypeError(
            f"losses[{index}] has dtype {loss.dtype}; a loss is a real floating-point number"
        )
    if loss.numel() != 1:
        raise InvalidInputError(
            f"losses[{index}] has shape {tuple(loss.shape)}; a loss is a scalar: reduce it, as with .mean()"
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
        raise InvalidTypeError(f"{name} is a {type(gradient).__name__}; pass a tensor or None")
    check_layout(tensor, gradient)
    if is_dtensor(tensor) != is_dtensor(gradient):
        raise InvalidTypeError(
            f"{name} is a {type(gradient).__name__}, but its parameter is a {type(tensor).__name__}; "
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
            f"gradients is a {type(gradients).__name__}; pass one sequence per loss, with a tensor or "
            "None per parameter"
        )
    rows = [list(row) for row in gradients]
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


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, torch.Size) else value
