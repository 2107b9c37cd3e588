"""Jacobians as pytrees: a leaf per parameter, its first axis the objectives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from mojd.errors import InvalidInputError, InvalidTypeError
from mojd.jax._meshes import Names, axes_of_leaves, explicit_sharding, spec_of


def gramian(jacobian: Any, *, axis_name: Any = None) -> Array:
    r"""Compute the Gramian of gradients that are held leaf by leaf.

    .. math:: G_{ij} = \sum_{\text{leaves}} \langle g_i, g_j \rangle

    Parameters
    ----------
    jacobian : pytree of arrays, each of shape (K, \*parameter_shape)
        The gradients of K objectives, real or complex, as ``jax.jacrev`` returns them for a function with
        values of shape (K,).
    axis_name : name, tuple of names, or pytree of PartitionSpec, optional
        In ``jax.shard_map``, the mesh axes over which the parameters are split. The K² numbers are added up
        over them. A name holds for all leaves except those that ``check_vma`` knows to be the same on every
        device. With ``check_vma=False`` nothing is known: if some parameters are split and others not, pass
        their ``in_specs``.

    Returns
    -------
    array, shape (K, K)
        In the widest dtype of the leaves, and float32 at least. For complex parameters, the real part of the
        inner product.

    Raises
    ------
    InvalidInputError
        If there are no leaves, or they differ in K.
    InvalidTypeError
        If a leaf is not of floating-point or complex numbers.

    Notes
    -----
    Each leaf is contracted with itself over all of its parameter axes, in its own shape: there is no Jacobian
    (K, n), nor a copy of a leaf, and where leaves are sharded, what crosses devices is K² numbers. Products
    have the full precision of their dtype. Cost: K² n multiplications.

    Examples
    --------
    >>> import jax.numpy as jnp, mojd.jax
    >>> mojd.jax.gramian({"w": jnp.array([[-4.0, 1.0], [6.0, 1.0]]), "b": jnp.array([1.0, 1.0])})
    Array([[ 18., -22.],
           [-22.,  38.]], dtype=float32)
    """
    leaves = leaves_of(jacobian)
    return summed_products(leaves, leaves, axes_of_leaves(axis_name, jacobian))


def combine(jacobian: Any, weights: Any) -> Any:
    r"""Add up weighted gradients: the direction d = Jᵀw, leaf by leaf.

    Parameters
    ----------
    jacobian : pytree of arrays, each of shape (K, \*parameter_shape)
    weights : array, shape (K,)

    Returns
    -------
    pytree of arrays
        Of the shapes and dtypes of the parameters. Sums are in float32 at least.

    Raises
    ------
    InvalidInputError
        If `weights` has another shape than (K,), there are no leaves, or they differ in K.
    InvalidTypeError
        If a leaf is not of floating-point or complex numbers, or `weights` is not real.

    Examples
    --------
    >>> import jax.numpy as jnp, mojd.jax
    >>> jacobian = {"w": jnp.array([[-4.0, 1.0], [6.0, 1.0]]), "b": jnp.array([1.0, 1.0])}
    >>> mojd.jax.combine(jacobian, jnp.array([1.0, 0.5]))
    {'b': Array(1.5, dtype=float32), 'w': Array([-1. ,  1.5], dtype=float32)}
    """
    leaves = leaves_of(jacobian)
    weights = jnp.asarray(weights)
    if weights.shape != leaves[0].shape[:1]:
        raise InvalidInputError(
            f"weights must have one entry per objective, shape {leaves[0].shape[:1]}; got shape "
            f"{weights.shape}"
        )
    if jnp.issubdtype(weights.dtype, jnp.complexfloating):
        raise InvalidTypeError(f"weights must be real numbers, got dtype {weights.dtype}")
    return jax.tree.map(lambda leaf: _weighted_sum(jnp.asarray(leaf), weights), jacobian)


def leaves_of(jacobian: Any) -> list[Array]:
    """Return the leaves of a Jacobian as arrays.

    Raises
    ------
    InvalidInputError, InvalidTypeError
        If they are no gradients of the same K ≥ 1 objectives.
    """
    leaves: list[Array] = []
    for path, value in jax.tree_util.tree_leaves_with_path(jacobian):
        leaf = require_inexact(value, f"jacobian{jax.tree_util.keystr(path)}")
        if leaf.ndim == 0 or leaf.shape[0] == 0:
            raise InvalidInputError(
                f"jacobian{jax.tree_util.keystr(path)} has shape {leaf.shape}: its first axis must be the "
                "objectives, one gradient each"
            )
        if leaves and leaf.shape[0] != leaves[0].shape[0]:
            raise InvalidInputError(
                f"jacobian{jax.tree_util.keystr(path)} holds {leaf.shape[0]} gradients, the leaves before it "
                f"{leaves[0].shape[0]}: all must have one per objective"
            )
        leaves.append(leaf)
    if not leaves:
        raise InvalidInputError("jacobian has no leaves: there is nothing that depends on a parameter")
    return leaves


def require_inexact(value: Any, name: str) -> Array:
    """Return a value as an array of real or complex floating-point numbers, or say that it is none."""
    try:
        leaf = jnp.asarray(value)
    except TypeError as error:
        raise InvalidTypeError(f"{name} must be an array, got {type(value).__name__}") from error
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
        raise InvalidTypeError(
            f"{name} has dtype {leaf.dtype}, and only floating-point or complex numbers have gradients: keep "
            "it apart from what is trained, as with equinox.partition or an argument of its own"
        )
    return leaf


def summed_products(rows: Sequence[Array], others: Sequence[Array], axes: Sequence[Names]) -> Array:
    """Compute the inner products (K, L) of gradients of K and of L objectives.

    Parameters
    ----------
    rows, others : sequence of arrays
        Leaves (K, ...) and (L, ...).
    axes : sequence of tuples of names
        For each leaf, the axes over which its parameter is split.
    """
    sums: dict[Names, Array] = {}
    for left, right, names in zip(rows, others, axes, strict=True):
        product = _products(left, right)
        sums[names] = sums[names] + product if names in sums else product
    totals = [lax.psum(total, names) if names else total for names, total in sums.items()]
    found = totals[0]
    for total in totals[1:]:
        found = found + total
    return found


def wide(dtype: Any) -> Any:
    """Return the dtype to add up in: float32 for anything narrower."""
    return jnp.promote_types(dtype, jnp.float32)


def _products(left: Array, right: Array) -> Array:
    """Contract all parameter axes of two leaves at once, without bringing them into another shape."""
    axes = tuple(range(1, left.ndim))
    found = lax.dot_general(
        left,
        right.conj() if jnp.issubdtype(right.dtype, jnp.complexfloating) else right,
        ((axes, axes), ((), ())),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=wide(jnp.promote_types(left.dtype, right.dtype)),
        out_sharding=explicit_sharding(left, (None, None)),
    )
    return found.real if jnp.issubdtype(found.dtype, jnp.complexfloating) else found


def _weighted_sum(leaf: Array, weights: Array) -> Array:
    """Return Σ wᵢ gᵢ of one leaf."""
    dtype = wide(leaf.dtype)
    found = lax.dot_general(
        weights.astype(dtype),
        leaf.astype(dtype),
        (((0,), (0,)), ((), ())),
        precision=lax.Precision.HIGHEST,
        out_sharding=explicit_sharding(leaf, spec_of(leaf)[1:]),
    )
    return found.astype(leaf.dtype)
