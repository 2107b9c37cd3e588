"""RGW: random weights, drawn anew at every step."""

from __future__ import annotations

from typing import Any

import numpy as np

from mojd._arrays import Array, namespace
from mojd.weightings._draws import normal
from mojd.weightings._registry import Weighting, register
from mojd.weightings._shared import View, beside, by_formula
from mojd.weightings._traced import traceable


@traceable
def rgw(gramian: Any, *, seed: int | np.random.Generator | Array, nonfinite: str = "raise") -> Array:
    r"""Draw weights at random: the softmax of standard normals (random gradient weighting).

    .. math:: w = \operatorname{softmax}(z), \qquad z_i \sim \mathcal{N}(0, 1) \text{ independently}

    Parameters
    ----------
    gramian : array, shape (..., K, K)
        G = J Jᵀ of the gradients.
    seed : int, numpy.random.Generator or key of JAX
        An integer gives the same draws whenever it is passed with the same shape. A generator moves on,
        and is what a training loop passes. Every problem of a batch has draws of its own. Under ``jax.jit``
        and the like it is a key, ``jax.random.key(0)``, split at every step.
    nonfinite : {'raise', 'propagate'}
        What to do about NaN and infinity: raise an error, or return NaN for the problems concerned. On a
        device, always the latter.

    Returns
    -------
    array, shape (..., K)
        w > 0, which sums to 1, in the namespace, dtype and device of `gramian`.

    Raises
    ------
    InvalidInputError
        If the shape does not fit, the Gramian is no Gramian, or `seed` is negative.
    NonFiniteError
        If there is NaN or infinity and `nonfinite` is 'raise'.
    InvalidTypeError
        If `seed` is neither an integer nor a generator nor a key.

    Notes
    -----
    On average d is the mean of the gradients. Given the draws, d grows with every gradient in
    proportion. Nothing but the size of the Gramian matters, so that there are no special cases. On losses
    instead of gradients, these are the weights of random loss weighting. Cost: K draws on the host.

    Properties: non-conflicting ✗, linear under scaling ✓, weighted ✓.

    References
    ----------
    Lin, Ye, Zhang and Tsang, arXiv 2111.10603, Algorithm 2.

    Examples
    --------
    >>> import mojd
    >>> mojd.rgw([[4.0, 0.0], [0.0, 1.0]], seed=0).round(4)
    array([0.5641, 0.4359])
    """

    def formula(matrix: View) -> Array:
        drawn = normal(seed, (*matrix.batch_shape, matrix.size), matrix)
        exponentials = namespace(drawn).exp(drawn - drawn.max(axis=-1, keepdims=True))
        return beside(exponentials / exponentials.sum(axis=-1, keepdims=True), matrix)

    return by_formula(gramian, nonfinite, formula)


register(
    Weighting(
        name="rgw",
        title="RGW",
        weights=rgw,
        is_stochastic=True,
        example_options={"seed": 0},
        summary="random weights: the softmax of standard normals",
        source="arXiv 2111.10603, Algorithm 2",
    )
)
