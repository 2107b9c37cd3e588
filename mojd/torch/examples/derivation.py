"""From what was computed from parameters alone back to the parameters."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.autograd.graph import GradientEdge

from mojd.torch.examples.factors import Dense, Factor, Outer, in_single_precision
from mojd.torch.examples.graph import Edge, Graph


def is_a_rearrangement(graph: Graph, target: Edge) -> bool:
    """Whether an edge is a parameter, transposed or converted to another dtype at most."""
    while target.node not in graph.leaves:
        if graph.nodes[target.node].name() not in ("TBackward0", "ToCopyBackward0"):
            return False
        edge = graph.children[target.node][0]
        if edge is None:
            return False
        target = edge
    return True


def through(graph: Graph, target: Edge, factor: Factor) -> Iterator[tuple[int, Factor]]:
    """Yield per-example gradients of the parameters from those of a tensor computed from them."""
    if not is_a_rearrangement(graph, target):
        yield from _pulled_back(graph, target, factor)
        return
    while target.node not in graph.leaves:
        if graph.nodes[target.node].name() == "TBackward0":
            factor = _transposed(factor)
        edge = graph.children[target.node][0]
        assert edge is not None
        target = edge
    yield graph.leaves[target.node], factor


def _transposed(factor: Factor) -> Factor:
    shape = torch.Size(reversed(factor.shape))
    if isinstance(factor, Outer) and factor.left.shape[1] == 1:
        return Outer(factor.right, factor.left, shape)
    return Dense(factor.dense().mT if len(shape) == 2 else factor.dense())


def _pulled_back(graph: Graph, target: Edge, factor: Factor) -> Iterator[tuple[int, Factor]]:
    """Yield the products of per-example gradients with the derivative of the tensor."""
    leaves = _leaves_above(graph, target.node)
    parameters = [graph.nodes[node].variable for node in leaves]
    node = graph.nodes[target.node]
    edge, dtype = GradientEdge(node, target.output), node._input_metadata[target.output].dtype
    rows = [
        torch.autograd.grad([edge], parameters, [row.to(dtype)], retain_graph=True) for row in factor.dense()
    ]
    for leaf, gradients in zip(leaves, zip(*rows, strict=True), strict=True):
        yield graph.leaves[leaf], Dense(in_single_precision(torch.stack(gradients)))


def _leaves_above(graph: Graph, start: int) -> list[int]:
    waiting, found = [start], []
    for node in waiting:  # grows on the way
        if node in graph.leaves:
            found.append(node)
        children = [edge.node for edge in graph.children[node] if edge is not None]
        waiting += [child for child in dict.fromkeys(children) if child not in waiting]
    return found
