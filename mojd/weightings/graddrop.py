"""GradDrop: one sign per parameter is drawn, and what has the other sign is dropped."""

from __future__ import annotations

from typing import Any

import numpy as np

from mojd import _checks
from mojd._arrays import Array, as_array, is_on_device, to_float64
from mojd.certificates import power_of_two
from mojd.errors import InvalidInputError
from mojd.weightings._draws import uniform
from mojd.weightings._registry import Aggregator, register
from mojd.weightings._rows import by_rows
from mojd.weightings._shared import View, beside
from mojd.weightings._traced import traceable


@traceable
def graddrop(
    jacobian: Any, leak: Any = None, *, seed: int | np.random.Generator | Array, nonfinite: str = "raise"
) -> Array:
    r"""Compute the GradDrop direction: per parameter, the entries of one sign, drawn by their majority.

    .. math:: P_a = \tfrac12 \Bigl(1 + \frac{\sum_i J_{ia}}{\sum_i |J_{ia}|}\Bigr), \qquad
              d_a = \sum_i \bigl(\ell_i + (1 - \ell_i) M_{ia}\bigr) J_{ia}

    where :math:`M_{ia}` is 1 for the entries that have the sign which was drawn for parameter a, plus with
    probability :math:`P_a`, and 0 for the others.

    Parameters
    ----------
    jacobian : array, shape (..., K, n)
        One gradient per row.
    leak : array, shape (..., K), optional
        ℓ in [0, 1]: which part of a gradient passes whatever its signs. 0 by default; 1 everywhere
        gives the sum of the gradients.
    seed : int, numpy.random.Generator or key of JAX
        An integer gives the same draws whenever it is passed with the same shape. A generator moves on,
        and is what a training loop passes. Every problem of a batch has draws of its own. Under ``jax.jit``
        and the like it is a key, ``jax.random.key(0)``, split at every step.
    nonfinite : {'raise', 'propagate'}
        What to do about NaN and infinity: raise an error, or return NaN for the problems concerned. On a
        device, always the latter.

    Returns
    -------
    array, shape (..., n)
        The direction to subtract from the parameters, in the namespace, dtype and device of `jacobian`
        (float64 for integers). It is computed in float64 and rounded once.

    Raises
    ------
    InvalidInputError
        If shapes do not fit, `leak` is outside of [0, 1] or `seed` is negative.
    NonFiniteError
        If there is NaN or infinity and `nonfinite` is 'raise'.
    InvalidTypeError
        If `seed` is neither an integer nor a generator nor a key.

    Notes
    -----
    A common factor of all gradients comes out as a factor of d; a factor of one gradient changes the
    probabilities too. Columns are scaled by exact powers of two inside. Where all entries have one
    sign, all are kept; a column of zeros gives 0. The direction is no combination of gradients. The
    function f of the paper is the identity here. Cost: K·n, and n draws on the host.

    Properties: non-conflicting ✗, linear under scaling ✗, weighted ✗.

    References
    ----------
    Chen, Ngiam, Huang, Luong, Kretzschmar, Chai and Anguelov, arXiv 2010.06808, Algorithm 1, lines 10–15.

    Examples
    --------
    >>> import mojd
    >>> mojd.graddrop([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]], seed=0)
    array([-4.,  2.,  2.])
    """

    def formula(rows: View) -> Array:
        leaks = None if leak is None else _leaks(leak, rows)
        batch = rows.batch_shape
        if leaks is not None:
            batch = np.broadcast_shapes(batch, tuple(leaks.shape[:-1]))
        drawn = uniform(seed, (*batch, int(rows.values.shape[-1])), rows)
        return _masked_sum(rows, leaks, beside(drawn, rows))

    return by_rows(jacobian, nonfinite, formula)


def _leaks(leak: Any, rows: View) -> Array:
    """Check `leak`, and return it beside the gradients."""
    array = as_array(leak, "leak")
    _checks.check_rows(array, int(rows.values.shape[-2]), "leak", "one number per objective")
    _checks.broadcast_batch(rows.batch_shape, tuple(array.shape[:-1]), "jacobian and leak")
    if not is_on_device(array):
        _checks.check_nonnegative(array, "leak", "it must lie in [0, 1]")
        if (to_float64(array) > 1).any():
            raise InvalidInputError(
                f"leak must lie in [0, 1], got {to_float64(array).max()} (shape {tuple(array.shape)})"
            )
    return beside(array, rows)


def _masked_sum(rows: View, leaks: Array | None, uniform: Array) -> Array:
    """Return the sum of what the drawn signs keep."""
    xp = rows.xp
    scale = power_of_two(xp, xp.max(abs(rows.values), axis=-2, keepdims=True))
    scaled = rows.values / scale
    total = xp.sum(abs(scaled), axis=-2)
    purity = 0.5 * (1 + xp.sum(scaled, axis=-2) / xp.where(total > 0, total, xp.ones_like(total)))
    # Uniform numbers lie below 1, so that a purity of 1 or 0 leaves no choice.
    positive = (purity > uniform)[..., None, :]
    kept = xp.where(positive == (scaled > 0), scaled, xp.zeros_like(scaled))
    if leaks is not None:
        kept = leaks[..., None] * scaled + (1 - leaks[..., None]) * kept
    return xp.sum(kept, axis=-2) * scale[..., 0, :]


register(
    Aggregator(
        name="graddrop",
        title="GradDrop",
        direction=graddrop,
        is_stochastic=True,
        example_options={"seed": 0},
        summary="per parameter, the entries of one sign, drawn by their majority",
        source="arXiv 2010.06808, Algorithm 1",
    )
)
