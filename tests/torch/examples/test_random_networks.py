"""Random small networks against the explicit Jacobian, in shapes that are easily mistaken for each other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import given, note, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import mojd.torch
from tests.torch.examples.comparison import assert_directions_close, assert_gramians_close
from tests.torch.examples.reference import jacobian
from tests.torch.examples.zoo import score

# Normalising a few numbers that happen to be close amplifies rounding: of both sides, and in either.
TOLERANCE = 1e-9

ANYWHERE = (
    "linear",
    "norm",
    "rms",
    "prelu",
    "scale",
    "add",
    "tanh",
    "relu",
    "residual",
    "again",
    "transposed",
)
ON_SEQUENCES = (*ANYWHERE, "positions", "attention", "convolution", "recurrent", "token", "flatten")
ON_IMAGES = ("convolution", "depthwise", "group_norm", "tanh", "relu", "again", "pool", "to_sequence")


@dataclass
class State:
    """Activations, and the axis that counts the examples."""

    h: Tensor
    axis: int


class Network(nn.Module):
    """Layers by name, made at their first use for the shapes that they meet."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.names = names
        self.layers = nn.ModuleDict()
        self.extra = nn.ParameterDict()

    def layer(
        self, key: str, make: type[nn.Module] | None = None, *args: object, **options: object
    ) -> nn.Module:
        if key not in self.layers:
            assert make is not None
            self.layers[key] = make(*args, **options).double()
        return self.layers[key]

    def parameter(self, key: str, *shape: int) -> Tensor:
        if key not in self.extra:
            self.extra[key] = nn.Parameter(torch.randn(shape, dtype=torch.float64))
        found: Tensor = self.extra[key]
        return found

    def shared(self, h: Tensor) -> nn.Module:
        """Return the layer that all uses at this width or number of channels share."""
        if h.dim() == 4:
            return self.layer(f"shared_{h.shape[1]}_channels", nn.Conv2d, h.shape[1], h.shape[1], 1)
        return self.layer(f"shared_{h.shape[-1]}", nn.Linear, h.shape[-1], h.shape[-1])

    def forward(self, x: Tensor, axis: int) -> Tensor:
        state = State(x, axis)
        for number, name in enumerate(self.names):
            state = self.step(f"{number}_{name}", name, state)
        return score(state.h, state.axis)

    def step(self, key: str, name: str, state: State) -> State:
        h, axis = state.h, state.axis
        if h.dim() == 4:
            return self.on_images(key, name, state)
        width = h.shape[-1]
        if h.dim() == 3 and name in (
            "attention",
            "convolution",
            "recurrent",
            "positions",
            "token",
            "flatten",
        ):
            return self.on_sequences(key, name, state)
        match name:
            case "linear":
                h = self.layer(key, nn.Linear, width, 3 + len(key) % 3, bias=len(key) % 2 == 0)(h)
            case "norm":
                h = self.layer(key, nn.LayerNorm, width)(h)
            case "rms":
                h = self.layer(key, nn.RMSNorm, width, eps=1e-3)(h)
            case "prelu":
                h = self.layer(key, nn.PReLU)(h)
            case "scale":
                h = h * self.parameter(key, width)
            case "add":
                h = h + self.parameter(key)
            case "tanh":
                h = torch.tanh(h)
            case "relu":
                h = torch.relu(h) + 0.1 * h
            case "residual":
                h = h + self.shared(h)(h.sin())
            case "again":
                h = self.shared(h)(h)
            case "transposed":
                h = h @ self.shared(h).get_parameter("weight")
        return State(h, axis)

    def on_sequences(self, key: str, name: str, state: State) -> State:
        h, axis = state.h, state.axis
        width, first = h.shape[-1], axis == 0
        match name:
            case "attention":
                h = self.layer(key, nn.MultiheadAttention, width, 1, batch_first=first)(
                    h, h, h, need_weights=len(key) % 2 == 0
                )[0]
            case "recurrent":
                h = self.layer(key, nn.GRU, width, width, batch_first=first)(h)[0]
            case "convolution":
                channels = h.transpose(1, 2) if first else h.permute(1, 2, 0)
                y = self.layer(key, nn.Conv1d, width, width, 2, padding=1)(channels)
                h = y.transpose(1, 2) if first else y.permute(2, 0, 1)
            case "positions":
                positions = self.parameter(f"{key}_{h.shape[1 - axis]}", h.shape[1 - axis], width)
                h = h + (positions if first else positions.unsqueeze(1))
            case "token":
                token = self.parameter(key, 1, 1, width)
                shape = (h.shape[0], 1, width) if first else (1, h.shape[1], width)
                h = torch.cat([token.expand(shape), h], dim=1 - axis)
            case "flatten":
                length = h.shape[1 - axis]
                h = self.shared(h)(h.flatten(0, 1)).unflatten(0, h.shape[:2]) / length
        return State(h, axis)

    def on_images(self, key: str, name: str, state: State) -> State:
        h = state.h
        channels = h.shape[1]
        match name:
            case "convolution":
                h = self.layer(key, nn.Conv2d, channels, channels + 1, 3, padding=1, stride=1 + len(key) % 2)(
                    h
                )
            case "depthwise":
                h = self.layer(key, nn.Conv2d, channels, channels, 2, padding=1, groups=channels)(h)
            case "group_norm":
                h = self.layer(key, nn.GroupNorm, 1, channels)(h)
            case "tanh":
                h = torch.tanh(h)
            case "relu":
                h = torch.relu(h) + 0.1 * h
            case "again":
                h = self.shared(h)(h)
            case "pool":
                h = torch.nn.functional.adaptive_avg_pool2d(h, 2)
            case "to_sequence":
                return State(h.flatten(2).transpose(1, 2), 0)
        return State(h, 0)


