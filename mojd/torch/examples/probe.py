"""The probe: backward passes with losses scaled by powers of two, and what they tell of the layouts."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from mojd.torch.examples.graph import Edge, Graph
from mojd.torch.examples.layout import Layout, candidates, examples_first, explaining, probe_factors

# How many numbers the gradients of one pass may have.
_BLOCK = 2**26


class Probe:
    """The layouts of the examples at the edges of one graph, found as they are asked for.

    Parameters
    ----------
    losses : Tensor, shape (K,) or (K, tasks)
    graph : Graph
        Of the losses.
    """

    def __init__(self, losses: Tensor, graph: Graph) -> None:
        self._losses = losses
        self._graph = graph
        # Tasks get factors too, lest what mixes the examples of two tasks cancels.
        tasks = torch.arange(losses[0].numel(), device=losses.device, dtype=losses.dtype)
        self._plain = (1.0 + 0.37 * tasks).view(losses[0].shape).expand_as(losses)
        self._factors = probe_factors(len(losses), losses)
        self._layouts: dict[Edge, list[Layout]] = {}
        self._silent: set[Edge] = set()

    def layouts(self, edges: Iterable[Edge]) -> dict[Edge, list[Layout]]:
        """Return for each edge all layouts that agree with what the gradients there do."""
        wanted = list(dict.fromkeys(edges))
        block: list[Edge] = []
        total = 0
        for edge in [edge for edge in wanted if edge not in self._layouts]:
            size = self._graph.shape(edge).numel()
            if total + size > _BLOCK and block:
                self._measure(block)
                block, total = [], 0
            block.append(edge)
            total += size
        if block:
            self._measure(block)
        return {edge: self._layouts[edge] for edge in wanted}

    def is_certain(self, edge: Edge) -> bool:
        """Whether there is one layout at an edge that has been asked for, and nothing is missing for it."""
        return len(self._layouts[edge]) == 1 and edge not in self._silent

    def _measure(self, edges: list[Edge]) -> None:
        plain = self._cotangents(edges, self._plain)
        size = len(self._losses)
        found = {edge: list(candidates(plain[edge].shape, size)) for edge in edges}
        for factors in self._factors:
            scale = factors.view(-1, *(1 for _ in self._losses.shape[1:])) * self._plain
            for edge, scaled in self._cotangents(edges, scale).items():
                found[edge] = explaining(found[edge], plain[edge], scaled, factors)
                if not bool(scaled.isfinite().all()):
                    self._silent.add(edge)
        for edge in edges:
            self._layouts[edge] = found[edge]
            if not bool(plain[edge].isfinite().all()) or not self._speaks_of_all(plain[edge], edge):
                self._silent.add(edge)

    def _speaks_of_all(self, plain: Tensor, edge: Edge) -> bool:
        """Whether no example's gradient is zero: what a zero coefficient hides may be there next time."""
        if not self._layouts[edge] or not plain.numel():
            return False
        rows = examples_first(plain, self._layouts[edge][0], len(self._losses))
        return bool((rows != 0).flatten(1).any(dim=1).all())

    def _cotangents(self, edges: list[Edge], scale: Tensor) -> dict[Edge, Tensor]:
        """Return the gradients of ⟨scale, losses⟩ at edges, by one backward pass."""
        nodes = [GradientEdge(self._graph.nodes[edge.node], edge.output) for edge in edges]
        found = torch.autograd.grad(self._losses, nodes, scale, retain_graph=True, allow_unused=True)
        return {
            edge: self._graph.zeros(edge) if gradient is None else gradient
            for edge, gradient in zip(edges, found, strict=True)
        }
