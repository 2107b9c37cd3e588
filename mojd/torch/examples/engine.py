"""The engine of instance-wise risk minimisation: per-example gradients from the autograd graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

import mojd
from mojd.errors import InvalidInputError, InvalidTypeError
from mojd.torch._groups import group_of
from mojd.torch._weighing import StatefulWeighting, checked
from mojd.torch.examples.chunks import Chunks
from mojd.torch.examples.derivation import through
from mojd.torch.examples.factors import Dense, Factor, added, in_single_precision, settled
from mojd.torch.examples.gradients import JointGradients, PerExampleGradients
from mojd.torch.examples.graph import Edge, Graph
from mojd.torch.examples.plan import Plans
from mojd.torch.examples.ranks import GradientsOverRanks, check_replica, over_ranks
from mojd.torch.examples.reading import read
from mojd.torch.examples.refusals import check_graph, check_losses, check_parameters
from mojd.torch.examples.workspace import Workspace
from mojd.torch.info import StepInfo
from mojd.torch.losses import Held, apply

Weighting = Callable[..., Any] | StatefulWeighting | str


class Engine:
    r"""Compute Gramians of per-example losses, and their weighted gradients, without forming the Jacobian.

    .. math:: G_{ij} = \sum_{\text{layers}} \langle \nabla \ell_i, \nabla \ell_j \rangle, \qquad
              d = \sum_i w_i \nabla \ell_i, \qquad w = \omega(G)

    One backward pass gives the gradients at the outputs of all layers, for all examples at once. Together
    with the layers' inputs, which autograd has saved, they determine every gradient of every parameter: for a
    linear layer with inputs A and output gradients B, the Gramian is :math:`(AA^\top) \circ (BB^\top)` and
    the direction :math:`B^\top \operatorname{diag}(w) A`.

    Parameters
    ----------
    module : nn.Module
        Whose trainable parameters count. It is neither changed nor wrapped: the engine reads the autograd
        graph of the losses, so that tied weights, modules used twice and parameters used in any operation are
        exact, or refused with an error that names them.
    process_group : torch.distributed.ProcessGroup, optional
        Ranks that hold replicas of the module and other examples each. Gramians and directions are then those
        of the examples of all ranks, in the order of the ranks. They may have different numbers of examples;
        one that has none passes losses of shape (0,). What one rank refuses in `backward` or `gramian` is an
        error on all of them.
    probe : {'new', 'always'}
        When to find out where the examples are in each tensor, and that none depends on another: for every
        new structure of the graph and new shapes, or in every step, which costs one more backward pass.

    Raises
    ------
    InvalidTypeError, InvalidInputError
        If `module` is no module, has parameters that are sharded, or `probe` is neither; or `process_group`
        is none, or not one of this process.

    Notes
    -----
    Operations with a rule of their own: products of matrices (linear layers, attention's projections),
    convolutions, embeddings, layer, group, RMS and instance normalisation, batch normalisation in evaluation
    mode, and sums and products with parameters. For any other operation its backward formula is called for
    one example at a time, which takes K times the work of that operation. What mixes examples is refused.

    The backward passes of the engine run hooks on tensors, as any backward pass does; in the passes of the
    probe, gradients are scaled. Products follow ``torch.set_float32_matmul_precision``, and no autocast.

    Cost: the backward pass without the gradients of weights; per layer the cheaper of products of factors,
    K²·T²·(in + out), and per-example gradients, K·T·in·out + K²·in·out, for T positions; one product for the
    direction. Memory: per-example gradients of convolutions, of layers along a sequence and of a table of
    embeddings that is used in another way too, K times their size; the engine keeps that memory for the next
    step.

    References
    ----------
    Jacobian descent, arXiv 2406.16232, Section 6; per-example gradients from factors: Goodfellow, arXiv
    1510.01799.

    Examples
    --------
    >>> import torch, mojd, mojd.torch
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> engine = mojd.torch.Engine(model)
    >>> for step in range(3):
    ...     x, y = torch.randn(16, 5), torch.randint(3, (16,))
    ...     losses = torch.nn.functional.cross_entropy(model(x), y, reduction="none")
    ...     optimizer.zero_grad()
    ...     info = engine.backward(losses, mojd.upgrad)
    ...     optimizer.step()
    >>> info.weights.shape
    torch.Size([16])
    """

    def __init__(self, module: nn.Module, *, process_group: Any = None, probe: str = "new") -> None:
        if not isinstance(module, nn.Module):
            raise InvalidTypeError(
                f"module must be a torch.nn.Module, got {type(module).__name__}; for parameters alone, use "
                "mojd.torch.backward"
            )
        if probe not in ("new", "always"):
            raise InvalidInputError(f"probe must be 'new' or 'always', got {probe!r}")
        self.module = module
        self.process_group = process_group
        if process_group is not None:
            group_of(process_group)
        self.probe = probe
        self._plans = Plans(keep=probe == "new")
        self._held: list[PerExampleGradients] = []
        self._workspace = Workspace()

    def __repr__(self) -> str:
        """Show the module's class and how much there is to train."""
        parameters = self._parameters().values()
        entries = sum(parameter.numel() for parameter in parameters)
        kind = type(self.module).__name__
        return f"Engine({kind} with {entries:,} trainable entries in {len(parameters)} parameters)"

    def backward(
        self, losses: Tensor | None = None, weighting: Weighting = mojd.upgrad, *, retain_graph: bool = False
    ) -> StepInfo:
        """Weigh the gradients of all losses, and add the direction to ``.grad``.

        Parameters
        ----------
        losses : Tensor, shape (K,) or (K, tasks)
            One loss per example, or several; loss (k, m) is number k·tasks + m of the weights. May be left
            out if :meth:`add` was called.
        weighting : callable, str or object with a state, default mojd.upgrad
            From Gramians to weights, as for :func:`mojd.torch.backward`.
        retain_graph : bool, default False
            Whether the graph of the losses is kept for another backward pass.

        Returns
        -------
        StepInfo
            The Gramian, the weights, and what can be told of them, computed when it is read.

        Raises
        ------
        InvalidInputError, InvalidTypeError
            As for :meth:`gradients`; or if there are no losses, or the weighting is none.

        Notes
        -----
        NaN or infinity in any gradient makes all weights NaN, and so all of what is written. After an error
        in the losses, what :meth:`add` has been given is still held; after one in the weighting it is not.

        For float16 and a ``torch.amp.GradScaler``, pass ``scaler.scale(losses)``.
        """
        weighting = checked(weighting)
        return self._apply(lambda: self._released(losses, retain_graph), weighting)

    def add(self, losses: Tensor, *, retain_graph: bool = False) -> None:
        """Hold the gradients of the losses of a micro-batch, for the next :meth:`backward`.

        Parameters
        ----------
        losses, retain_graph
            As for :meth:`backward`.

        Notes
        -----
        Memory: the factors of all micro-batches. For a limit, see :meth:`backward_in_chunks`.
        """
        self._held += [gradients.compacted() for gradients in self._own(losses, retain_graph)]

    def backward_in_chunks(
        self,
        compute_losses: Callable[[Any], Tensor],
        chunks: Iterable[Any],
        weighting: Weighting = mojd.upgrad,
        *,
        memory_limit: int = 2**30,
    ) -> StepInfo:
        """Weigh the gradients of a batch that is computed chunk by chunk, under a memory limit.

        The Gramian is that of the whole batch. If the gradients of all chunks do not fit into the limit,
        chunks are computed again for the products that are missing.

        Parameters
        ----------
        compute_losses : callable
            From a chunk to its losses, (K,) or (K, tasks). It must give the same losses each time that it is
            called on a chunk; PyTorch's random numbers are set back for it.
        chunks : iterable
            What `compute_losses` takes, such as pairs of inputs and targets.
        weighting : callable, str or object with a state, default mojd.upgrad
            As for :meth:`backward`.
        memory_limit : int, default 2**30
            How many bytes the gradients in factored form may take, beside the graph of one chunk.

        Returns
        -------
        StepInfo

        Raises
        ------
        InvalidInputError
            If two chunks do not fit into the limit, or the engine works with a process group.

        Notes
        -----
        Cost: if n chunks are held at a time out of N, about N/(2n) + 1 times the work of a batch that fits.

        Examples
        --------
        >>> import torch, mojd, mojd.torch
        >>> model = torch.nn.Linear(4, 1)
        >>> x, y = torch.randn(64, 4), torch.randn(64, 1)
        >>> engine = mojd.torch.Engine(model)
        >>> info = engine.backward_in_chunks(
        ...     lambda chunk: (model(chunk[0]) - chunk[1]).square().sum(1), zip(x.split(16), y.split(16))
        ... )
        >>> len(info)
        64
        """
        weighting = checked(weighting)
        if self._held:
            raise InvalidInputError(
                "losses given to add() are still held: call backward() for them before backward_in_chunks"
            )
        if not callable(compute_losses):
            raise InvalidTypeError(
                "compute_losses must be a function from a chunk to its losses, got "
                f"{type(compute_losses).__name__}"
            )
        if not isinstance(chunks, Iterable):
            raise InvalidTypeError(f"chunks must be iterable, got {type(chunks).__name__}")
        if not isinstance(memory_limit, int) or memory_limit < 1:
            raise InvalidTypeError(f"memory_limit must be a number of bytes, got {memory_limit!r}")
        if self.process_group is not None:
            raise InvalidInputError(
                "backward_in_chunks works on one process, and this engine has a process_group: use "
                "add(losses) for each micro-batch and backward() once, or an engine without a group"
            )
        return apply(Chunks(self, compute_losses, chunks, memory_limit), weighting)

    def gramian(self, losses: Tensor, *, retain_graph: bool = True) -> Tensor:
        """Compute the Gramian of the losses' gradients, and change nothing.

        Parameters
        ----------
        losses : Tensor, shape (K,) or (K, tasks)
        retain_graph : bool, default True
            Whether the graph of the losses is kept for a backward pass.

        Returns
        -------
        Tensor, shape (K, K), or (K·tasks, K·tasks)
            float64 if any trainable parameter is, float32 otherwise.
        """
        return self._joined(lambda: self._own(losses, retain_graph)).gramian()

    @torch.no_grad()
    def gradients(self, losses: Tensor, *, retain_graph: bool = False) -> PerExampleGradients:
        """Compute the gradient of each loss of this process, in factored form.

        Parameters
        ----------
        losses, retain_graph
            As for :meth:`backward`.

        Returns
        -------
        PerExampleGradients
            With ``gramian()``, ``weighted(weights)`` and ``write(weights)``.

        Raises
        ------
        InvalidInputError
            If the losses have a wrong shape, no graph, or do not depend on a trainable parameter; if examples
            are mixed anywhere between a parameter and the losses; or parameters are sharded.
        InvalidTypeError
            If the losses are no tensor of real numbers.
        """
        check_losses(losses)
        parameters = self._parameters()
        check_parameters(parameters)
        check_replica(self.module, parameters)
        try:
            # What a region of autocast has rounded is rounded; the engine's own arithmetic is not to be.
            with torch.autocast(losses.device.type, enabled=False):
                found = self._factors(losses, parameters, retain_graph)
        except RuntimeError as error:
            if "second time" not in str(error):
                raise
            raise InvalidInputError(
                f"the graph of the losses of shape {tuple(losses.shape)} has been freed by an earlier "
                "backward pass: compute the losses again, or pass retain_graph=True to the earlier one"
            ) from error
        self._workspace.forget()
        return PerExampleGradients(losses.numel(), parameters, found)

    def _factors(
        self, losses: Tensor, parameters: dict[str, nn.Parameter], retain_graph: bool
    ) -> dict[str, Factor]:
        frozen = [parameter for parameter in self.module.parameters() if not parameter.requires_grad]
        numbers = {id(parameter): number for number, parameter in enumerate(parameters.values())}
        graph = Graph(losses, numbers, [*frozen, *self.module.buffers()])
        check_graph(graph, self.module, losses)
        if len(losses) == 1:
            return _of_one(losses, parameters, retain_graph)
        return self._of_many(losses, graph, list(parameters), retain_graph)

    def _parameters(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.module.named_parameters() if p.requires_grad}

    def _own(self, losses: Tensor, retain_graph: bool) -> list[PerExampleGradients]:
        """Return the gradients of this process's losses; none if all losses are on other ranks."""
        if self.process_group is not None and isinstance(losses, Tensor) and not losses.numel():
            return []
        return [self.gradients(losses, retain_graph=retain_graph)]

    def _released(self, losses: Tensor | None, retain_graph: bool) -> list[PerExampleGradients]:
        """Return what was held and what the losses add to it, and hold nothing."""
        held = self._held
        if self.process_group is not None:
            self._held = []  # as on the other ranks, also if there is an error here
        if losses is not None:
            held = held + self._own(losses, retain_graph)
        self._held = []
        if not held and self.process_group is None:
            raise InvalidInputError("there are no losses: pass losses, or call add(losses) before")
        return held

    def _apply(self, compute: Callable[[], list[PerExampleGradients]], weighting: Any) -> StepInfo:
        gradients = self._joined(compute)
        share = gradients.shared if isinstance(gradients, GradientsOverRanks) else None
        return apply(gradients, weighting, share=share)

    def _joined(self, compute: Callable[[], list[PerExampleGradients]]) -> Held:
        """Return the gradients of several micro-batches, and of all ranks, as those of one batch."""
        if self.process_group is not None:
            return over_ranks(compute, self._parameters(), self.process_group)
        parts = compute()
        return parts[0] if len(parts) == 1 else JointGradients(parts)

    def _of_many(
        self, losses: Tensor, graph: Graph, names: list[str], retain_graph: bool
    ) -> dict[str, Factor]:
        plan = self._plans.plan_for(losses, graph, names)
        by_target: dict[Edge, list[Factor]] = {}
        for target, factor in read(losses, graph, plan, retain_graph):
            by_target.setdefault(target, []).append(factor)
        by_leaf: dict[int, list[Factor]] = {}
        for target, factors in by_target.items():
            for leaf, factor in through(graph, target, added(factors)):
                by_leaf.setdefault(leaf, []).append(factor)
        return {names[leaf]: settled(added(factors), self._workspace) for leaf, factors in by_leaf.items()}


def _of_one(losses: Tensor, parameters: dict[str, nn.Parameter], retain_graph: bool) -> dict[str, Factor]:
    """Return the gradients of the tasks of one example, which need no telling apart."""
    rows = []
    for number in range(losses.numel()):
        chosen = torch.zeros_like(losses)
        chosen.view(-1)[number] = 1
        retain = retain_graph or number + 1 < losses.numel()
        rows.append(
            torch.autograd.grad(
                losses, list(parameters.values()), chosen, retain_graph=retain, allow_unused=True
            )
        )
    found: dict[str, Factor] = {}
    for name, gradients in zip(parameters, zip(*rows, strict=True), strict=True):
        if any(gradient is not None for gradient in gradients):
            zero = torch.zeros_like(parameters[name])
            values = torch.stack([zero if gradient is None else gradient for gradient in gradients])
            found[name] = Dense(in_single_precision(values))
    return found
