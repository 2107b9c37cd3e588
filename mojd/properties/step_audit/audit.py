"""Which guarantees of a direction survived in the step that an optimiser made of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mojd import _checks
from mojd._arrays import Array, as_array, to_host
from mojd.errors import InvalidInputError
from mojd.properties.step_audit._geometry import measure
from mojd.properties.step_audit._judge import Judge
from mojd.properties.step_audit._promise import eps_of, make_promise
from mojd.properties.step_audit.report import StepAudit


def audit_step(
    jacobian: Any,
    update: Any,
    weighting: Any = None,
    *,
    weights: Any = None,
    rounding: float | None = None,
    tolerance: float = 0.0,
    nonfinite: str = "raise",
    **options: Any,
) -> StepAudit:
    r"""Say which guarantees of the direction d = Jᵀw survived in a true update of the parameters.

    A guarantee is about a direction, and an optimiser makes a step of it: momentum adds old
    directions, Adam divides every entry by a size of its own. With first-order changes

    .. math:: L_i(\theta + \text{update}) - L_i(\theta) \approx g_i^\top \text{update}

    the step is judged as if −update were the direction. What d itself had not is not promised, and
    so cannot be lost.

    Parameters
    ----------
    jacobian : array, shape (K, n)
        The gradients before the step, one row per loss.
    update : array, shape (n,)
        θ_after − θ_before; −lr·d for plain SGD.
    weighting : str or callable, optional
        The name of one of mojd's methods, its function, or your own from Gramians (K, K) to weights (K,).
    weights : array, shape (K,), optional
        The weights w that were used, instead of a weighting.
    rounding : float ≥ 0, optional
        How far rounding may have moved the update, as a norm in units of the parameters:
        ``eps * norm(theta)``, with the eps of the parameters' dtype, if the update is a difference of
        parameters. Default: √eps·‖update‖ with the eps of the update's dtype, which covers parameters
        whose norm is up to 1/√eps times that of the update (2900 times in float32, 7e7 in float64).
    tolerance : float ≥ 0, default 0
        A rate that you call nothing, on top of what rounding explains: with 0.01, losses may rise at 1 %
        of the steepest rate.
    nonfinite : {'raise', 'propagate'}
        What to do about NaN and infinity: an error, or NaN in the report. Then nothing is kept.
    **options
        Passed on to the weighting, such as ``tau`` and ``scales`` for 'pcd', or ``pref_vector``.

    Returns
    -------
    StepAudit
        With ``verdicts``, ``lost``, the numbers behind them, ``to_dict()``, and text if printed.

    Raises
    ------
    InvalidInputError
        If shapes do not fit, `jacobian` is a batch, `rounding` or `tolerance` is negative, the method
        has a state or weighs losses, or not exactly one of `weighting` and `weights` is given.
    InvalidTypeError
        If an argument holds no real numbers, or `weighting` is neither a name nor callable.
    NonFiniteError
        If there is NaN or infinity and `nonfinite` is 'raise'.

    Notes
    -----
    The guarantees, with ``rate`` for −g·update / (‖g‖·‖update‖), tol for the tolerance:

    - *non-conflicting*: no loss rises; all rates ≥ −tol.
    - *descent*: the mean of the losses falls, or PCD's primary; its rate > tol. Promised where the
      rate of d is above 2·tol.
    - *progress*, of PCD: :math:`\tilde g_j^\top(-\text{update}) \ge \eta\,\tau_j \|\tilde g_j\|^2` for all
      secondaries, where η ≥ 0 fits −update ≈ η·d* best and d* is d before ``rescale``. Its number is
      the smallest difference of the two sides, divided by ‖g̃‖·‖update‖; ≥ −2·tol. Not promised where
      the constraints contradict each other.
    - *fallback*, of PCD: where the primary alone was the direction, −update points along it; its
      distance from that ray, as a share of its norm, ≤ tol.
    - *weighted*: −update is a combination of the gradients; its distance from the row space of J, as a
      share of its norm, ≤ tol.
    - *positive weights*: the same with weights ≥ 0; the distance from that cone ≤ tol.

    For d itself tol is 4(K + 8)·eps·Σ|w_i|·‖g_i‖ / ‖d‖ with the eps of J's and w's dtype, which is what
    rounding does to a sum that cancels; for the update, rounding / ‖update‖ and `tolerance` come on
    top. Nothing has a unit: scaling the update, J or all losses leaves the verdicts alone. The method
    sees the Gramian in the dtype of `jacobian`, as in :func:`mojd.aggregate`, all else is float64 on
    the CPU. d = 0 promises that no loss rises, and update = 0 keeps that but has no descent. Zero
    gradients have rates of 0. Cost: the weighting, one SVD of J (K²n) and one or two pivoting solves.

    Examples
    --------
    One long step along a coordinate axis opposes the first loss, which the direction does not:

    >>> from mojd.properties import audit_step
    >>> J = [[1.0, -1.0, 0.0], [0.0, 2.0, 1.0]]
    >>> audit = audit_step(J, [0.0, -0.5, 0.0], "upgrad")
    >>> audit.lost
    ('non-conflicting', 'weighted', 'positive weights')
    >>> audit.objectives[0].change
    0.5
    """
    _checks.check_nonfinite(nonfinite)
    rows, step = as_array(jacobian, "jacobian"), as_array(update, "update")
    _check_shapes(rows, step)
    values, moved = to_host(rows), to_host(step)
    if nonfinite == "raise":
        _checks.check_finite(values, "jacobian")
        _checks.check_finite(moved, "update")
    elif not np.isfinite(moved).all():
        moved = np.full_like(moved, math.nan)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        promise = make_promise(rows, values, weighting, weights, nonfinite, options)
        backwards = measure(-moved)
        share = math.sqrt(eps_of(step))
        if rounding is not None:
            size = _number(rounding, "rounding", "it is a norm, such as eps * norm(theta)")
            share = size / float(backwards.norm) if backwards.length > 0 else 0.0
        extra = _number(tolerance, "tolerance", "it is a part of the steepest rate, such as 0.01")
        return Judge(promise, backwards, share, extra).report()


def _check_shapes(jacobian: Array, update: Array) -> None:
    """Raise unless there is one step and one gradient per loss."""
    shape, own = tuple(jacobian.shape), tuple(update.shape)
    if len(shape) != 2 or not shape[0]:
        batch = "; audit the steps of a batch one by one" if len(shape) > 2 else ""
        raise InvalidInputError(f"jacobian must have shape (K, n) with K >= 1, got shape {shape}{batch}")
    if own != shape[1:]:
        flat = "" if len(own) == 1 else "; flatten and join the changes of several parameters"
        raise InvalidInputError(
            f"update must have shape ({shape[1]},), one entry per column of the jacobian of shape {shape}; "
            f"got shape {own}{flat}"
        )


def _number(value: Any, name: str, meaning: str) -> float:
    number = _checks.number(value, name, meaning)
    if not 0.0 <= number < math.inf:
        raise InvalidInputError(f"{name} must be finite and not negative, got {number}; {meaning}")
    return number
