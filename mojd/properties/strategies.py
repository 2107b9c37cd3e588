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

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mojd._arrays import FloatArray
from mojd.errors import InvalidInputError, MissingDependencyError

try:
    from hypothesis import strategies as st
except ModuleNotFoundError as error:
    raise MissingDependencyError(
        "the checks of properties need hypothesis: pip install 'mojd[check]'"
    ) from error

Draw = Callable[[Any], Any]
Range = int | tuple[int, int]

# Distances of 2⁻¹⁶ leave the squares of all entries room in 53 bits, also after scaling rows by
# integers up to 8.
_NEAR = 2.0**-16
_FRACTION_BITS = 16


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


class _Shape(NamedTuple):
    """The bounds within which a structure draws."""

    rows: tuple[int, int]
    columns: tuple[int, int]
    largest: int


def _integers(draw: Draw, shape: _Shape, least: int = 1) -> FloatArray:
    """Draw a matrix of small integers; rows are the elements of a list, so that they can be left out."""
    n = draw(st.integers(*shape.columns))
    row = st.lists(st.integers(-shape.largest, shape.largest), min_size=n, max_size=n)
    low, high = max(least, shape.rows[0]), max(least, shape.rows[1])
    return np.array(draw(st.lists(row, min_size=low, max_size=high)), dtype=np.float64).reshape(-1, n)


def _fill(draw: Draw, base: FloatArray, added: FloatArray, shape: _Shape) -> FloatArray:
    """Append as many of `added` as fit, at least one where there is any room, and shuffle."""
    room = max(shape.rows[1] - len(base), 0)
    rows = np.concatenate([base, added[:room]]) if room else base
    order = draw(st.permutations(range(len(rows))))
    return np.ascontiguousarray(rows[list(order)])


def _generic(draw: Draw, shape: _Shape) -> FloatArray:
    return _integers(draw, shape)


