"""How gradients may be related: one builder a structure, of small integers and powers of two.

Rows are elements of lists and factors are small positive integers, so that hypothesis shrinks by
leaving out rows and by making numbers smaller.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mojd._arrays import FloatArray
from mojd.properties._hypothesis import st

Draw = Callable[[Any], Any]

# Distances of 2⁻¹⁶ leave the squares of all entries room in 53 bits, also after scaling rows by
# integers up to 8.
_NEAR = 2.0**-16
_FRACTION_BITS = 16


class Shape(NamedTuple):
    """The bounds within which a structure draws."""

    rows: tuple[int, int]
    columns: tuple[int, int]
    largest: int


def _integers(draw: Draw, shape: Shape, least: int = 1) -> FloatArray:
    """Draw a matrix of small integers; rows are the elements of a list, so that they can be left out.

    Columns of zeros are, down to the least number: they change no Gramian, and only make an example longer.
    """
    n = draw(st.integers(*shape.columns))
    row = st.lists(st.integers(-shape.largest, shape.largest), min_size=n, max_size=n)
    low, high = max(least, shape.rows[0]), max(least, shape.rows[1])
    rows = np.array(draw(st.lists(row, min_size=low, max_size=high)), dtype=np.float64).reshape(-1, n)
    kept = np.any(rows != 0, axis=0)
    kept[: max(0, shape.columns[0] - int(kept[shape.columns[0] :].sum()))] = True
    return np.ascontiguousarray(rows[:, kept])


def _fill(draw: Draw, base: FloatArray, added: FloatArray, shape: Shape) -> FloatArray:
    """Append as many of `added` as fit, at least one where there is any room, and shuffle."""
    room = max(shape.rows[1] - len(base), 0)
    rows = np.concatenate([base, added[:room]]) if room else base
    order = draw(st.permutations(range(len(rows))))
    return np.ascontiguousarray(rows[list(order)])


def _generic(draw: Draw, shape: Shape) -> FloatArray:
    return _integers(draw, shape)


def _low_rank(draw: Draw, shape: Shape) -> FloatArray:
    """Combine fewer rows than there are objectives."""
    base = _integers(draw, shape._replace(rows=(1, max(1, shape.rows[1] // 2))))
    factors = st.lists(st.integers(-2, 2), min_size=len(base), max_size=len(base))
    count = max(shape.rows[1], 1)
    rows = draw(st.lists(factors, min_size=max(1, shape.rows[0]), max_size=count))
    return np.array(rows, dtype=np.float64) @ base


def _conflicting(draw: Draw, shape: Shape) -> FloatArray:
    """Every row opposes the first in a coordinate of its own."""
    rows = _integers(draw, shape, least=2)
    rows[0, 0] = abs(rows[0, 0]) + 1
    rows[1:, 0] = -np.abs(rows[1:, 0]) - 1
    return rows


def _duplicated(draw: Draw, shape: Shape) -> FloatArray:
    """Rows repeated, and multiplied by positive integers."""
    base = _integers(draw, shape._replace(rows=(1, max(1, shape.rows[1] // 2))))
    factors = draw(st.lists(st.integers(1, 3), min_size=len(base), max_size=len(base)))
    return _fill(draw, base, base * np.array(factors, dtype=np.float64)[:, None], shape)


def _opposite(draw: Draw, shape: Shape) -> FloatArray:
    """Rows beside their opposites."""
    base = _integers(draw, shape._replace(rows=(1, max(1, shape.rows[1] // 2))))
    factors = draw(st.lists(st.integers(1, 3), min_size=len(base), max_size=len(base)))
    return _fill(draw, base, -base * np.array(factors, dtype=np.float64)[:, None], shape)


def _near(sign: float) -> Callable[[Draw, Shape], FloatArray]:
    """Add one row that all but equals a multiple of the first; two would be beyond float64 in places."""

    def build(draw: Draw, shape: Shape) -> FloatArray:
        base = _integers(draw, shape._replace(rows=(1, max(1, shape.rows[1] - 1)), largest=3))
        n = base.shape[1]
        offset = draw(st.lists(st.integers(-2, 2), min_size=n, max_size=n))
        return _fill(draw, base, sign * base[:1] + _NEAR * np.array(offset, dtype=np.float64), shape)

    return build


def _zero_rows(draw: Draw, shape: Shape) -> FloatArray:
    rows = _integers(draw, shape)
    keep = draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    return rows * np.array(keep, dtype=np.float64)[:, None]


def _strongly_stationary(draw: Draw, shape: Shape) -> FloatArray:
    """Rows whose sum, with positive integers for weights, is 0."""
    base = _integers(draw, shape._replace(rows=(1, max(1, shape.rows[1] - 1))))
    alpha = np.array(draw(st.lists(st.integers(1, 3), min_size=len(base), max_size=len(base))), dtype=float)
    return _fill(draw, base, -(alpha @ base)[None], shape)


def _weakly_stationary(draw: Draw, shape: Shape) -> FloatArray:
    """Let some rows cancel, and leave others over."""
    cancelling = _strongly_stationary(draw, shape._replace(rows=(1, max(2, shape.rows[1] - 1))))
    room = max(shape.rows[1] - len(cancelling), 0)
    n = cancelling.shape[1]
    row = st.lists(st.integers(-shape.largest, shape.largest), min_size=n, max_size=n)
    others = np.array(draw(st.lists(row, min_size=min(1, room), max_size=room)), dtype=float)
    return np.concatenate([cancelling, others.reshape(-1, n)])


def _row_scales(draw: Draw, shape: Shape) -> FloatArray:
    """Norms that differ by up to 2²⁰."""
    rows = _integers(draw, shape)
    exponents = draw(st.lists(st.integers(-10, 10), min_size=len(rows), max_size=len(rows)))
    return rows * 2.0 ** np.array(exponents)[:, None]


def _ill_conditioned(draw: Draw, shape: Shape) -> FloatArray:
    """Parameters whose influence differs by up to 2¹²."""
    rows = _integers(draw, shape)
    exponents = draw(st.lists(st.integers(-12, 0), min_size=rows.shape[1], max_size=rows.shape[1]))
    return rows * 2.0 ** np.array(exponents)


def _tiny_or_huge(draw: Draw, shape: Shape) -> FloatArray:
    """All entries far from 1."""
    factor: float = 2.0 ** draw(st.sampled_from([-200, -40, 40, 200]))
    return _integers(draw, shape) * factor


def _gaussian(draw: Draw, shape: Shape) -> FloatArray:
    """Draw normal numbers, rounded so that products stay exact."""
    K, n = draw(st.integers(*shape.rows)), draw(st.integers(*shape.columns))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    return np.round(rng.standard_normal((K, n)) * 2.0**_FRACTION_BITS) / 2.0**_FRACTION_BITS


BUILDERS: dict[str, Callable[[Draw, Shape], FloatArray]] = {
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
