"""The backward pass: from a graph and its plan to the factors of every use."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from mojd.torch.examples.cotangent import Cotangent
from mojd.torch.examples.derivation import is_a_rearrangement
from mojd.torch.examples.factors import Factor
from mojd.torch.examples.graph import Edge, Graph, Node
from mojd.torch.examples.plan import Plan, Use
from mojd.torch.examples.rules import RULES, one_by_one

_SAVED: dict[type, list[str]] = {}


def read(losses: Tensor, graph: Graph, plan: Plan, retain_graph: bool) -> Iterator[tuple[Edge, Factor]]:
    """Yield the per-example gradients of the target of each use.

    PyTorch frees what a node has saved once the backward pass is through it, unless told not to: what rules
    need is taken before.
    """
    saved = {use.node: _saved(graph.nodes[use.node]) for use in plan.uses}
    edges = list(plan.layouts)
    outputs: dict[int, list[Edge]] = {}
    for edge in edges:
        outputs.setdefault(edge.node, []).append(edge)
    needs_graph = retain_graph or any(
        not is_a_rearrangement(graph, use.target) or not _is_ruled(graph, use, plan, outputs)
        for use in plan.uses
    )
    raw = _cotangents(losses, graph, edges, needs_graph)
    size = len(losses)
    cotangents = {edge: Cotangent(raw[edge], plan.layouts[edge], size) for edge in edges}
    for use in plan.uses:
        node = graph.nodes[use.node]
        shape = graph.shape(use.target)
        if _is_ruled(graph, use, plan, outputs):
            rule, cotangent = RULES[node.name()], cotangents[Edge(use.node, 0)]
            yield use.target, rule.gradients(saved[use.node], use.position, cotangent, shape)
        else:
            own = {edge.output: cotangents[edge] for edge in outputs[use.node]}
            yield use.target, one_by_one(node, use.position, own, shape)


def _is_ruled(graph: Graph, use: Use, plan: Plan, outputs: dict[int, list[Edge]]) -> bool:
    """Whether there is a rule for a use, which needs no more of the graph than what was saved."""
    node, edge = graph.nodes[use.node], Edge(use.node, 0)
    rule = RULES.get(node.name())
    if rule is None or outputs[use.node] != [edge] or node._input_metadata[0].dtype.is_complex:
        return False
    return rule.suits(use.position, plan.layouts[edge], graph.shape(edge), graph.shape(use.target))


def _saved(node: Node) -> Any:
    """Return all that a node with a rule has saved, under the same names and without the graph behind it."""
    if node.name() not in RULES:
        return None
    values = {name: getattr(node, name) for name in _saved_names(node)}
    return SimpleNamespace(
        **{name: value.detach() if isinstance(value, Tensor) else value for name, value in values.items()}
    )


def _saved_names(node: Node) -> list[str]:
    kind = type(node)
    if kind not in _SAVED:
        _SAVED[kind] = [name for name in dir(kind) if name.startswith("_saved_")]
    return _SAVED[kind]


def _cotangents(losses: Tensor, graph: Graph, edges: list[Edge], retain: bool) -> dict[Edge, list[Tensor]]:
    """Return the gradients at edges, one for each task."""
    gradient_edges = [GradientEdge(graph.nodes[edge.node], edge.output) for edge in edges]
    tasks = losses.shape[1] if losses.dim() == 2 else 1
    found: dict[Edge, list[Tensor]] = {edge: [] for edge in edges}
    for task in range(tasks):
        scale = torch.zeros_like(losses)
        scale[(..., task) if losses.dim() == 2 else ...] = 1
        gradients = torch.autograd.grad(
            losses, gradient_edges, scale, retain_graph=retain or task + 1 < tasks, allow_unused=True
        )
        for edge, gradient in zip(edges, gradients, strict=True):
            found[edge].append(graph.zeros(edge) if gradient is None else gradient)
    return found
