"""Every registered method without state as a function of JAX."""

from __future__ import annotations

import inspect
from typing import Any

from jax import Array

from mojd._checks import did_you_mean
from mojd.errors import InvalidInputError, InvalidTypeError
from mojd.jax._call import call
from mojd.weightings._registry import Weighting, get_method


def weighting(name: str, gramian: Any, **options: Any) -> Array:
    """Compute the weights of a registered method, as part of the caller's program.

    Parameters
    ----------
    name : str
        The name of a method from Gramians to weights without a state, such as 'cagrad'.
    gramian : array, shape (..., K, K)
        G = J Jᵀ of the gradients.
    **options
        The options of ``mojd.<name>``. Numbers and names are compiled into the program; what changes from
        step to step is an array.

    Returns
    -------
    array, shape (..., K)
        The weights, in the dtype of `gramian`. NaN where there is NaN or infinity, or no Gramian.

    Raises
    ------
    InvalidInputError
        If the method is not known, or has a state, or as ``mojd.<name>`` raises it.
    InvalidTypeError
        If there is no such option, or an array of another library.

    Notes
    -----
    What a random method draws, it draws from ``seed=``, a key of JAX: ``jax.random.key(0)``, split at every
    step.

    For the methods with a quadratic programme, and 'cagrad', the derivative is that at the active set: see
    :func:`mojd.jax.upgrad`. That of 'nash_mtl', 'fairgrad' and 'auxinash' is that of their equations, and 0
    where there is no bargain. Of all others it is that of the formula. 'aligned_mtl', 'config' and 'imtl_g'
    are built on eigenvectors, which have none where eigenvalues coincide: there, as for orthogonal gradients
    of one length, it is NaN.

    Examples
    --------
    >>> import mojd.jax, jax.numpy as jnp
    >>> mojd.jax.weighting("imtl_g", jnp.array([[1.0, -0.5], [-0.5, 4.0]]))
    Array([0.6666667 , 0.33333334], dtype=float32)
    """
    method = get_method(name)
    if not isinstance(method, Weighting):
        raise InvalidInputError(f"method {name!r} does not go from a Gramian to weights; see mojd.{name}")
    if method.is_stateful:
        raise InvalidInputError(f"method {name!r} has a state to carry along: call mojd.{name}")
    known = list(inspect.signature(method.weights).parameters)[1:]
    for option in options:
        if option not in known:
            hint = did_you_mean(option, known)
            raise InvalidTypeError(f"{option} is no option of {name}, which has: {', '.join(known)}{hint}")
    weights: Array = call(method.weights, (gramian,), {"nonfinite": "propagate", **options})
    return weights
