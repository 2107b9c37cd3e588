"""Weights applied: from a Jacobian to the direction."""

from __future__ import annotations

from typing import Any

from mojd._arrays import Array, as_array, dtype_name, is_on_device, namespace, restore, to_numpy
from mojd._checks import check_jacobian_shape
from mojd.errors import InvalidInputError, InvalidTypeError
from mojd.gramian import gramian
from mojd.weightings._registry import Aggregator, Weighting, get_method, method_of


def aggregate(jacobian: Any, weighting: Any, **options: Any) -> Array:
    r"""Compute the direction :math:`d = J^\top w` for the weights of the Gramian of J.

    Parameters
    ----------
    jacobian : array, shape (..., K, n)
        One gradient per row.
    weighting : callable or str
        The name of one of mojd's methods or its function, such as :func:`mojd.upgrad` or
        :func:`mojd.trimmed_mean`, or your own function from Gramians (..., K, K) to weights (..., K).
    **options
        Passed on to the weighting, as in ``aggregate(J, "pcd", tau=0.1)``.

    Returns
    -------
    array, shape (..., n)
        The direction to subtract from the parameters, in the namespace, dtype and device of
        `jacobian`.

    Raises
    ------
    InvalidInputError
        If the shape does not fit, the weighting refuses the Gramian, or does not return K weights, or the
        method has a state or weighs losses.
    InvalidTypeError
        If `weighting` is neither callable nor a name.

    Examples
    --------
    >>> import mojd
    >>> mojd.aggregate([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]], mojd.upgrad)
    array([0.29239766, 1.9005848 , 1.9005848 ])
    """
    rows = as_array(jacobian, "jacobian")
    check_jacobian_shape(rows)
    method = get_method(weighting) if isinstance(weighting, str) else method_of(weighting)
    if method is not None:
        name, by_name = method.name, isinstance(weighting, str)
        if not isinstance(method, Weighting | Aggregator):
            raise InvalidInputError(f"{name!r} weights losses, not gradients: call mojd.{name}")
        if method.is_stateful:
            raise InvalidInputError(f"{name!r} has a state to carry along: call mojd.{name} itself")
        if isinstance(method, Aggregator):
            return (method.direction if by_name else weighting)(rows, **options)
        weighting = method.weights if by_name else weighting
    if not callable(weighting):
        raise InvalidTypeError(
            f"weighting must be a function from Gramians to weights or a name, got {type(weighting).__name__}"
        )
    if dtype_name(rows) in ("float16", "bfloat16"):
        # In half precision, the Gramian itself would underflow, overflow, and lose small conflicts.
        xp = namespace(rows)
        return restore(aggregate(xp.astype(rows, xp.float32), weighting, **options), rows)
    weights = as_array(weighting(gramian(rows), **options), "the weights")
    if weights.ndim == 0 or weights.shape[-1] != rows.shape[-2]:
        raise InvalidInputError(
            f"the weighting returned weights of shape {tuple(weights.shape)} for a jacobian of shape "
            f"{tuple(rows.shape)}: it must return one weight per row"
        )
    if is_on_device(rows):
        xp = namespace(rows)
        return restore(xp.sum(weights[..., None] * rows, axis=-2), rows)
    return restore((to_numpy(weights)[..., None, :] @ to_numpy(rows))[..., 0, :], rows)
