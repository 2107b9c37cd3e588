"""Per-example gradients of all parameters, of one batch or of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mojd.errors import InvalidInputError
from mojd.torch.examples.factors import Factor, compacted, products
from mojd.torch.examples.products import InnerProducts


class PerExampleGradients:
    """The gradients of the losses of one batch, held parameter by parameter in factored form.

    Made by :meth:`mojd.torch.Engine.gradients`. Nothing in it refers to the graph of the losses.

    Parameters
    ----------
    size : int
        N, the number of losses: K examples, or K·tasks with loss (k, m) at k·tasks + m.
    parameters : mapping
        All trainable parameters by name.
    factors : mapping
        The gradients of those that the losses depend on. Their tensors may be the engine's memory, which it
        uses again when there is no reference to the factor any more.
    """

    def __init__(
        self, size: int, parameters: Mapping[str, nn.Parameter], factors: Mapping[str, Factor]
    ) -> None:
        self.size = size
        self.parameters = parameters
        self.factors = factors
        # Factors are views of what autograd has saved: inputs of layers, which their owner may overwrite.
        tensors = (tensor for factor in factors.values() for tensor in factor.tensors)
        self._versions = [(tensor, tensor._version) for tensor in tensors if not tensor.is_inference()]

    def __repr__(self) -> str:
        """Show the sizes, not the numbers."""
        return (
            f"PerExampleGradients(losses={self.size}, "
            f"parameters={len(self.factors)} of {len(self.parameters)}, {self.nbytes / 2**20:.1f} MiB)"
        )

    @property
    def nbytes(self) -> int:
        """How much memory the factors take, in bytes."""
        storages = (t.untyped_storage() for factor in self.factors.values() for t in factor.tensors)
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

    def compacted(self) -> PerExampleGradients:
        """Return the same gradients without hold on larger tensors that they are parts of."""
        factors = {name: compacted(factor) for name, factor in self.factors.items()}
        return PerExampleGradients(self.size, self.parameters, factors)

    def empty_gramian(self, others: int) -> Tensor:
        """Return zeros (N, others), in double precision if any parameter is, and in single otherwise."""
        wide = any(parameter.dtype == torch.float64 for parameter in self.parameters.values())
        device = next(iter(self.parameters.values())).device
        return torch.zeros((self.size, others), dtype=torch.float64 if wide else torch.float32, device=device)

    def gramian(self) -> Tensor:
        """Compute the Gramian G = J Jᵀ.

        Returns
        -------
        Tensor, shape (N, N)
            float64 if any parameter is, float32 otherwise.
        """
        self._check_versions()
        total = self.empty_gramian(self.size)
        known = InnerProducts()
        with torch.autocast(total.device.type, enabled=False):
            for factor in self.factors.values():
                total += factor.gramian(known)
        # Products in blocks need not round alike on both sides of the diagonal.
        return 0.5 * (total + total.T)

    def times(self, other: PerExampleGradients) -> Tensor:
        """Compute the inner products of these gradients with others of the same parameters.

        Returns
        -------
        Tensor, shape (N, M)
        """
        self._check_versions()
        other._check_versions()
        total = self.empty_gramian(other.size)
        with torch.autocast(total.device.type, enabled=False):
            for name, factor in self.factors.items():
                if name in other.factors:
                    total += products(factor, other.factors[name])
        return total

    def weighted(self, weights: Tensor) -> dict[str, Tensor]:
        """Compute d = Jᵀw, parameter by parameter.

        Parameters
        ----------
        weights : Tensor, shape (N,)

        Returns
        -------
        dict
            The gradients by the names of the parameters; without those that no loss depends on.

        Raises
        ------
        InvalidInputError
            If the shape of `weights` does not fit.
        """
        if weights.shape != (self.size,):
            raise InvalidInputError(
                f"weights must have shape ({self.size},), one per loss, got {tuple(weights.shape)}"
            )
        self._check_versions()
        with torch.autocast(weights.device.type, enabled=False):
            return {
                name: factor.weighted(weights).to(self.parameters[name])
                for name, factor in self.factors.items()
            }

    def _check_versions(self) -> None:
        for tensor, version in self._versions:
            if tensor._version != version:
                raise InvalidInputError(
                    f"a tensor of shape {tuple(tensor.shape)} from which per-example gradients are computed, "
                    "such as the input of a layer, was changed in place after the forward pass: give the "
                    "model a copy, or use the gradients before"
                )

    def write(self, weights: Tensor) -> None:
        """Add d = Jᵀw to the ``.grad`` of the parameters.

        Parameters
        ----------
        weights : Tensor, shape (N,)
        """
        add_to_grads(self.parameters, self.weighted(weights))


class JointGradients:
    """The gradients of the losses of several batches.

    Parameters
    ----------
    parts : sequence of PerExampleGradients
        Of the same parameters.
    """

    def __init__(self, parts: Sequence[PerExampleGradients]) -> None:
        self.parts = parts

    def gramian(self) -> Tensor:
        """Compute the Gramian of all losses, from the products of each two parts."""
        return assemble(
            [part.size for part in self.parts],
            {
                (i, j): part.gramian() if i == j else part.times(self.parts[j])
                for i, part in enumerate(self.parts)
                for j in range(i + 1)
            },
        )

    def weighted(self, weights: Tensor) -> dict[str, Tensor]:
        """Compute d = Jᵀw, parameter by parameter."""
        total: dict[str, Tensor] = {}
        pieces = torch.split(weights, [part.size for part in self.parts])
        for part, piece in zip(self.parts, pieces, strict=True):
            for name, gradient in part.weighted(piece).items():
                total[name] = total[name] + gradient if name in total else gradient
        return total

    def write(self, weights: Tensor) -> None:
        """Add d = Jᵀw to the ``.grad`` of the parameters."""
        # A layer may have been frozen or set free between two of them.
        parameters = {name: p for part in self.parts for name, p in part.parameters.items()}
        add_to_grads(parameters, self.weighted(weights))


def assemble(sizes: Sequence[int], blocks: Mapping[tuple[int, int], Tensor]) -> Tensor:
    """Return a symmetric matrix from its blocks (i, j), j ≤ i."""
    rows = []
    for i in range(len(sizes)):
        row = [blocks[i, j] if j <= i else blocks[j, i].T for j in range(len(sizes))]
        rows.append(torch.cat(row, dim=1))
    return torch.cat(rows)


def add_to_grads(parameters: Mapping[str, nn.Parameter], gradients: Mapping[str, Tensor]) -> None:
    """Add gradients to ``.grad``, as ``backward()`` does."""
    for name, gradient in gradients.items():
        parameter = parameters[name]
        if parameter.grad is not None:
            parameter.grad += gradient
        elif gradient.stride() == parameter.stride():
            parameter.grad = gradient
        else:  # channels last, for one
            parameter.grad = torch.empty_like(parameter, requires_grad=False).copy_(gradient)
