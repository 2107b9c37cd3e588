"""Where the parameters are used, and where the examples are there: found once for each kind of graph.

A use is a node that takes a parameter, or a tensor computed from nothing but parameters, and gives
something that belongs to the examples. Most are known by their name. For the others the probe of
:mod:`.layout` tells: where the gradient at the output of a node is not made of examples' slices, and the
node has seen parameters only, its consumers are asked instead.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

from torch import Tensor

from mojd.errors import InvalidInputError
from mojd.torch.examples.graph import Above, Consumer, Edge, Graph
from mojd.torch.examples.independence import is_bound_to_keep_apart, nodes_between
from mojd.torch.examples.layout import Layout
from mojd.torch.examples.probe import Probe

# Of a parameter, what these return holds no example, whatever shape it has.
_NEVER_EXAMPLES = frozenset({"TBackward0", "ToCopyBackward0"})

# How many kinds of graphs are remembered. Models that change with every step would fill the memory.
_MOST_PLANS = 256


class Use(NamedTuple):
    """A node that takes a parameter, or what was derived from parameters, to the examples.

    Attributes
    ----------
    node, position : int
        The node, and which of its inputs.
    target : Edge
        What it takes: the edge from the parameter's leaf, or from the last node of a derivation.
    """

    node: int
    position: int
    target: Edge


class Plan(NamedTuple):
    """How to get per-example gradients out of graphs of one signature.

    Attributes
    ----------
    uses : list of Use
    layouts : dict
        Where the examples are in the gradient at each edge that is an output of a use.
    is_certain : bool
        Whether the layouts will be the same for the next graph of this signature. Not if
        an operation can mix examples depending on values, nor if an example's gradients were zero, or not
        finite: they say nothing of what they will do next time.
    """

    uses: list[Use]
    layouts: dict[Edge, Layout]
    is_certain: bool


class Plans:
    """The plans of an engine for all kinds of graphs that it has seen.

    Parameters
    ----------
    keep : bool
        Whether a plan is used again.
    """

    def __init__(self, keep: bool) -> None:
        self._keep = keep
        self._known: OrderedDict[Any, Plan] = OrderedDict()

    def plan_for(self, losses: Tensor, graph: Graph, names: list[str]) -> Plan:
        """Return a plan that was made for such a graph, or make one."""
        key = (losses.shape, graph.signature)
        if key in self._known:
            self._known.move_to_end(key)
            return self._known[key]
        plan = make_plan(losses, graph, names)
        if plan.is_certain and self._keep:
            self._known[key] = plan
            if len(self._known) > _MOST_PLANS:
                self._known.popitem(last=False)
        return plan


def uses_of(graph: Graph, consumers: dict[Edge, list[Consumer]], derived: set[int]) -> list[Use]:
    """Return the uses of all parameters, given which nodes `derived` only compute from parameters."""
    waiting = [Edge(number, 0) for number in graph.leaves]
    found = []
    for edge in waiting:  # grows on the way
        for consumer in consumers.get(edge, []):
            name = graph.nodes[consumer.node].name()
            if name not in _NEVER_EXAMPLES and consumer.node not in derived:
                found.append(Use(consumer.node, consumer.position, edge))
                continue
            outputs = [other for other in consumers if other.node == consumer.node]
            waiting += [output for output in outputs if output not in waiting]
    return found


def outputs_of(use: Use, consumers: dict[Edge, list[Consumer]]) -> list[Edge]:
    """Return the outputs of the node of a use that anything is computed from."""
    return [edge for edge in consumers if edge.node == use.node]


def make_plan(losses: Tensor, graph: Graph, names: list[str]) -> Plan:
    """Find all uses and the layout at each, for losses (K,) or (K, tasks) with K > 1.

    Raises
    ------
    InvalidInputError
        If examples meet or change places between a parameter and the losses.
    """
    consumers = graph.consumers()
    above = graph.above()
    probe = Probe(losses, graph)
    derived: set[int] = set()
    while True:
        uses = uses_of(graph, consumers, derived)
        edges = list(dict.fromkeys(edge for use in uses for edge in outputs_of(use, consumers)))
        candidates = probe.layouts(edges)
        mixed = [edge for edge in sorted(edges) if not candidates[edge]]
        if not mixed:
            break
        more = {edge.node for edge in mixed if above[edge.node] is not Above.DATA}
        if not more:
            culprit = next(use for use in uses if use.node == mixed[0].node)
            raise InvalidInputError(_met(graph, culprit, losses, names))
        derived |= more
    between = nodes_between(graph, [use.node for use in uses], consumers)
    everywhere = probe.layouts(between)
    is_certain = all(
        probe.is_certain(edge) and is_bound_to_keep_apart(graph, edge, everywhere[edge][0], above)
        for edge in between
    )
    layouts = {edge: candidates[edge][0] for edge in edges}
    return Plan(uses, layouts, is_certain)


def _met(graph: Graph, use: Use, losses: Tensor, names: list[str]) -> str:
    leaf = use.target.node
    while leaf not in graph.leaves:
        leaf = next(edge.node for edge in graph.children[leaf] if edge is not None)
    name, shape = names[graph.leaves[leaf]], tuple(graph.shape(Edge(use.node, 0)))
    return (
        f"there is no axis of {len(losses)} examples in what is computed from parameter {name!r}, of shape "
        f"{shape}: between there and the losses of shape {tuple(losses.shape)} something mixes the examples "
        "(statistics, a softmax or a mean over the batch), or reorders, drops or stacks them (a shuffle, "
        "packed sequences, routing, a loop over examples). One batch axis has to lead from the input to the "
        "losses, and losses[k] to depend on example k alone; tasks come second, (K, tasks), and positions of "
        "a sequence are no examples. mojd.torch.backward(losses, params) takes any losses, with one backward "
        "pass each"
    )
