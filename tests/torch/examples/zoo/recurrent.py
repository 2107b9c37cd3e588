"""Recurrent networks, and losses summed over time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from tests.torch.examples.zoo._case import Problem, Table, score, scores, scores_axis_1

recurrent = Table()


def batch_first(network: Callable[..., nn.Module], k: int) -> Problem:
    """Build a network on (K, T, 3)."""
    return Problem(network(3, 4, batch_first=True), (torch.randn(k, 6, 3),), scores)


def sequence_first(network: Callable[..., nn.Module], k: int) -> Problem:
    """Build a network on (T, K, 3)."""
    return Problem(network(3, 4), (torch.randn(6, k, 3),), scores_axis_1, (1,))


NETWORKS: dict[str, Callable[..., nn.Module]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
for _name, _network in NETWORKS.items():
    recurrent.add(_name, partial(batch_first, _network))
    recurrent.add(f"{_name}_sequence_first", partial(sequence_first, _network))
recurrent.add(
    "lstm_of_two_layers_in_two_directions",
    lambda k: Problem(
        nn.LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True),
        (torch.randn(k, 4, 3),),
        scores,
    ),
)
recurrent.add(
    "gru_without_bias",
    lambda k: Problem(nn.GRU(3, 4, bias=False, batch_first=True), (torch.randn(k, 4, 3),), scores),
)


@recurrent
def last_state_of_a_gru(k: int) -> Problem:
    module = nn.ModuleList([nn.GRU(3, 4, batch_first=True), nn.Linear(4, 2)])

    def losses(both: nn.ModuleList, x: Tensor) -> Tensor:
        return score(both[1](both[0](x)[1][0]))

    return Problem(module, (torch.randn(k, 5, 3),), losses)


class LearnedStart(nn.Module):
    """The first state is a parameter, expanded to all examples."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.randn(1, 1, 4))
        self.network = nn.RNN(3, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.network(x, self.start.expand(-1, len(x), -1).contiguous())[0]
        return output


recurrent.layer("rnn_with_a_learned_start", LearnedStart, 4, 3)


class Cells(nn.Module):
    """A loop over time by hand; the cell is used once per step."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell, self.head = cell, nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        state: Tensor | tuple[Tensor, Tensor] | None = None
        outputs = []
        for step in x.unbind(1):
            state = self.cell(step, state)
            outputs.append(self.head(state[0] if isinstance(state, tuple) else state))
        return torch.stack(outputs, dim=1)


recurrent.layer("rnn_cells", lambda: Cells(nn.RNNCell(3, 4)), 5, 3)
recurrent.layer("gru_cells", lambda: Cells(nn.GRUCell(3, 4)), 5, 3)
recurrent.layer("lstm_cells", lambda: Cells(nn.LSTMCell(3, 4)), 5, 3)
recurrent.layer("gru_cells_one_step", lambda: Cells(nn.GRUCell(3, 4)), 1, 3)


class Elman(nn.Module):
    """Two linear layers: one sees the whole sequence at once, the other is used at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.again = nn.Linear(3, 4), nn.Linear(4, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        entered = self.enter(x)
        h = entered.new_zeros(len(x), 4)
        total: Tensor = entered.new_zeros(len(x))
        for step in range(x.shape[1]):
            h = torch.tanh(entered[:, step] + self.again(h))
            total += score(h)
        return total


recurrent.add(
    "losses_summed_over_time", lambda k: Problem(Elman(), (torch.randn(k, 6, 3),), lambda m, x: m(x))
)


@recurrent
def iterated_layer(k: int) -> Problem:
    """One layer applied to its own output."""

    def losses(layer: nn.Module, x: Tensor) -> Tensor:
        for _ in range(4):
            x = torch.tanh(layer(x))
        return score(x)

    return Problem(nn.Linear(4, 4), (torch.randn(k, 4),), losses)
