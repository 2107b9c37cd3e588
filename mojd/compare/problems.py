"""The problems of a comparison: named Gramians, checked and put into groups of one size."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mojd._arrays import precision_of, to_float64
from mojd._checks import check_gramian_values
from mojd.compare.recording import PCD_PREFIX
from mojd.errors import InvalidInputError
from mojd.weightings import QuadraticWeighting

FloatArray = NDArray[np.floating[Any]]
By = Literal["k", "name"]


@dataclass(frozen=True, slots=True)
class Group:
    """Hold Gramians of one size that are compared together.

    Attributes
    ----------
    name : str
        What the table calls it.
    gramians : tuple of floating-point arrays, shape (K, K)
        At least one Gramian. They keep their dtypes, which say how exact they are.
    labels : tuple of str
        Where each of them is from.
    """

    name: str
    gramians: tuple[FloatArray, ...]
    labels: tuple[str, ...]

    @property
    def size(self) -> int:
        """The number of objectives K."""
        return len(self.gramians[0])


def random_gramians(sizes: Iterable[int], count: int = 5, seed: int = 0) -> dict[str, FloatArray]:
    """Draw Gramians of Gaussian Jacobians with n = 2K parameters.

    Parameters
    ----------
    sizes : iterable of int
        The numbers of objectives K, each at least 1.
    count : int, optional
        How many Gramians of each size, at least 1.
    seed : int, optional
        The seed; each size draws its own stream, whatever the other sizes are.

    Returns
    -------
    dict of str to float64 array, shape (count, K, K)
        One group per size.

    Raises
    ------
    InvalidInputError
        If a size or the count is below 1.

    Examples
    --------
    >>> {name: gramians.shape for name, gramians in random_gramians([2, 8], count=3).items()}
    {'random-k2': (3, 2, 2), 'random-k8': (3, 8, 8)}
    """
    if count < 1:
        raise InvalidInputError(f"count={count} must be at least 1")
    groups: dict[str, FloatArray] = {}
    for size in sizes:
        if size < 1:
            raise InvalidInputError(f"sizes has {size}: the number of objectives K must be at least 1")
        jacobians = np.random.default_rng([seed, size]).standard_normal((count, size, 2 * size))
        groups[f"random-k{size}"] = jacobians @ jacobians.mT
    return groups


def make_groups(gramians: Mapping[str, Any], method: QuadraticWeighting, by: By = "k") -> list[Group]:
    """Check named Gramians, choose those that suit a method, and group them, smallest K first.

    Parameters
    ----------
    gramians : mapping of str to array, shape (N, K, K) or (K, K)
        Gramians by name. Those named ``pcd-…`` have the primary objective in row 0: PCD takes only
        them, and all other methods only the rest, unless that leaves nothing.
    method : QuadraticWeighting
        The weighting.
    by : {'k', 'name'}, optional
        Whether all Gramians of one size make one group, or those of one name.

    Returns
    -------
    list of Group
        At least one.

    Raises
    ------
    InvalidInputError
        If there is no Gramian at all, or a name doesn't hold Gramians that the method takes.
    """
    names = [name for name in gramians if name.startswith(PCD_PREFIX) == (method.name == "pcd")] or list(
        gramians
    )
    groups = sorted(
        (_make_group(name, gramians[name], method) for name in names), key=lambda group: group.size
    )
    if not groups:
        raise InvalidInputError("gramians is empty: give at least one named array of shape (N, K, K)")
    return (
        groups
        if by == "name"
        else [_merge(same) for _, same in itertools.groupby(groups, lambda group: group.size)]
    )


def _merge(groups: Iterable[Group]) -> Group:
    """Put groups of one size together."""
    merged = list(groups)
    return Group(
        f"K = {merged[0].size}",
        tuple(gramian for group in merged for gramian in group.gramians),
        tuple(label for group in merged for label in group.labels),
    )


def _make_group(name: str, values: Any, method: QuadraticWeighting) -> Group:
    """Check what is given under one name."""
    try:
        stack = np.asarray(values)
        if stack.dtype.kind != "f":
            stack = stack.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"gramians[{name!r}] is not an array of real numbers: {error}") from None
    if stack.ndim == 2:
        stack = stack[None]
    if stack.ndim != 3 or stack.shape[1] != stack.shape[2] or stack.size == 0:
        raise InvalidInputError(
            f"gramians[{name!r}] has shape {np.shape(values)}; expected (N, K, K), or (K, K) for one Gramian"
        )
    labels = tuple(f"{name}[{index}]" for index in range(len(stack)))
    for label, gramian in zip(labels, stack, strict=True):
        if not np.isfinite(gramian).all():
            raise InvalidInputError(f"gramian {label} holds NaN or infinity; leave it out of the comparison")
        check_gramian_values(to_float64(gramian), f"gramian {label}", *precision_of(gramian))
        try:
            method.problem(gramian)
        except InvalidInputError as error:
            raise InvalidInputError(f"gramian {label} is not for {method.name}: {error}") from None
    return Group(name, tuple(stack), labels)
