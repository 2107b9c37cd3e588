"""Batches larger than memory: the Gramian of all examples, from chunks that are computed again as needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mojd.errors import InvalidInputError
from mojd.torch.examples.gradients import PerExampleGradients, assemble

ComputeLosses = Callable[[Any], Tensor]


class Differentiator(Protocol):
    """What gives the gradients of a chunk's losses."""

    def gradients(self, losses: Tensor) -> PerExampleGradients:
        """Return the gradients of losses (K,) or (K, tasks)."""


class Chunks:
    """The gradients of the losses of all chunks, of which no more are held than memory allows.

    As many chunks as fit, less one, are held together; the others pass by, one at a time. If all fit, each is
    computed once. The pass for the direction then differentiates a weighted sum, and holds nothing.

    Parameters
    ----------
    engine : Engine
    compute_losses : callable
        From a chunk to its losses. It may be called several times for a chunk, with PyTorch's random numbers
        as they were the first time.
    chunks : iterable
        What `compute_losses` takes.
    memory_limit : int
        How many bytes the gradients may take.

    Raises
    ------
    InvalidInputError
        If there is no chunk.
    """

    def __init__(
        self, engine: Differentiator, compute_losses: ComputeLosses, chunks: Iterable[Any], memory_limit: int
    ) -> None:
        self._engine = engine
        self._compute_losses = compute_losses
        self._chunks: Sequence[Any] = list(chunks)
        self._limit = memory_limit
        self._sizes: dict[int, int] = {}
        self._first: dict[int, Tensor] = {}
        self._random = [RandomState() for _ in self._chunks]
        self._held: dict[int, PerExampleGradients] = {}
        self._targets: list[nn.Parameter] = []
        if not self._chunks:
            raise InvalidInputError("chunks is empty: it must hold at least one chunk of the batch")

    def gramian(self) -> Tensor:
        """Compute the Gramian of the losses of all chunks.

        Raises
        ------
        InvalidInputError
            If not even two chunks fit.
        """
        blocks: dict[tuple[int, int], Tensor] = {}
        start, count = 0, len(self._chunks)
        while start < count:
            self._held = {}
            for number in range(start, count):
                # Nothing but what is held is alive here, while the next chunk is computed.
                self._multiply(number, is_next=len(self._held) == number - start, blocks=blocks)
            start += len(self._held)
        return assemble([self._sizes[number] for number in range(count)], blocks)

    def _multiply(self, number: int, is_next: bool, blocks: dict[tuple[int, int], Tensor]) -> None:
        """Multiply a chunk with all that are held, and hold it too if it is next and there is room."""
        current = self._gradients(number)
        blocks |= {(number, other): current.times(held) for other, held in self._held.items()}
        if not is_next:
            return
        if self._has_room(current, number + 1 == len(self._chunks)):
            blocks[number, number] = current.gramian()
            self._held[number] = current
        elif not self._held:
            self._refuse(current)

    def write(self, weights: Tensor) -> None:
        """Add the direction to ``.grad``, from what is held or by a backward pass for each chunk."""
        pieces = torch.split(weights, [self._sizes[number] for number in range(len(self._chunks))])
        for number, piece in enumerate(pieces):
            if len(self._held) == len(self._chunks):
                self._held[number].write(piece)
                continue
            losses = self._losses_of(number)
            torch.autograd.backward(losses, piece.view_as(losses).to(losses), inputs=self._targets)

    def _gradients(self, number: int) -> PerExampleGradients:
        found = self._engine.gradients(self._losses_of(number)).compacted()
        self._targets = list(found.parameters.values())
        return found

    def _losses_of(self, number: int) -> Tensor:
        """Compute the losses of a chunk, and raise if they are not those of the first time."""
        with self._random[number]:
            losses = self._compute_losses(self._chunks[number])
        if not isinstance(losses, Tensor):
            return losses  # for the engine to refuse
        first = self._first.setdefault(number, losses.detach().clone())
        self._sizes[number] = losses.numel()
        same = first.shape == losses.shape and torch.allclose(losses, first, rtol=1e-3, equal_nan=True)
        if not same:
            raise InvalidInputError(
                f"compute_losses gave losses of shape {tuple(losses.shape)} for chunk {number} that are not "
                f"those of its first call on it, {tuple(first.shape)}; it must give the same losses each time"
            )
        return losses

    def _has_room(self, current: PerExampleGradients, is_last: bool) -> bool:
        """Whether a chunk can be held beside the others, and beside one that passes if there is one left."""
        needed = sum(held.nbytes for held in self._held.values()) + current.nbytes
        return needed + (0 if is_last else current.nbytes) <= self._limit

    def _refuse(self, chunk: PerExampleGradients) -> None:
        raise InvalidInputError(
            f"the gradients of a chunk of {chunk.size} losses take {chunk.nbytes} bytes, and two chunks have "
            f"to fit into memory_limit={self._limit}: pass smaller chunks or a larger limit"
        )


class RandomState:
    """A block whose random numbers, of PyTorch, are the same every time that it is entered."""

    def __init__(self) -> None:
        self._first: tuple[Tensor, list[Tensor]] | None = None
        self._outside: tuple[Tensor, list[Tensor]] | None = None

    def __enter__(self) -> None:
        now = _random_state()
        if self._first is None:
            self._first = now
        else:
            self._outside = now
            _set_random_state(self._first)

    def __exit__(self, *exception: object) -> None:
        if self._outside is not None:
            _set_random_state(self._outside)


def _random_state() -> tuple[Tensor, list[Tensor]]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    return torch.get_rng_state(), cuda


def _set_random_state(state: tuple[Tensor, list[Tensor]]) -> None:
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])
