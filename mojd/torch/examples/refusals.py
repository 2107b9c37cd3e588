"""What the engine refuses on sight, with an error that names it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from mojd.errors import InvalidInputError, InvalidTypeError
from mojd.torch._shards import is_dtensor
from mojd.torch.examples.graph import Graph

# Nodes that hide what a whole part of the model does, what makes them, and what to do about it.
_OPAQUE = (
    ("CompiledFunction", "torch.compile", "give the engine losses of the model that is not compiled"),
    ("CheckpointFunction", "a reentrant checkpoint", "pass use_reentrant=False to torch.utils.checkpoint"),
)


def check_losses(losses: object) -> None:
    """Raise unless `losses` are one loss per example, or some per example, that can be differentiated."""
    if not isinstance(losses, Tensor):
        raise InvalidTypeError(
            f"losses must be a tensor of shape (K,) or (K, tasks), got {type(losses).__name__}; for a few "
            "losses that are not one per example, use mojd.torch.backward"
        )
    shape = tuple(losses.shape)
    if losses.dim() == 0:
        raise InvalidInputError(
            "losses is a scalar: the engine needs one loss per example, shape (K,); compute it with "
            "reduction='none'"
        )
    if losses.dim() > 2 or 0 in shape:
        problem = "is empty" if 0 in shape else "has too many axes"
        raise InvalidInputError(f"losses of shape {shape} {problem}: it must be (K,) or (K, tasks), K >= 1")
    if not losses.is_floating_point():
        raise InvalidTypeError(
            f"losses must be real floating-point numbers, got {losses.dtype}, shape {shape}"
        )
    if losses.grad_fn is None:
        raise InvalidInputError(
            f"losses of shape {shape} have no graph: they were computed under torch.no_grad() or detached, "
            "or all parameters that they depend on are frozen; if so, call requires_grad_() on these"
        )


def check_parameters(parameters: Mapping[str, nn.Parameter]) -> None:
    """Raise unless there are parameters, and each is real and whole on this process."""
    if not parameters:
        raise InvalidInputError("module has no parameter with requires_grad=True: there is nothing to train")
    for name, parameter in parameters.items():
        if is_dtensor(parameter):
            raise InvalidInputError(
                f"parameter {name!r} is sharded over ranks (a DTensor): the engine needs replicas, with "
                "process_group=; for a few losses, mojd.torch.backward takes sharded parameters"
            )
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
            raise InvalidInputError(
                f"parameter {name!r} has a hook on its gradient (register_hook or "
                "register_post_accumulate_grad_hook), which would not run: the engine computes no gradient "
                "of single losses; remove it, and change what backward() has left in .grad instead"
            )
        if parameter.is_complex():
            raise InvalidTypeError(
                f"parameter {name!r} is complex ({parameter.dtype}): store its real and imaginary parts and "
                "use torch.view_as_complex in the module"
            )


def check_graph(graph: Graph, module: nn.Module, losses: Tensor) -> None:
    """Raise if losses do not come from the module, or through what can't be taken apart by examples."""
    for node in graph.nodes:
        name = node.name()
        for start, what, instead in _OPAQUE:
            if name.startswith(start):
                raise InvalidInputError(
                    f"the losses went through {what} (node {name}), whose operations autograd does not see "
                    f"one by one: {instead}"
                )
        if "BatchNorm" in name and getattr(node, "_saved_training", True):
            _refuse(
                module,
                _uses_batch_statistics,
                "normalises by statistics of the batch: the loss of an example then depends on the others; "
                "call .eval() on it (if it tracks running statistics), or use GroupNorm or LayerNorm instead",
            )
        if name == "EmbeddingBackward0" and node._saved_scale_grad_by_freq:
            _refuse(
                module,
                lambda part: getattr(part, "scale_grad_by_freq", False),
                "divides the gradient of an example by counts over the batch (scale_grad_by_freq=True), so "
                "that there is no gradient per example; set it to False",
            )
        if name == "EmbeddingBackward0" and node._saved_sparse:
            _refuse(
                module,
                lambda part: getattr(part, "sparse", False),
                "asks for sparse gradients (sparse=True), and what mojd writes into .grad is dense; set it "
                "to False",
            )
    if not graph.leaves:
        raise InvalidInputError(
            f"losses of shape {tuple(losses.shape)} do not depend on any trainable parameter of the module; "
            "were they computed by another one?"
        )


def _uses_batch_statistics(module: nn.Module) -> bool:
    is_batch_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
    return is_batch_norm and (module.training or module.running_mean is None)


def _refuse(module: nn.Module, is_guilty: Callable[[nn.Module], bool], why: str) -> None:
    guilty = [f"{name} ({type(part).__name__})" for name, part in module.named_modules() if is_guilty(part)]
    if guilty:
        raise InvalidInputError(f"{', '.join(guilty)} {why}")
