"""GradVac: each gradient is turned towards the others until their cosines are what they usually are."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from mojd import _checks
from mojd._arrays import Array, is_array, is_on_device, precision_of, to_float64
from mojd.errors import InvalidInputError, InvalidTypeError
from mojd.weightings._draws import visiting_orders
from mojd.weightings._registry import Weighting, register
from mojd.weightings._shared import View, beside, check_values, finish, view
from mojd.weightings._surgery import Visit, operate
from mojd.weightings._traced import as_before, traceable


class GradVacState(NamedTuple):
    """The moving averages of cosines that :func:`gradvac` carries along.

    Attributes
    ----------
    cosines : array, shape (..., K, K)
        φ̂, the target for the cosine between the corrected g'_i (row) and g_j (column), in float64. Its
        diagonal stays 0.
    """

    cosines: Array


def init_gradvac(size: int) -> GradVacState:
    """Return the state before the first step, for `size` objectives.

    Examples
    --------
    >>> import mojd
    >>> mojd.init_gradvac(2)
    GradVacState(cosines=array([[0., 0.],
           [0., 0.]]))
    """
    _checks.check_count(size, "size", 1, "the number of objectives")
    return GradVacState(np.zeros((size, size)))


@traceable
def gradvac(
    state: GradVacState,
    gramian: Any,
    *,
    seed: int | np.random.Generator | Array,
    beta: float = 0.5,
    nonfinite: str = "raise",
) -> tuple[Array, GradVacState]:
    r"""Compute the GradVac weights: gradients are turned until their cosines are no less than usual.

    For every i, starting from :math:`g_i' = g_i`, and for all :math:`j \ne i` in random order: with
    :math:`\varphi = \cos(g_i', g_j)` and its moving average :math:`\hat\varphi = \hat\varphi_{ij}`,
    if :math:`\varphi < \hat\varphi` then

    .. math:: g_i' \leftarrow g_i' + \frac{\|g_i'\|}{\|g_j\|} \left(
              \hat\varphi\, \frac{\sqrt{1 - \varphi^2}}{\sqrt{1 - \hat\varphi^2}} - \varphi \right) g_j

    after which the cosine is :math:`\hat\varphi`; and always
    :math:`\hat\varphi_{ij} \leftarrow (1 - \beta)\, \hat\varphi_{ij} + \beta \varphi`. At the end,
    :math:`d = \sum_i g_i'`.

    Parameters
    ----------
    state : GradVacState
        From :func:`init_gradvac` or the previous call. It is not modified.
    gramian : array, shape (..., K, K)
        This step's G = J Jᵀ.
    seed : int, numpy.random.Generator or key of JAX
        An integer gives the same draws whenever it is passed with the same shape. A generator moves on,
        and is what a training loop passes. Every problem of a batch has draws of its own. Under ``jax.jit``
        and the like it is a key, ``jax.random.key(0)``, split at every step.
    beta : float in [0, 1]
        How fast the averages follow. With 0 they stay as they are.
    nonfinite : {'raise', 'propagate'}
        What to do about NaN and infinity: raise an error, or return NaN for the problems concerned. On a
        device, always the latter.

    Returns
    -------
    weights : array, shape (..., K)
        w ≥ 1 with Jᵀw = Σ g'_i, a sum and not a mean, in the namespace, dtype and device of `gramian`,
        with the leading axes of `gramian` and `state`.
    state : GradVacState
        To be passed to the next call. A Gramian that holds NaN or infinity leaves it as it was.

    Raises
    ------
    InvalidInputError
        If a shape does not fit, `beta`, `seed` or the state is out of range, or the Gramian is no Gramian.
    NonFiniteError
        If there is NaN or infinity and `nonfinite` is 'raise'.
    InvalidTypeError
        If `seed` is neither an integer nor a generator nor a key, or `state` is no state.

    Notes
    -----
    Given the orders and the state, d grows with every gradient in proportion, and the new state doesn't
    depend on lengths. A fresh state has targets of 0, with which this is :func:`mojd.pcgrad`. A pair of
    which one gradient is 0, or has been cancelled by earlier corrections up to rounding, has no cosine: it
    is neither corrected nor averaged. No correction reaches a target of 1, and none is made then; nor is
    one for a difference of cosines that rounding explains. Cost: K³ multiplications in K − 1 steps.

    Properties: non-conflicting ✗, linear under scaling ✓, weighted ✓.

    References
    ----------
    Wang, Tsvetkov, Firat and Cao, arXiv 2010.05874, Algorithm 1 and equations 2 and 3.

    Examples
    --------
    >>> import mojd
    >>> state = mojd.init_gradvac(2)
    >>> weights, state = mojd.gradvac(state, [[1.0, -1.0], [-1.0, 4.0]], seed=0)
    >>> weights
    array([2.  , 1.25])
    >>> state.cosines
    array([[ 0.  , -0.25],
           [-0.25,  0.  ]])
    """
    matrix = view(gramian)
    check_values(matrix, nonfinite)
    targets = _targets(state, matrix)
    _checks.refuse_traced(beta, "beta")
    if isinstance(beta, bool) or not isinstance(beta, float | int) or not 0.0 <= beta <= 1.0:
        raise InvalidInputError(f"beta must be a number in [0, 1], got {beta!r}")
    xp, values = matrix.xp, matrix.values
    finite = xp.all(xp.isfinite(values), axis=(-2, -1))[..., None]
    # Gradients of 0, which stand for what is not finite, leave the averages as they are.
    clean = View(matrix.original, xp.where(finite[..., None], values, xp.zeros_like(values)), xp)
    vaccine = _Vaccine(targets, beta, precision_of(matrix.original).tolerance ** 2)
    orders = visiting_orders(seed, tuple(targets.shape[:-2]), matrix)
    weights = operate(clean, orders, vaccine)
    weights = xp.where(finite, weights, xp.full_like(weights, math.nan))
    return finish(weights, matrix), GradVacState(as_before(vaccine.targets, state.cosines))


def _targets(state: GradVacState, matrix: View) -> Array:
    """Check the state, and return its cosines beside the Gramian, with the leading axes of both."""
    if not isinstance(state, GradVacState) or not is_array(state.cosines):
        raise InvalidTypeError(
            f"state must come from mojd.init_gradvac or from mojd.gradvac, got {type(state).__name__}; the "
            "call is weights, state = mojd.gradvac(state, gramian, seed=...)"
        )
    shape, size = tuple(state.cosines.shape), matrix.size
    if shape[-2:] != (size, size):
        raise InvalidInputError(
            f"state.cosines must have shape (..., {size}, {size}), as the gramian has; got shape {shape}"
        )
    if not is_on_device(state.cosines) and not (abs(to_float64(state.cosines)) <= 1.0).all():
        raise InvalidInputError(f"state.cosines of shape {shape} must hold numbers in [-1, 1] only")
    batch = _checks.broadcast_batch(matrix.batch_shape, shape[:-2], "gramian and state.cosines")
    return matrix.xp.broadcast_to(beside(state.cosines, matrix), (*batch, size, size))


class _Vaccine:
    """What is to be added of g_j at each visit; keeps targets and ‖g'_i‖² up to date on the way."""

    def __init__(self, targets: Array, beta: float, unit: float) -> None:
        self.targets = targets
        self.beta = beta
        self.unit = unit
        self.length: Array = None
        self.terms: Array = None

    def __call__(self, visit: Visit) -> Array:
        xp, square, size = visit.xp, visit.square, visit.rows.shape[-1]
        zeros, ones = xp.zeros_like(square), xp.ones_like(square)
        if self.length is None:
            self.length = self.terms = xp.linalg.diagonal(visit.gramian)
        # The sums of the sizes of their terms say how far ‖g'_i‖² and g'_i · g_j may be off.
        rounding = (size + 2) * self.unit
        products = xp.sum(abs(visit.coefficients * visit.rows), axis=-1)
        known = (self.length > rounding * self.terms) & (square > 0)
        length, safe = xp.where(known, self.length, ones), xp.where(known, square, ones)
        # One root of the product: exactly 1 for a gradient and its copy.
        norms = xp.sqrt(length * safe)
        cosine = xp.minimum(xp.maximum(visit.product / norms, -ones), ones)
        target = xp.sum(xp.where(visit.chosen, self.targets, xp.zeros_like(self.targets)), axis=-1)
        low = known & (cosine < target - rounding * products / norms) & (target < 1)
        aim = xp.where(low, target, zeros)
        square_sine = (1 - cosine) * (1 + cosine)
        oblique = square_sine > 0
        # The root of 0 has no derivative.
        sine = xp.where(oblique, xp.sqrt(xp.where(oblique, square_sine, ones)), zeros)
        sines = sine / xp.sqrt((1 - aim) * (1 + aim))
        amount = xp.where(low, xp.sqrt(length / safe) * (aim * sines - cosine), zeros)
        updated = (1 - self.beta) * target + self.beta * cosine
        self.targets = xp.where(visit.chosen & known[..., None], updated[..., None], self.targets)
        self.length = self.length + amount * (2 * visit.product + amount * square)
        self.terms = self.terms + amount * (2 * products + amount * square)
        return amount


@traceable
def _first_step(
    gramian: Any, *, seed: int | np.random.Generator | Array, beta: float = 0.5, nonfinite: str = "raise"
) -> Array:
    """Return the weights of a first step."""
    state = init_gradvac(view(gramian).size)
    return gradvac(state, gramian, seed=seed, beta=beta, nonfinite=nonfinite)[0]


register(
    Weighting(
        name="gradvac",
        title="GradVac",
        weights=_first_step,
        is_stochastic=True,
        is_stateful=True,
        example_options={"seed": 0},
        summary="each gradient is turned until its cosines with the others are no less than usual",
        source="arXiv 2010.05874, Algorithm 1",
    )
)
