"""The registration of weightings with PyTorch: kernel, shapes, derivative and vmap of each operator.

An operator takes tensors first, some of them optional, and plain numbers after them. Its derivative is an
operator as well, so that compiled backward passes hold it as one node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mojd.errors import NotDifferentiableError
from mojd.torch._shapes import with_leading_axis


class TensorArgument(NamedTuple):
    """A tensor that an operator takes.

    Attributes
    ----------
    declaration : str
        Type and name, with the default if there is one, as in a schema.
    core : int
        How many of its axes are no batch axes.
    """

    declaration: str
    core: int


class Operator(NamedTuple):
    """What an operator is made of.

    Attributes
    ----------
    name : str
        Its name in the namespace ``mojd``.
    tensors : sequence of TensorArgument
        The tensors that it takes.
    numbers : sequence of str
        Declarations of the plain numbers, names and flags behind them, as in a schema.
    weights : callable
        What computes it.
    fake : callable
        What checks shapes and returns an empty result.
    core : int
        How many axes of the result are no batch axes.
    """

    name: str
    tensors: Sequence[TensorArgument]
    numbers: Sequence[str]
    weights: Callable[..., Tensor]
    fake: Callable[..., Tensor]
    core: int = 1

    def arguments(self) -> str:
        """Return the arguments as in a schema."""
        return ", ".join([*(argument.declaration for argument in self.tensors), *self.numbers])

    def cores(self) -> list[int]:
        """Return how many axes of each tensor are no batch axes."""
        return [argument.core for argument in self.tensors]


# What registers a derivative: setup_context and backward, as torch.autograd.Function has them.
Rule = Callable[..., Any]


def call(name: str, operator: Any, keep: Rule, backward: Rule, batched: Rule) -> Rule:
    """Register the derivative and the vmap of an operator, and return what calls it.

    PyTorch's own registration of a derivative is of no use inside of torch.func.grad, jacrev and vjp; there
    a Function with the same rules stands in.
    """
    operator.register_autograd(backward, setup_context=keep)
    operator.register_vmap(batched)
    overload = getattr(torch.ops.mojd, name).default
    rules = {"forward": overload, "setup_context": keep, "backward": backward, "vmap": batched}
    namespace = {name: staticmethod(rule) for name, rule in rules.items()}
    function: Any = type(name, (torch.autograd.Function,), namespace)

    def apply(*arguments: Any) -> Any:
        if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
            return function.apply(*arguments)
        return overload(*arguments)

    return apply


def define(operator: Operator, keep: Rule, backward: Rule) -> Callable[..., Tensor]:
    """Register an operator with its rules of differentiation, and return what calls it."""
    count = len(operator.tensors)

    def kernel(*arguments: Any) -> Tensor:
        return operator.weights(*arguments).contiguous()

    defined = torch.library.custom_op(
        f"mojd::{operator.name}", kernel, mutates_args=(), schema=f"({operator.arguments()}) -> Tensor"
    )
    defined.register_fake(operator.fake)

    def batched(info: Any, axes: tuple[int | None, ...], *arguments: Any) -> tuple[Tensor, int]:
        del info
        tensors = with_leading_axis(
            _all_tensors(arguments, count), _all_tensors(axes, count), operator.cores()
        )
        return apply(*tensors, *arguments[count:]), 0

    apply = call(operator.name, defined, keep, backward, batched)
    return apply


def differentiable(operator: Operator, gradients: Callable[..., Any]) -> Callable[..., Tensor]:
    """Register an operator and its derivative, and return what calls it.

    `gradients` takes the gradient of the result and the operator's arguments, and returns one gradient for
    each tensor; an empty one for a tensor that is absent.
    """
    count = len(operator.tensors)
    derivative = _derivative(operator, gradients)

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        del output
        ctx.save_for_backward(*inputs[:count])
        ctx.numbers = inputs[count:]

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        found = derivative(grad, *ctx.saved_tensors, *ctx.numbers)
        several = found if count > 1 else (found,)
        wanted = _all_tensors(ctx.needs_input_grad, count)
        own = [result if needed else None for result, needed in zip(several, wanted, strict=True)]
        return (*own, *(None for _ in ctx.numbers))

    return define(operator, keep, backward)


def _derivative(operator: Operator, gradients: Callable[..., Any]) -> Callable[..., Any]:
    """Register the operator that computes the gradients of another, and return what calls it."""
    count = len(operator.tensors)
    outputs = "Tensor" if count == 1 else f"({', '.join(['Tensor'] * count)})"
    defined = torch.library.custom_op(
        f"mojd::{operator.name}_backward",
        gradients,
        mutates_args=(),
        schema=f"(Tensor grad, {operator.arguments()}) -> {outputs}",
    )

    def fake(grad: Tensor, *arguments: Any) -> Any:
        shaped = [
            grad.new_empty(0) if tensor is None else tensor.new_empty(tensor.shape)
            for tensor in _all_tensors(arguments, count)
        ]
        return shaped[0] if count == 1 else tuple(shaped)

    defined.register_fake(fake)

    def batched(info: Any, axes: tuple[int | None, ...], grad: Tensor, *arguments: Any) -> tuple[Any, Any]:
        # Every example has a gradient of its own with respect to what they share.
        inputs, axes = (grad, *_all_tensors(arguments, count)), _all_tensors(axes, count + 1)
        own = [
            tensor if tensor is None or axis is not None else tensor.expand(info.batch_size, *tensor.shape)
            for tensor, axis in zip(inputs, axes, strict=True)
        ]
        firsts = [0 if axis is None else axis for axis in axes]
        moved = with_leading_axis(own, firsts, [operator.core, *operator.cores()])
        found = apply(*moved, *arguments[count:])
        several = found if count > 1 else (found,)
        shaped = tuple(
            result if tensor is None else result.reshape(tensor.movedim(first, 0).shape)
            for result, tensor, first in zip(several, own[1:], firsts[1:], strict=True)
        )
        places = tuple(None if tensor is None else 0 for tensor in own[1:])
        return (shaped, places) if count > 1 else (shaped[0], 0)

    what = f"mojd.torch.{operator.name} has first derivatives only: those of its gradients"
    apply = call(f"{operator.name}_backward", defined, keep_nothing, refuse(what), batched)
    return apply


def _all_tensors(arguments: Sequence[Any], count: int) -> tuple[Any, ...]:
    """Return what belongs to the tensors of a call; PyTorch leaves out arguments that equal their default."""
    return (*arguments[:count], *(None,) * (count - len(arguments)))


def keep_nothing(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """Remember nothing for the backward pass."""


def refuse(what: str) -> Rule:
    """Return a backward that raises, and says what is not implemented."""

    def backward(ctx: Any, *grads: Tensor) -> Any:
        del ctx, grads
        raise NotDifferentiableError(
            f"{what} are not implemented; detach what it takes, or call it under torch.no_grad()"
        )

    return backward
