"""The autograd graph of losses, as a list of nodes that two steps of training have in common.

A node of PyTorch's graph stands for an operation of the forward pass. Its inputs are edges to the nodes
that made them; parameters are made by nodes called AccumulateGrad.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# torch.autograd.graph.Node leaves out of its types most of what nodes have.
Node = Any

_ELEMENTWISE = frozenset({"AddBackward0", "DivBackward0", "MulBackward0", "SubBackward0", "WhereBackward0"})
_INTEGERS: dict[type, tuple[str, ...]] = {}
_TABLES = frozenset({"EmbeddingBackward0", "EmbeddingBagBackward0", "IndexBackward0", "IndexSelectBackward0"})


class Above(Enum):
    """What a node is computed from: only parameters, parameters by way of a look-up, or data."""

    PARAMETERS = 0
    TABLE = 1
    DATA = 2


class Edge(NamedTuple):
    """One output of a node of a :class:`Graph`, by the node's number."""

    node: int
    output: int


class Consumer(NamedTuple):
    """A node that takes an edge as its input number `position`."""

    node: int
    position: int


class Graph:
    """The nodes that lead from `losses` to leaves, numbered from the losses on.

    Parameters
    ----------
    losses : Tensor
        Any shape.
    parameters : mapping
        The numbers of the parameters that matter, by the id of the tensor.
    constants : sequence of Tensor
        Buffers and frozen parameters.

    Attributes
    ----------
    nodes : list
        In an order that depends on nothing but the structure.
    children : list of tuples of (Edge or None)
        The inputs of each node.
    leaves : dict
        The number of the parameter that a node accumulates.
    signature : tuple
        Equal for two graphs of the same operations, with the same axes, sizes, indices and shapes.
    """

    def __init__(
        self, losses: Tensor, parameters: Mapping[int, int], constants: Sequence[Tensor] = ()
    ) -> None:
        root = losses.grad_fn
        self._constants = {constant.data_ptr() for constant in constants}
        self.root = Edge(0, losses.output_nr)
        self.nodes: list[Node] = [root]
        self.children: list[tuple[Edge | None, ...]] = []
        self.leaves: dict[int, int] = {}
        numbers: dict[Node, int] = {root: 0}
        signature: list[Any] = [losses.output_nr]
        for node in self.nodes:  # grows on the way
            children: list[Edge | None] = []
            for child, output in node.next_functions:
                if child is None:
                    children.append(None)
                    continue
                number = numbers.setdefault(child, len(self.nodes))
                if number == len(self.nodes):
                    self.nodes.append(child)
                children.append(Edge(number, output))
            edges = tuple(children)
            self.children.append(edges)
            shapes = tuple([tuple(entry.shape) for entry in node._input_metadata])
            signature += (type(node), edges, shapes, *_integers(node))
            if not edges and hasattr(node, "variable"):
                leaf = parameters.get(id(node.variable))
                signature.append(leaf)
                if leaf is not None:
                    self.leaves[numbers[node]] = leaf
        self.signature = tuple(signature)

    def consumers(self) -> dict[Edge, list[Consumer]]:
        """Return who takes which edge as an input."""
        found: dict[Edge, list[Consumer]] = {self.root: []}
        for number, edges in enumerate(self.children):
            for position, edge in enumerate(edges):
                if edge is not None:
                    found.setdefault(edge, []).append(Consumer(number, position))
        return found

    def above(self) -> list[Above]:
        """Return for each node what it may be computed from, besides constants.

        An input that needs no gradient is not in the graph: it can be data as well as a constant. It is
        taken for a constant, such as a mask, in an element-wise operation whose output has the shape of
        another input, and known to be one if it is a buffer that multiplies a matrix. What was looked
        up in a table may be the same for all examples, as embeddings of positions are, until it meets
        anything else.
        """
        known: dict[int, Above] = {}
        stack = list(range(len(self.nodes)))
        while stack:
            number = stack[-1]
            waiting = [edge.node for edge in self.children[number] if edge and edge.node not in known]
            if number not in known and waiting:
                stack += waiting
                continue
            known.setdefault(number, self._what_is_above(number, known))
            stack.pop()
        return [known[number] for number in range(len(self.nodes))]

    def _what_is_above(self, number: int, known: Mapping[int, Above]) -> Above:
        node, edges = self.nodes[number], [edge for edge in self.children[number] if edge]
        if not edges:
            is_parameter = isinstance(getattr(node, "variable", None), nn.Parameter)
            return Above.PARAMETERS if is_parameter else Above.DATA
        found = max((known[edge.node] for edge in edges), key=lambda above: above.value)
        if found is Above.TABLE and len(self.children[number]) > 1:
            return Above.DATA
        if None in self.children[number]:
            shapes = [self.shape(edge) for edge in edges]
            is_masked = node.name() in _ELEMENTWISE and self.shape(Edge(number, 0)) in shapes
            found = found if is_masked or self._is_multiplied_by_constants(node) else Above.DATA
        return Above.TABLE if found is Above.PARAMETERS and node.name() in _TABLES else found

    def _is_multiplied_by_constants(self, node: Node) -> bool:
        """Whether the missing factor of a product of matrices is a buffer or a frozen parameter.

        It is what the node has saved, for the gradient of the other factor.
        """
        if node.name() in ("DotBackward0", "MvBackward0", "VdotBackward0"):
            return True  # a vector has no rows for the examples
        if node.name() != "MmBackward0":
            return False
        saved = [factor for factor in (node._saved_self, node._saved_mat2) if factor is not None]
        return all(
            factor.layout is torch.strided and factor.data_ptr() in self._constants for factor in saved
        )

    def zeros(self, edge: Edge) -> Tensor:
        """Return zeros such as the tensor that an edge stands for."""
        metadata = self.nodes[edge.node]._input_metadata[edge.output]
        return torch.zeros(metadata.shape, dtype=metadata.dtype, device=metadata.device)

    def shape(self, edge: Edge) -> torch.Size:
        """Return the shape of the tensor that an edge stands for."""
        node = self.nodes[edge.node]
        if hasattr(node, "variable"):
            return torch.Size(node.variable.shape)
        return torch.Size(node._input_metadata[edge.output].shape)


def _integers(node: Node) -> list[Any]:
    """Return the axes, sizes, indices and flags that a node has saved."""
    kind = type(node)
    if kind not in _INTEGERS:
        names = [name for name in dir(kind) if name.startswith("_saved_")]
        _INTEGERS[kind] = tuple(name for name in names if _is_integral(getattr(node, name)))
    # What was missing in the first node of a kind can be a tensor in another.
    values = [getattr(node, name) for name in _INTEGERS[kind]]
    return [value if _is_integral(value) else None for value in values]


def _is_integral(value: Any) -> bool:
    if type(value) is tuple:
        return all(isinstance(entry, int) for entry in value)
    return value is None or isinstance(value, int)
