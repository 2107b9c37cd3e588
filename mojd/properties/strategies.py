r"""Hypothesis strategies for the inputs of multi-objective methods, which shrink to readable numbers.

All Jacobians are built from small integers and powers of two, with so few bits that their Gramians
hold without a rounding error in float64: dependencies between gradients are exact, and what a check
finds is the fault of the method and not of J @ J.T. They shrink to few rows, few columns and entries
like 0, 1 and -1.

Structures are the ways in which gradients are related. The adversarial ones are those on which
solvers and methods go wrong.

Examples
--------
>>> from hypothesis import given
>>> import mojd
>>> from mojd.properties.strategies import jacobians
>>> @given(jacobians(k=(2, 5)))
... def test_upgrad_opposes_no_gradient(J):
...     G = J @ J.T
...     w = mojd.upgrad(G)
...     assert mojd.properties.conflict(G, w) <= 1e-12
>>> test_upgrad_opposes_no_gradient()
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mojd._arrays import FloatArray
from mojd.errors import InvalidInputError, InvalidTypeError
from mojd.properties._hypothesis import st
from mojd.properties._ranges import Range, pair_of
from mojd.properties._structures import BUILDERS, Draw, Shape


class Example(NamedTuple):
    """A Jacobian and how it came about.

    Attributes
    ----------
    jacobian : float64 array, shape (K, n)
    structure : str
        One of :data:`STRUCTURES`.
    """

    jacobian: FloatArray
    structure: str


STRUCTURES: tuple[str, ...] = tuple(BUILDERS)
"""The names of all structures, from plain to hard."""

SHRINKING: tuple[str, ...] = tuple(name for name in STRUCTURES if name != "gaussian")
"""Those that are made of small integers, and shrink to them."""

ADVERSARIAL: tuple[str, ...] = tuple(
    name for name in STRUCTURES if name not in ("integers", "conflicting", "gaussian")
)
"""Those on which gradients depend on each other, vanish, cancel, or differ by orders of magnitude."""


def _range(value: Range, name: str) -> tuple[int, int]:
    message = f"{name} must be a positive integer or a pair (least, most), got {value!r}"
    bounds = pair_of(value)
    if bounds is None:
        raise InvalidTypeError(message)
    low, high = bounds
    if not 1 <= low <= high:
        raise InvalidInputError(message)
    return low, high


def _names(structures: Sequence[str] | str) -> tuple[str, ...]:
    names = (structures,) if isinstance(structures, str) else tuple(structures)
    for name in names:
        if name not in BUILDERS:
            raise InvalidInputError(f"structure {name!r} is not known; choose from: {', '.join(STRUCTURES)}")
    if not names:
        raise InvalidInputError("structures is empty: name at least one")
    return names


def examples(
    k: Range = (1, 6), n: Range = (1, 6), *, structures: Sequence[str] | str = STRUCTURES, largest: int = 4
) -> st.SearchStrategy[Example]:
    """Draw Jacobians together with the name of their structure.

    Parameters
    ----------
    k, n, structures, largest
        As for :func:`jacobians`.

    Returns
    -------
    hypothesis strategy of Example
    """
    shape = Shape(_range(k, "k"), _range(n, "n"), largest)
    names = _names(structures)
    if largest < 1 or largest > 8:
        raise InvalidInputError(f"largest must lie between 1 and 8, or products round; got {largest}")

    @st.composite
    def build(draw: Draw) -> Example:
        name = draw(st.sampled_from(names))
        jacobian = BUILDERS[name](draw, shape)
        missing = shape.rows[0] - len(jacobian)
        if missing > 0:
            jacobian = np.concatenate([jacobian, jacobian[:1].repeat(missing, axis=0)])
        return Example(jacobian[: shape.rows[1]], name)

    return build()


@st.composite
def _with_rank(draw: Draw, k: Range, n: Range, largest: int, rank: int) -> FloatArray:
    """Multiply factors with an identity in each, which makes the rank exactly that."""
    rows, columns = draw(st.integers(*_range(k, "k"))), draw(st.integers(*_range(n, "n")))
    small, entry = st.integers(-2, 2), st.integers(-largest, largest)
    left = draw(st.lists(small, min_size=(rows - rank) * rank, max_size=(rows - rank) * rank))
    right = draw(st.lists(entry, min_size=rank * (columns - rank), max_size=rank * (columns - rank)))
    lower = np.concatenate([np.eye(rank), np.array(left, dtype=float).reshape(rows - rank, rank)])
    upper = np.concatenate([np.eye(rank), np.array(right, dtype=float).reshape(rank, columns - rank)], axis=1)
    product: FloatArray = lower @ upper
    return product


def jacobians(
    k: Range = (1, 6),
    n: Range = (1, 6),
    *,
    structures: Sequence[str] | str = SHRINKING,
    largest: int = 4,
    rank: int | None = None,
    condition: float = 1.0,
    row_spread: float = 1.0,
    dtype: str = "float64",
) -> st.SearchStrategy[FloatArray]:
    """Draw Jacobians (K, n).

    Parameters
    ----------
    k, n : int or (int, int), default (1, 6)
        How many rows and columns, or the least and the most.
    structures : str or sequence of str
        Of :data:`STRUCTURES`; by default all but Gaussian matrices, which do not shrink.
    largest : int, default 4
        The largest absolute value of the integers that all is made of, at most 8.
    rank : int, optional
        Exactly this rank, instead of a structure.
    condition : float, default 1
        Columns are multiplied by powers of two that differ by up to this factor.
    row_spread : float, default 1
        Rows are multiplied by powers of two that differ by up to this factor.
    dtype : {'float64', 'float32'}
        With float32, entries are exact but products may round.

    Returns
    -------
    hypothesis strategy of arrays (K, n)

    Raises
    ------
    InvalidInputError
        If a bound can't be met.

    Examples
    --------
    >>> from hypothesis import find
    >>> from mojd.properties.strategies import jacobians
    >>> find(jacobians(k=2), lambda J: (J @ J.T)[0, 1] < 0)
    array([[ 1.],
           [-1.]])
    """
    for name, factor in (("condition", condition), ("row_spread", row_spread)):
        if not factor >= 1:
            raise InvalidInputError(f"{name} must be 1 or more, got {factor!r}")
    # What can't be met is an error here, and not where the first example is drawn.
    plain = examples(k, n, structures=structures, largest=largest)
    least = min(_range(k, "k")[0], _range(n, "n")[0])
    if rank is not None and not 1 <= rank <= least:
        raise InvalidInputError(f"rank={rank} is more than every Jacobian with k={k!r} and n={n!r} can have")
    if dtype not in ("float64", "float32"):
        raise InvalidInputError(f"dtype must be 'float64' or 'float32', got {dtype!r}")

    @st.composite
    def build(draw: Draw) -> FloatArray:
        jacobian = draw(plain).jacobian if rank is None else draw(_with_rank(k, n, largest, rank))
        for axis, factor in ((1, condition), (0, row_spread)):
            if factor > 1:
                size = jacobian.shape[axis]
                bits = st.integers(0, int(np.log2(factor)))
                exponents = np.array(draw(st.lists(bits, min_size=size, max_size=size)), dtype=float)
                jacobian = jacobian * np.expand_dims(2.0**-exponents, 1 - axis)
        return np.asarray(jacobian, dtype=dtype)

    return build()


def gramians(
    k: Range = (1, 6), n: Range = (1, 6), *, dtype: str = "float64", **options: Any
) -> st.SearchStrategy[FloatArray]:
    """Draw Gramians (K, K) of the Jacobians that :func:`jacobians` draws.

    Parameters
    ----------
    k, n, **options
        As for :func:`jacobians`.
    dtype : {'float64', 'float32'}
        What the exact Gramian is rounded to.

    Returns
    -------
    hypothesis strategy of arrays (K, K)

    Examples
    --------
    >>> from hypothesis import find
    >>> from mojd.properties.strategies import gramians
    >>> find(gramians(k=2), lambda G: G[0, 1] < 0)
    array([[ 1., -1.],
           [-1.,  1.]])
    """
    return jacobians(k, n, **options).map(lambda jacobian: np.asarray(jacobian @ jacobian.T, dtype=dtype))


def pref_vectors(k: int, *, positive: bool = True, largest: int = 4) -> st.SearchStrategy[FloatArray]:
    """Draw preferences (K,): small integers, or their ratios to a power of two.

    Parameters
    ----------
    k : int
        K.
    positive : bool, default True
        Whether no preference may be 0.
    largest : int, default 4
        The largest one.

    Returns
    -------
    hypothesis strategy of arrays (K,)
    """
    if k < 1 or largest < 1:
        raise InvalidInputError(f"k and largest must be positive, got k={k!r}, largest={largest!r}")
    entry = st.integers(int(positive), largest)
    return st.lists(entry, min_size=k, max_size=k).map(lambda values: np.array(values, dtype=np.float64))


def taus(*, positive: bool = False) -> st.SearchStrategy[float]:
    """Draw values of PCD's τ in [0, 1]: simple fractions with exact products.

    Parameters
    ----------
    positive : bool, default False
        Whether to leave 0 out.

    Returns
    -------
    hypothesis strategy of float
    """
    values = [1.0, 0.5, 0.25, 0.75, 0.125, 2.0**-6, 2.0**-10]
    return st.sampled_from(values if positive else [0.0, *values])


def row_factors(k: int, *, largest: int = 4) -> st.SearchStrategy[FloatArray]:
    """Draw positive factors (K,) for the rows of a Jacobian: small integers.

    Parameters
    ----------
    k : int
        K.
    largest : int, default 4
        The largest one.

    Returns
    -------
    hypothesis strategy of arrays (K,)
    """
    return pref_vectors(k, largest=largest)
