"""FAMO: weights learnt from how fast the logarithms of the losses fall."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from mojd._arrays import Array, is_array
from mojd._checks import broadcast_batch, check_rows, number
from mojd.errors import InvalidInputError, InvalidTypeError
from mojd.weightings._losses import LossView, by_losses, check_losses, loss_argument, view_losses
from mojd.weightings._registry import LossWeighting, register
from mojd.weightings._shared import beside
from mojd.weightings._traced import as_before, traceable


class FamoState(NamedTuple):
    """The logits that :func:`update_famo` learns.

    Attributes
    ----------
    logits : array, shape (..., K)
        ξ, in float64: on the CPU a NumPy array, beside the losses if those are on a device.
    """

    logits: Array


def init_famo(size: int, batch_shape: tuple[int, ...] = ()) -> FamoState:
    """Return the state before the first step, for `size` losses: all logits are 0.

    Parameters
    ----------
    size : int
        K.
    batch_shape : tuple of int, default ()
        The leading axes, for problems that learn logits of their own.

    Examples
    --------
    >>> import mojd
    >>> mojd.init_famo(2)
    FamoState(logits=array([0., 0.]))
    """
    if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
        raise InvalidInputError(f"size must be the number of losses, an integer of at least 1; got {size!r}")
    return FamoState(np.zeros((*batch_shape, size)))


@traceable
def famo(state: FamoState, losses: Any, *, minimum: Any = 0.0, nonfinite: str = "raise") -> Array:
    r"""Compute the FAMO weights from logits and the values of the losses.

    .. math::
        w_i = c\, \frac{z_i}{\ell_i - m_i}, \qquad z = \operatorname{softmax}(\xi), \qquad
        c = \Big(\sum_i \frac{z_i}{\ell_i - m_i}\Big)^{-1}

    The direction is that of the weighted sum of the gradients of log(ℓ - m). After the parameters have moved,
    :func:`update_famo` learns from the losses at the new ones.

    Parameters
    ----------
    state : FamoState
        From :func:`init_famo` or :func:`update_famo`.
    losses : array, shape (..., K)
        The values of the losses, none below its minimum.
    minimum : number or array, shape (..., K), default 0
        m, a lower bound of each loss.
    nonfinite : {'raise', 'propagate'}
        What to do about NaN and infinity in losses on the CPU: raise an error, or return NaN. Arrays on
        a device always propagate.

    Returns
    -------
    array, shape (..., K)
        Weights w ≥ 0 that sum to 1, in the namespace, dtype and device of `losses`.

    Raises
    ------
    InvalidInputError
        If shapes do not fit, or a loss on the CPU lies below its minimum.
    InvalidTypeError
        If `state` is no :class:`FamoState`.
    NonFiniteError
        If a loss is NaN or infinite and `nonfinite` is 'raise'.

    Notes
    -----
    Losses at their minimum share all the weight, by their z: the limit of the formula. On a device, the
    weights of losses below their minimum are NaN. Multiplying ℓ - m by one number changes nothing. Cost: a
    softmax. The properties hold for given losses.

    Properties: non-conflicting ✗, linear under scaling ✓, weighted ✓.

    References
    ----------
    Liu et al., *FAMO: Fast adaptive multitask optimization*, arXiv 2306.03792, Algorithm 1.

    Examples
    --------
    >>> import mojd
    >>> state = mojd.init_famo(2)
    >>> mojd.famo(state, [1.0, 3.0])
    array([0.75, 0.25])
    >>> state = mojd.update_famo(state, [1.0, 3.0], [0.5, 3.0])
    >>> mojd.famo(state, [0.5, 3.0]).round(4)
    array([0.8561, 0.1439])
    """
    _check_state(state)

    def formula(seen: LossView) -> Array:
        logits = _logits(state, seen)
        distance = _distances(seen, minimum, "losses")
        at_minimum = distance == 0
        xp = seen.xp
        # z/(ℓ - m), normalised, is a softmax too: so neither over- nor underflows.
        scores = logits - xp.log(xp.where(at_minimum, xp.ones_like(distance), distance))
        lowest = xp.full_like(scores, -math.inf)
        limit = xp.where(at_minimum, logits, lowest)
        return _softmax(xp, xp.where(xp.any(at_minimum, axis=-1, keepdims=True), limit, scores))

    return by_losses(losses, nonfinite, formula)


@traceable
def update_famo(
    state: FamoState,
    losses_before: Any,
    losses_after: Any,
    *,
    learning_rate: float = 0.025,
    decay: float = 0.001,
    minimum: Any = 0.0,
    nonfinite: str = "raise",
) -> FamoState:
    r"""Return the state after a step of the parameters, from the losses before and after it.

    .. math::
        \xi \leftarrow \xi - \alpha \left(\delta + \gamma\, \xi\right), \qquad
        \delta = \big(\operatorname{diag} z - z z^\top\big)\,
        \big(\log(\ell^{\text{before}} - m) - \log(\ell^{\text{after}} - m)\big)

    A loss that has fallen faster than the others, in proportion to itself, loses weight.

    Parameters
    ----------
    state : FamoState
        The one that gave the weights of the step. It is not modified.
    losses_before, losses_after : array, shape (..., K)
        The losses on the same data, before and after the step.
    learning_rate : float, default 0.025
        The step size α of the logits.
    decay : float, default 0.001
        γ, which pulls the logits towards 0.
    minimum, nonfinite
        As for :func:`famo`.

    Returns
    -------
    FamoState
        The new logits.

    Raises
    ------
    InvalidInputError
        If shapes do not fit, `learning_rate` or `decay` is negative or not finite, or a loss on the CPU lies
        below its minimum.
    InvalidTypeError
        If `state` is no :class:`FamoState`, or `learning_rate` or `decay` no number.
    NonFiniteError
        If a loss is NaN or infinite and `nonfinite` is 'raise'.

    Notes
    -----
    A plain gradient step, as in Algorithm 1. The authors' code hands δ to Adam with γ as weight decay
    instead (Algorithm 2). A loss at its minimum has no logarithm: its change counts as 0. Logits stay as
    they are where a loss is NaN or infinite and `nonfinite` is 'propagate'.

    References
    ----------
    Liu et al., *FAMO: Fast adaptive multitask optimization*, arXiv 2306.03792, Algorithm 1.

    Examples
    --------
    >>> import mojd
    >>> mojd.update_famo(mojd.init_famo(2), [1.0, 1.0], [0.5, 1.0], learning_rate=1.0).logits.round(4)
    array([-0.1733,  0.1733])
    """
    _check_state(state)
    rate = number(learning_rate, "learning_rate", "the step size of the logits")
    pull = number(decay, "decay", "the pull of the logits towards 0")
    for name, value in (("learning_rate", rate), ("decay", pull)):
        if not 0.0 <= value < math.inf:
            raise InvalidInputError(f"{name} must be finite and not negative, got {value!r}")
    before, after = view_losses(losses_before, "losses_before"), view_losses(losses_after, "losses_after")
    check_losses(before, nonfinite, "losses_before")
    check_losses(after, nonfinite, "losses_after")
    if before.shape != after.shape or (before.xp is np) != (after.xp is np):
        raise InvalidInputError(
            f"losses_before of shape {before.shape} and losses_after of shape {after.shape} must be the same "
            "losses at two times, on one device"
        )
    xp = before.xp
    finite = xp.all(xp.isfinite(before.values) & xp.isfinite(after.values), axis=-1, keepdims=True)
    logs = []
    defined = xp.ones_like(finite)
    for name, seen in (("losses_before", before), ("losses_after", after)):
        clean = LossView(seen.original, xp.where(finite, seen.values, xp.ones_like(seen.values)), xp)
        distance = _distances(clean, minimum, name)
        defined = defined & (distance != 0)
        logs.append(xp.log(xp.where(distance == 0, xp.ones_like(distance), distance)))
    change = xp.where(defined, logs[0] - logs[1], xp.zeros_like(logs[0]))
    logits = _logits(state, before)
    z = _softmax(xp, logits)
    delta = z * (change - xp.sum(z * change, axis=-1, keepdims=True))
    moved = xp.where(finite, logits - rate * (delta + pull * logits), logits)
    return FamoState(as_before(moved, state.logits))


def _check_state(state: Any) -> None:
    if not isinstance(state, FamoState) or not is_array(state.logits):
        raise InvalidTypeError(
            f"state must come from mojd.init_famo or from mojd.update_famo, got {type(state).__name__}; the "
            "calls are weights = mojd.famo(state, losses) and state = mojd.update_famo(state, before, after)"
        )


def _logits(state: FamoState, losses: LossView) -> Array:
    check_rows(state.logits, losses.shape[-1], "state.logits", "one entry per loss")
    broadcast_batch(losses.shape[:-1], tuple(state.logits.shape[:-1]), "losses and state.logits")
    return beside(state.logits, losses) + losses.xp.zeros_like(losses.values)


def _distances(losses: LossView, minimum: Any, name: str) -> Array:
    """Return ℓ - m ≥ 0; on a device, NaN where that is negative."""
    xp = losses.xp
    distance = losses.values - loss_argument(minimum, "minimum", losses)
    below = distance < 0
    if xp is np and below.any():
        index = tuple(int(i) for i in np.argwhere(below)[0])
        raise InvalidInputError(
            f"{name} of shape {losses.shape} holds {losses.values[index]} at index {index}, below its "
            f"minimum by {-distance[index]:.6g}; pass minimum=, a lower bound of each loss"
        )
    return xp.where(below, xp.full_like(distance, math.nan), distance)


def _softmax(xp: Any, scores: Array) -> Array:
    powers = xp.exp(scores - xp.max(scores, axis=-1, keepdims=True))
    return powers / xp.sum(powers, axis=-1, keepdims=True)


@traceable
def _first_weights(losses: Any, *, minimum: Any = 0.0, nonfinite: str = "raise") -> Array:
    """Return the weights of a fresh state."""
    size = view_losses(losses).shape[-1]
    return famo(init_famo(size), losses, minimum=minimum, nonfinite=nonfinite)


register(
    LossWeighting(
        name="famo",
        title="FAMO",
        weights=_first_weights,
        summary="equal relative progress of all losses, learnt from their values",
        source="arXiv 2306.03792, Algorithm 1",
        is_stateful=True,
    )
)