def _low_rank(draw: Draw, shape: _Shape) -> FloatArray:
    """Combine fewer rows than there are objectives."""
    base = _integers(draw, shape._replace(rows=(1, max(1, shape.rows[1] // 2))))
    factors = st.lists(st.integers(-2, 2), min_size=len(base), max_size=len(base))
    count = max(shape.rows[1], 1)
    rows = draw(st.lists(factors, min_size=max(1, shape.rows[0]), max_size=count))
    return np.array(rows, dtype=np.float64) @ base


def _conflicting(draw: Draw, shape: _Shape) -> FloatArray:
    """Every row opposes the first in a coordinate of its own."""
    rows = _integers(draw, shape, least=2)
    rows[0, 0] = abs(rows[0, 0]) + 1
    rows[1:, 0] = -np.abs(rows[1:, 0]) - 1
    return rows


def _duplicated(draw: Draw, shape: _Shape) -> FloatArray:
    """Rows repeated, and multiplied by positive integers."""
    base = _integers(draw, shape._replace(rows=(1, max(1, shape.rows[1] // 2))))
    factors = draw(st.lists(st.integers(1, 3), min_size=len(base), max_size=len(base)))
    return _fill(draw, base, base * np.array(factors, dtype=np.float64)[:, None], shape)


def _opposite(draw: Draw, shape: _Shape) -> FloatArray:
    """Rows beside their opposites."""
    base = _integers(draw, shape._replace(rows=(1, max(1, shape.rows[1] // 2))))
    factors = draw(st.lists(st.integers(1, 3), min_size=len(base), max_size=len(base)))
    return _fill(draw, base, -base * np.array(factors, dtype=np.float64)[:, None], shape)


def _near(sign: float) -> Callable[[Draw, _Shape], FloatArray]:
    """Add one row that all but equals a multiple of the first; two would be beyond float64 in places."""

    def build(draw: Draw, shape: _Shape) -> FloatArray:
        base = _integers(draw, shape._replace(rows=(1, max(1, shape.rows[1] - 1)), largest=3))
        n = base.shape[1]
        offset = draw(st.lists(st.integers(-2, 2), min_size=n, max_size=n))
        return _fill(draw, base, sign * base[:1] + _NEAR * np.array(offset, dtype=np.float64), shape)

    return build


def _zero_rows(draw: Draw, shape: _Shape) -> FloatArray:
    rows = _integers(draw, shape)
    keep = draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    return rows * np.array(keep, dtype=np.float64)[:, None]


def _strongly_stationary(draw: Draw, shape: _Shape) -> FloatArray:
    """Rows whose sum, with positive integers for weights, is 0."""
    base = _integers(draw, shape._replace(rows=(1, max(1, shape.rows[1] - 1))))
    alpha = np.array(draw(st.lists(st.integers(1, 3), min_size=len(base), max_size=len(base))), dtype=float)
    return _fill(draw, base, -(alpha @ base)[None], shape)


def _weakly_stationary(draw: Draw, shape: _Shape) -> FloatArray:
    """Let some rows cancel, and leave others over."""
    cancelling = _strongly_stationary(draw, shape._replace(rows=(1, max(2, shape.rows[1] - 1))))
    room = max(shape.rows[1] - len(cancelling), 0)
    n = cancelling.shape[1]
    row = st.lists(st.integers(-shape.largest, shape.largest), min_size=n, max_size=n)
    others = np.array(draw(st.lists(row, min_size=min(1, room), max_size=room)), dtype=float)
    return np.concatenate([cancelling, others.reshape(-1, n)])


def _row_scales(draw: Draw, shape: _Shape) -> FloatArray:
    """Norms that differ by up to 2²⁰."""
    rows = _integers(draw, shape)
    exponents = draw(st.lists(st.integers(-10, 10), min_size=len(rows), max_size=len(rows)))
    return rows * 2.0 ** np.array(exponents)[:, None]


def _ill_conditioned(draw: Draw, shape: _Shape) -> FloatArray:
    """Parameters whose influence differs by up to 2¹²."""
    rows = _integers(draw, shape)
    exponents = draw(st.lists(st.integers(-12, 0), min_size=rows.shape[1], max_size=rows.shape[1]))
    return rows * 2.0 ** np.array(exponents)


def _tiny_or_huge(draw: Draw, shape: _Shape) -> FloatArray:
    """All entries far from 1."""
    factor: float = 2.0 ** draw(st.sampled_from([-200, -40, 40, 200]))
    return _integers(draw, shape) * factor


def _gaussian(draw: Draw, shape: _Shape) -> FloatArray:
    """Draw normal numbers, rounded so that products stay exact."""
    K, n = draw(st.integers(*shape.rows)), draw(st.integers(*shape.columns))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    return np.round(rng.standard_normal((K, n)) * 2.0**_FRACTION_BITS) / 2.0**_FRACTION_BITS


_BUILDERS: dict[str, Callable[[Draw, _Shape], FloatArray]] = {
    "integers": _generic,
    "conflicting": _conflicting,
    "low_rank": _low_rank,
    "duplicated": _duplicated,
    "opposite": _opposite,
    "nearly_parallel": _near(1.0),
    "nearly_opposite": _near(-1.0),
    "zero_rows": _zero_rows,
    "strongly_stationary": _strongly_stationary,
    "weakly_stationary": _weakly_stationary,
    "row_scales": _row_scales,
    "ill_conditioned": _ill_conditioned,
    "tiny_or_huge": _tiny_or_huge,
    "gaussian": _gaussian,
}

STRUCTURES: tuple[str, ...] = tuple(_BUILDERS)
"""The names of all structures, from plain to hard."""

ADVERSARIAL: tuple[str, ...] = tuple(
    name for name in STRUCTURES if name not in ("integers", "conflicting", "gaussian")
)
"""Those on which gradients depend on each other, vanish, cancel, or differ by orders of magnitude."""


def _range(value: Range, name: str) -> tuple[int, int]:
    low, high = (value, value) if isinstance(value, int) else value
    if not 1 <= low <= high:
        raise InvalidInputError(f"{name} must be a positive integer or a pair (least, most), got {value!r}")
    return low, high


def _names(structures: Sequence[str] | str) -> tuple[str, ...]:
    names = (structures,) if isinstance(structures, str) else tuple(structures)
    for name in names:
        if name not in _BUILDERS:
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
    shape = _Shape(_range(k, "k"), _range(n, "n"), largest)
    names = _names(structures)
    if largest < 1 or largest > 8:
        raise InvalidInputError(f"largest must lie between 1 and 8, or products round; got {largest}")

    @st.composite
    def build(draw: Draw) -> Example:
        name = draw(st.sampled_from(names))
        jacobian = _BUILDERS[name](draw, shape)
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
    structures: Sequence[str] | str = STRUCTURES,
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
        Of :data:`STRUCTURES`; by default all.
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
