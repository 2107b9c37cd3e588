"""The search behind CAGrad: the best worst-case progress in a ball around the mean gradient.

The point nearest to the mean gradient that makes progress λ on every objective is the solution of an NNQP.
Its distance grows with λ, and λ is sought for which that is the radius.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from mojd._arrays import Array, precision_of
from mojd.certificates import power_of_two
from mojd.qp import NNQP
from mojd.status import Status
from mojd.weightings._loops import iterate, with_derivative
from mojd.weightings._shared import View, solved

# Each round costs two solves. The families of the tests need up to eight rounds.
ROUNDS = 40
EPS = 2.0**-52


class Ball(NamedTuple):
    """A Gramian in units in which its longest gradient has a norm near 1, with its mean and the radius.

    Attributes
    ----------
    view : View
        The scaled Gramian, and what dtype it came in.
    products : float64 array, shape (..., K)
        gᵢ·g₀, 0 where rounding explains it.
    length, radius : float64 arrays, shape (...)
        ‖g₀‖ and c·‖g₀‖.
    norms : float64 array, shape (..., K)
        ‖gᵢ‖.
    """

    view: View
    products: Array
    length: Array
    radius: Array
    norms: Array


class Point(NamedTuple):
    """The point g₀ + Jᵀy with progress λ on every objective that is nearest to g₀.

    Attributes
    ----------
    level : float64 array, shape (...)
        λ.
    y : float64 array, shape (..., K)
        y ≥ 0; zeros where there is no such point.
    slack : float64 array, shape (..., K)
        What progress there is beyond λ.
    feasible : bool array, shape (...)
        Whether there is such a point.
    """

    level: Array
    y: Array
    slack: Array
    feasible: Array


def ball_around_mean(matrix: View, c: float) -> Ball:
    xp = matrix.xp
    unit = power_of_two(xp, xp.max(xp.linalg.diagonal(matrix.values), axis=-1))
    values = matrix.values / unit[..., None, None]
    sums, sizes = xp.sum(values, axis=-1), xp.sum(abs(values), axis=-1)
    noise = (matrix.size + 2) * EPS * sizes
    products = xp.where(abs(sums) <= noise, xp.zeros_like(sums), sums) / matrix.size
    square = xp.sum(products, axis=-1) / matrix.size
    noise = (matrix.size + 2) * EPS * xp.sum(sizes, axis=-1) / matrix.size**2
    length = xp.sqrt(xp.where(square > noise, square, xp.zeros_like(square)))
    norms = xp.sqrt(xp.linalg.diagonal(values))
    return Ball(View(matrix.original, values, xp), products, length, c * length, norms)


def _dot(xp: Any, first: Array, second: Array) -> Array:
    return xp.sum(first * second, axis=-1)


def _nearest(ball: Ball, level: Array) -> Point:
    """Solve NNQP(G, Jg₀ - λ·1), whose minimiser is the y of the nearest point."""
    xp, values = ball.view.xp, ball.view.values
    linear = ball.products - level[..., None]
    # ‖Jᵀy‖ ≤ ‖g₀‖ for λ ≤ 0, as d = 0 would do, so that beyond this limit a constraint is idle. It keeps
    # short gradients, for which λ is far away, from drowning the others in the solver's tolerance.
    idle = 2.0 * ball.norms * ball.length[..., None]
    problem = NNQP(values, xp.where((linear > idle) & (idle > 0), idle, linear))
    problem.precision = precision_of(ball.view.original)
    solution = solved(problem, "auto", 1, "propagate")
    feasible = solution.codes == int(Status.OPTIMAL)
    y = xp.where(feasible[..., None], solution.x_float64, xp.zeros_like(linear))
    slack = xp.sum(values * y[..., None, :], axis=-1) + linear
    return Point(level, y, xp.where(y > 0, xp.zeros_like(slack), slack), feasible)


def _inner(ball: Ball, first: Point, second: Point) -> Array:
    """Return (Jᵀy)·(Jᵀy') from y·(Gy') = y·(s' + λ'·1 - Jg₀).

    Where large weights cancel in Jᵀy, that loses fewer digits than the product with G.
    """
    xp = ball.view.xp
    image = second.slack + second.level[..., None] - ball.products
    return _dot(xp, first.y, image)


def _crossing(ball: Ball, first: Point, second: Point) -> Array:
    """Return θ for which ‖Jᵀ((1 - θ)y + θy')‖ is the radius, the larger one of the two."""
    xp = ball.view.xp
    own, mixed, other = _inner(ball, first, first), _inner(ball, first, second), _inner(ball, second, second)
    a, b, gap = own - 2 * mixed + other, mixed - own, own - ball.radius**2
    root = xp.sqrt(xp.maximum(b * b - a * gap, xp.zeros_like(a)))
    # Of the two forms of the root, the one that adds numbers of one sign.
    plain = b <= 0
    divisor = xp.where(plain, a, b + root)
    usable = divisor > 0
    return xp.where(plain, root - b, -gap) / xp.where(usable, divisor, xp.zeros_like(a) + math.nan)


def _between(first: Point, second: Point, theta: Array) -> Point:
    """Return the point at θ on the line through two points."""
    weight = theta[..., None]
    return Point(
        first.level + theta * (second.level - first.level),
        first.y + weight * (second.y - first.y),
        first.slack + weight * (second.slack - first.slack),
        first.feasible & second.feasible,
    )


def _choose(xp: Any, condition: Array, first: Point, second: Point) -> Point:
    """Return the first point where the condition holds, else the second."""
    return Point(
        xp.where(condition, first.level, second.level),
        xp.where(condition[..., None], first.y, second.y),
        xp.where(condition[..., None], first.slack, second.slack),
        xp.where(condition, first.feasible, second.feasible),
    )


def _is_nearest(ball: Ball, point: Point) -> Array:
    """Whether y and s of a point between two others are complementary up to rounding."""
    xp = ball.view.xp
    norms = xp.where(ball.norms > 0, ball.norms, xp.ones_like(ball.norms))
    both = xp.minimum(point.y * norms, point.slack / norms)
    allowed = 4 * ball.view.size * EPS * (ball.length + _dot(xp, point.y, norms))
    return xp.max(both, axis=-1) <= allowed


class _Search(NamedTuple):
    """Points within the ball and beyond it, with what lies between them on the sphere.

    Attributes
    ----------
    previous, low, high : Point
        `low` within and `high` beyond the ball, and what was `low` before.
    level : float64 array, shape (...)
        λ where the segment from `low` to `high` crosses the sphere.
    y : float64 array, shape (..., K)
        y there; it stays as it is once it is the answer.
    found : bool array, shape (...)
        Whether it is.
    """

    previous: Point
    low: Point
    high: Point
    level: Array
    y: Array
    found: Array


def best_in_ball(matrix: View, c: float) -> Array:
    """Return y ≥ 0 (..., K) for which g₀ + Jᵀy is the best direction within the ball around g₀."""

    def change(y: Array, on_sphere: Array, at: tuple[Array], changes: tuple[Array]) -> Array:
        from mojd.weightings._ball_derivative import ball_derivative

        return ball_derivative(y, on_sphere, at[0], changes[0], c)

    def search(values: Array) -> tuple[Array, Array]:
        return _search(View(matrix.original, values, matrix.xp), c)

    return with_derivative(search, change, (matrix.values,))


def _search(matrix: View, c: float) -> tuple[Array, Array]:
    """Return y, and 1.0 where the direction lies on the sphere, 0.0 where it lies within.

    The distance from g₀ is a convex and increasing function of the level λ. Along the segment between two
    points it is the square root of a quadratic, and no less than that function; equal to it if the two
    points have the same active constraints, which ends the search: the answer lies on that segment.
    """
    ball, xp = ball_around_mean(matrix, c), matrix.xp
    low, high, within = _bracket(ball)
    y = xp.where(within[..., None], low.y, xp.zeros_like(low.y))

    def advance(now: _Search) -> _Search:
        inner = _nearest(ball, now.level)
        previous, low, high = _narrow(ball, inner, now.previous, now.low, now.high)
        beyond = _between(previous, low, _crossing(ball, previous, low)).level
        inside = (beyond > low.level) & (beyond < high.level)
        beyond = _nearest(ball, xp.where(inside, beyond, _middle(ball, low.level, high.level)))
        found = now.found | ~inner.feasible | ~beyond.feasible
        return _interpolate(ball, *_narrow(ball, beyond, previous, low, high), now.y, found)

    start = _interpolate(ball, low, low, high, y, within)
    search = iterate(start, advance, lambda now: ~now.found, ROUNDS - 1)
    return search.y, xp.where(within, xp.zeros_like(ball.radius), xp.ones_like(ball.radius))


def _interpolate(ball: Ball, previous: Point, low: Point, high: Point, y: Array, found: Array) -> _Search:
    """Cross the sphere on the segment between two points, and see whether that is the answer."""
    xp = ball.view.xp
    theta = _crossing(ball, low, high)
    theta = xp.where(theta > 0, theta, xp.zeros_like(theta))
    theta = xp.where(theta < 1, theta, xp.ones_like(theta))
    inner = _between(low, high, theta)
    y = xp.where(found[..., None], y, inner.y)
    narrow = high.level - low.level <= 2 * EPS * abs(high.level)
    return _Search(previous, low, high, inner.level, y, found | narrow | _is_nearest(ball, inner))


def _middle(ball: Ball, low: Array, high: Array) -> Array:
    """Return a level between two, by the geometric mean if both have one sign.

    Rows of different lengths become active at levels of different magnitudes. What is below ε of the
    smallest of those counts as 0.
    """
    xp = ball.view.xp
    smallest = xp.where(ball.norms > 0, ball.norms, xp.ones_like(ball.norms))
    floor = EPS * xp.min(smallest, axis=-1) * ball.length
    size = xp.sqrt(xp.maximum(abs(low), floor)) * xp.sqrt(xp.maximum(abs(high), floor))
    middle = xp.where(low >= 0, size, xp.where(high <= 0, -size, 0.5 * (low + high)))
    return xp.where((middle > low) & (middle < high), middle, 0.5 * (low + high))


def _bracket(ball: Ball) -> tuple[Point, Point, Array]:
    """Return points within the ball and beyond it, and whether the first is the answer."""
    xp, products = ball.view.xp, ball.products
    least, zeros = xp.min(products, axis=-1), xp.zeros_like(ball.radius)
    mean = Point(least, xp.zeros_like(products), products - least[..., None], least == least)
    zero = _nearest(ball, zeros)
    reached = _inner(ball, zero, zero) <= ball.radius**2
    highest = xp.min(products + ball.radius[..., None] * ball.norms, axis=-1)
    high = _nearest(ball, xp.where(reached & (highest > 0), highest, zeros))
    low = _choose(xp, reached & (least < 0), zero, mean)
    high = _choose(xp, reached, high, zero)
    found = (ball.radius == 0) | (reached & ~((highest > 0) & high.feasible))
    return _choose(xp, ball.radius > 0, low, mean), high, found


def _narrow(ball: Ball, point: Point, previous: Point, low: Point, high: Point) -> tuple[Point, Point, Point]:
    """Put a point between `low` and `high` in the place of one of them."""
    xp = ball.view.xp
    within = point.feasible & (_inner(ball, point, point) <= ball.radius**2)
    return (
        _choose(xp, within, low, previous),
        _choose(xp, within, point, low),
        _choose(xp, point.feasible & ~within, point, high),
    )
