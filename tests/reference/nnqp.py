"""All minimisers of a small NNQP, by enumeration of the active sets in rational arithmetic."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from . import rational as ra
from .rational import ONE, ZERO, Matrix, Support, Vector

MAX_SIZE = 10


def checked_gramian(gramian: Iterable[Iterable[Any]]) -> Matrix:
    """Convert a Gramian and check it: square, symmetric, exactly PSD, small enough to enumerate."""
    converted = ra.matrix(gramian)
    if len(converted) > MAX_SIZE:
        raise ValueError(f"enumeration over 2**{len(converted)} supports takes too long")
    ra.check_psd(converted)
    return converted


def squared_distance(w: Iterable[Any], other: Iterable[Any], gramian: Iterable[Iterable[Any]]) -> Fraction:
    """Compute |J'(w - other)|**2."""
    difference = [a - b for a, b in zip(ra.vector(w), ra.vector(other), strict=True)]
    return ra.quadratic(ra.matrix(gramian), difference)


@dataclass(frozen=True)
class ExactSolution:
    """The set of all minimisers of 1/2 x'Gx + q'x over x >= 0, or a proof that there is none.

    Attributes
    ----------
    status : {"optimal", "infeasible"}
        Infeasible as in the library: the objective falls without bound.
    x : list of Fraction
        The minimiser with the fewest positive entries (empty if infeasible).
    slack : list of Fraction
        Gx + q, the same for every minimiser (empty if infeasible).
    ray : list of Fraction
        z >= 0 with Gz = 0 and q'z < 0, summing to one (empty if optimal).
    vertices, recession : list of list of Fraction
        The minimisers are the convex hull of the vertices plus the cone of the recession rays.
    """

    gramian: Matrix = field(repr=False)
    linear: Vector = field(repr=False)
    status: str
    x: Vector
    slack: Vector
    ray: Vector
    vertices: list[Vector] = field(repr=False)
    recession: list[Vector] = field(repr=False)

    @property
    def unique(self) -> bool:
        """Whether there is one minimiser only."""
        return len(self.vertices) == 1 and not self.recession

    @property
    def supports(self) -> frozenset[frozenset[int]]:
        """The sets {i : x_i > 0} of all minimisers x."""
        return _unions([_support(v) for v in self.vertices], [_support(r) for r in self.recession])

    def on_support(self, active: Iterable[Any]) -> Vector | None:
        """Solve G_SS x_S = -q_S for a boolean mask S, whatever its sign; None if singular."""
        support = [index for index, value in enumerate(active) if value]
        return _basic(self.gramian, self.linear, support)

    def squared_distance(self, x: Iterable[Any]) -> Fraction:
        """Compute (x - x*)'G(x - x*), the same for every minimiser x*."""
        return squared_distance(x, self.x, self.gramian)

    def nearest(self, x: Iterable[Any]) -> Vector:
        """Find the minimiser that is nearest to x in the Euclidean norm."""
        point, size = ra.vector(x), len(self.linear)
        best: tuple[Fraction, Vector] | None = None
        # The nearest point of a polyhedron is that of the affine hull of the face it lies on.
        for support in ra.supports(size):
            if any(self.slack[i] for i in support):
                continue
            found = _nearest_on_face(self.gramian, self.linear, support, point)
            if found is None or min(found, default=ZERO) < 0 or self._slack_at(found) != self.slack:
                continue
            distance = sum(((a - b) ** 2 for a, b in zip(found, point, strict=True)), ZERO)
            if best is None or distance < best[0]:
                best = distance, found
        assert best is not None
        return best[1]

    def weights_error(self, x: Iterable[Any]) -> float:
        """Compute max |x - x*| / max |x*| for the nearest minimiser x* (absolute if x* = 0)."""
        point = ra.vector(x)
        target = self.nearest(point)
        error = max(abs(a - b) for a, b in zip(point, target, strict=True))
        return float(error / (max(target) or ONE))

    def _slack_at(self, x: Vector) -> Vector:
        return [a + b for a, b in zip(ra.matvec(self.gramian, x), self.linear, strict=True)]


def _support(x: Sequence[Fraction]) -> frozenset[int]:
    return frozenset(index for index, value in enumerate(x) if value > 0)


def _unions(starts: list[frozenset[int]], others: list[frozenset[int]]) -> frozenset[frozenset[int]]:
    """Close a family of sets under union with each other and with the others."""
    found: set[frozenset[int]] = set(starts)
    grown = True
    while grown:
        more = {a | b for a in found for b in [*starts, *others]} - found
        found |= more
        grown = bool(more)
    return frozenset(found)


def _basic(gramian: Matrix, linear: Vector, support: Sequence[int]) -> Vector | None:
    """Solve the stationarity equations on a support; None if its block is singular."""
    values = ra.solve_nonsingular(ra.block(gramian, support, support), [-linear[i] for i in support])
    return None if values is None else ra.scatter(values, support, len(linear))


def _nearest_on_face(gramian: Matrix, linear: Vector, support: Support, point: Vector) -> Vector | None:
    """Find the solution of G_SS y = -q_S, y = 0 off S, that is nearest to a point."""
    if not support:
        return [ZERO] * len(linear)
    found = ra.affine_solutions(ra.block(gramian, support, support), [-linear[i] for i in support])
    if found is None:
        return None
    values, basis = found
    offset = [point[i] - value for i, value in zip(support, values, strict=True)]
    normal = [[ra.dot(a, b) for b in basis] for a in basis]
    steps = ra.solve_nonsingular(normal, [ra.dot(a, offset) for a in basis])
    assert steps is not None
    for step, null in zip(steps, basis, strict=True):
        values = [value + step * along for value, along in zip(values, null, strict=True)]
    return ra.scatter(values, support, len(linear))


def solve_nnqp(gramian: Iterable[Iterable[Any]], linear: Iterable[Any]) -> ExactSolution:
    """Minimise 1/2 x'Gx + q'x over x >= 0 exactly, by trying all 2**K supports.

    Every vertex of the set of minimisers has a nonsingular block G_SS, hence singular blocks need
    no candidates; they hold the null rays, which decide boundedness.

    Raises
    ------
    ValueError
        If ``gramian`` is not square, symmetric and exactly positive semidefinite.
    """
    g, q = checked_gramian(gramian), ra.vector(linear)
    rays = [ray for _, ray in ra.extreme_null_rays(g)]
    falling = next((ray for ray in rays if ra.dot(q, ray) < 0), None)
    if falling is not None:
        return ExactSolution(g, q, "infeasible", [], [], falling, [], [])
    vertices: list[Vector] = []
    slack: Vector = []
    for support in ra.supports(len(q)):
        x = _basic(g, q, support)
        if x is None or any(value < 0 for value in x) or x in vertices:
            continue
        s = [a + b for a, b in zip(ra.matvec(g, x), q, strict=True)]
        if all(value >= 0 for value in s):
            vertices.append(x)
            slack = s
    assert vertices, "a bounded convex QP has a basic minimiser"
    level = [ray for ray in rays if ra.dot(q, ray) == 0]
    return ExactSolution(g, q, "optimal", vertices[0], slack, [], vertices, level)
