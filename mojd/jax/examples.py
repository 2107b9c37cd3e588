"""Gradients of one loss per example: all at once, or in chunks of which two are held at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from mojd.jax._calls import Call, Options, as_values, batch_size, join, split, split_result
from mojd.jax._meshes import Names, axes_of_leaves, zeros_like
from mojd.jax.gradients import combine, leaves_of, summed_products, wide
from mojd.solvers._xla.varying import vary

_ONE = "with per_example=True, the loss of one example must be a scalar"
_WHY = "with per_example=True,"


class Examples(NamedTuple):
    """Losses of this device's examples, the Gramian of all, and what the direction is computed from.

    Attributes
    ----------
    values : array, shape (k,)
        k = K, but for a batch that is split over devices.
    aux : Any
        With the examples as the first axis.
    gramian : array, shape (K, K)
    rows : pytree of arrays, each of shape (k, *parameter_shape), or None
        The gradients, if they are held.
    """

    values: Array
    aux: Any
    gramian: Array
    rows: Any


def jacobian_of_examples(losses: Any, call: Call, options: Options) -> tuple[Array, Any, Any]:
    """Differentiate the loss of every example.

    Returns
    -------
    values : array, shape (K,)
    jacobian : pytree of arrays, each of shape (K, *parameter_shape)
    aux : Any
        With the examples as the first axis; None without has_aux.
    """
    batch_size(call.args, _WHY)

    def scalar(params: Any, args: tuple[Any, ...]) -> tuple[Array, Any]:
        return _loss(losses, call._replace(params=params, args=args), options)

    each = jax.vmap(jax.value_and_grad(scalar, has_aux=True), in_axes=(None, 0))
    (values, aux), jacobian = each(call.params, call.args)
    return values, jacobian, aux


def differentiate_examples(losses: Any, call: Call, options: Options) -> Examples:
    """Compute the losses of all examples and the Gramian of their gradients."""
    # Else a derivative with respect to replicated parameters would add up what other devices computed.
    call = call._replace(params=vary(call.params, options.batch_axes))
    if options.micro_batches is None:
        values, rows, aux = jacobian_of_examples(losses, call, options)
        axes = axes_of_leaves(options.axis_name, rows)
        exchanged = _exchanged(leaves_of(rows), options.batch_axes)
        total = _summed(summed_products(exchanged, exchanged, axes), options.batch_axes)
        return Examples(values, aux, total, rows)
    return _in_chunks(losses, call, options, options.micro_batches)


def direction_of_examples(losses: Any, call: Call, options: Options, found: Examples, weights: Array) -> Any:
    """Return d = Σ wᵢ gᵢ over the examples of all devices."""
    own = _own_weights(weights, len(found.values), options.batch_axes)
    if found.rows is not None:
        direction = combine(found.rows, own)
    else:
        assert options.micro_batches is not None
        params = vary(call.params, options.batch_axes)
        direction = _weighted_gradient(losses, call._replace(params=params), options, own)
    return lax.psum(direction, options.batch_axes) if options.batch_axes else direction


def _loss(losses: Any, call: Call, options: Options) -> tuple[Array, Any]:
    value, aux = split_result(losses(call.params, *call.args, **call.kwargs), options.has_aux, "losses")
    return as_values(value, "losses", 0, _ONE), aux


def _in_chunks(losses: Any, call: Call, options: Options, parts: int) -> Examples:
    """Compute the Gramian in blocks from pairs of chunks, whose gradients are computed again for each."""
    size = batch_size(call.args, _WHY)
    chunks = split(call.args, parts, size)

    def gradients(index: Any) -> tuple[Array, Any, list[Array], Sequence[Names]]:
        args = jax.tree.map(lambda leaf: lax.dynamic_index_in_dim(leaf, index, keepdims=False), chunks)
        values, rows, aux = jacobian_of_examples(losses, call._replace(args=args), options)
        axes = axes_of_leaves(options.axis_name, rows)
        return values, aux, _exchanged(leaves_of(rows), options.batch_axes), axes

    def blocks_of(row: Array) -> tuple[Array, Any, Array]:
        values, aux, held, axes = gradients(row)
        own = summed_products(held, held, axes)

        def block(column: Array) -> Array:
            # Symmetry gives what lies below the diagonal. The index is not batched under vmap, and so a
            # branch that is not taken costs nothing.
            found: Array = lax.cond(
                column > row,
                lambda: summed_products(held, gradients(column)[2], axes),
                lambda: jnp.where(column == row, own / 2, jnp.zeros_like(own)),
            )
            return found

        return values, aux, lax.map(block, jnp.arange(parts))

    values, aux, blocks = lax.map(blocks_of, jnp.arange(parts))
    upper = _summed(_assembled(blocks, size), options.batch_axes)
    return Examples(join(values), join(aux), upper + upper.T, None)


def _assembled(blocks: Array, size: int) -> Array:
    """Return a matrix (K, K) from blocks (m, m, K/m, K/m) of chunks of this and of all other devices.

    Within a block, rows are ordered by device and then by place in the chunk. An example's number on its
    device is m times its place, plus that of its chunk.
    """
    parts, _, rows, _ = blocks.shape
    places = size // parts
    devices = rows // places
    whole: Array = blocks.reshape(parts, parts, devices, places, devices, places).transpose(2, 3, 0, 4, 5, 1)
    return whole.reshape(devices * size, devices * size)


def _weighted_gradient(losses: Any, call: Call, options: Options, weights: Array) -> Any:
    """Return the gradient of Σ wᵢ lossᵢ, chunk by chunk: one ordinary pass over the batch."""
    assert options.micro_batches is not None
    chunks = split((call.args, weights), options.micro_batches, len(weights))

    def of_chunk(args: tuple[Any, ...], own: Array) -> Any:
        def weighted(params: Any) -> Array:
            each = jax.vmap(
                lambda example: _loss(losses, call._replace(params=params, args=example), options)[0]
            )
            values = each(args)
            return jnp.vdot(own.astype(values.dtype), values)

        return jax.tree.map(lambda leaf: leaf.astype(wide(leaf.dtype)), jax.grad(weighted)(call.params))

    def add(total: Any, chunk: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, of_chunk(*chunk)), None

    one = jax.tree.map(lambda leaf: leaf[0], chunks)
    total, _ = lax.scan(add, zeros_like(jax.eval_shape(of_chunk, *one)), chunks)
    return jax.tree.map(lambda leaf, param: leaf.astype(jnp.result_type(param)), total, call.params)


def _exchanged(leaves: list[Array], names: Names) -> list[Array]:
    """Give every device all rows of its share of each leaf, instead of all of its own rows."""
    if not names:
        return leaves
    devices = lax.axis_size(names)
    shares = []
    for leaf in leaves:
        rows = leaf.reshape(len(leaf), math.prod(leaf.shape[1:]))
        rows = jnp.pad(rows, ((0, 0), (0, -rows.shape[1] % devices)))
        shares.append(lax.all_to_all(rows, names, split_axis=1, concat_axis=0, tiled=True))
    return shares


def _summed(products: Array, names: Names) -> Array:
    return lax.psum(products, names) if names else products


def _own_weights(weights: Array, count: int, names: Names) -> Array:
    """Return the weights of this device's examples."""
    if not names:
        return weights
    own: Array = lax.dynamic_slice_in_dim(weights, lax.axis_index(names) * count, count)
    return own