@st.composite
def networks(draw: st.DrawFn) -> tuple[Network, Tensor, int, int]:
    """Draw a network, its inputs, which axis counts the examples, and how many losses each has."""
    count, length, width = draw(st.integers(1, 5)), draw(st.integers(1, 5)), draw(st.integers(3, 5))
    kind = draw(st.sampled_from(["features", "sequences", "sequences first", "images"]))
    shape, axis, choices = {
        "features": ((count, width), 0, ANYWHERE),
        "sequences": ((count, length, width), 0, ON_SEQUENCES),
        "sequences first": ((length, count, width), 1, ON_SEQUENCES),
        "images": ((count, width, max(length, 2), max(length, 2)), 0, ON_IMAGES),
    }[kind]
    names = draw(st.lists(st.sampled_from(choices), min_size=1, max_size=5))
    seed = draw(st.integers(0, 99))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # A first layer, so that there is always something to train.
        network = Network(["again", *names])
        x = torch.randn(shape, dtype=torch.float64)
        network(x, axis)  # makes the layers
    return network, x, axis, count


@settings(max_examples=300)
@given(networks())
def test_random_networks(drawn: tuple[Network, Tensor, int, int]) -> None:
    network, x, axis, count = drawn
    note(f"{network.names} on {tuple(x.shape)}, examples along {axis}")
    losses = network(x, axis)
    reference = jacobian(network, losses)
    gradients = mojd.torch.Engine(network).gradients(losses)
    assert_gramians_close(gradients.gramian(), reference.gramian(), TOLERANCE)
    weights = torch.linspace(-1.0, 2.0, count, dtype=torch.float64)
    assert_directions_close(gradients.weighted(weights), reference, weights, TOLERANCE)


@settings(max_examples=100)
@given(networks())
def test_a_step_after_another(drawn: tuple[Network, Tensor, int, int]) -> None:
    """One engine sees three graphs of the same shape, then one of another."""
    network, x, axis, count = drawn
    note(f"{network.names} on {tuple(x.shape)}, examples along {axis}")
    engine = mojd.torch.Engine(network)
    batches = [x, x.flip(axis) + 0.1, x.cos(), x.narrow(axis, 0, max(count - 1, 1))]
    for inputs in batches:
        losses = network(inputs, axis)
        assert_gramians_close(engine.gramian(losses), jacobian(network, losses).gramian(), TOLERANCE)
