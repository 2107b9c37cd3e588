"""Gradients of a few losses: one backward pass for each, all of them held."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from mojd.jax._calls import Call, Options, as_values, batch_size, split, split_result
from mojd.jax._meshes import zeros_like
from mojd.jax.gradients import wide
from mojd.solvers._xla.varying import vary, varying_axes

_ONE = "a loss must be a scalar, such as a mean over the batch"
_VECTOR = "one function must return a vector (K,) of losses; pass a sequence of functions for scalars"


def jacobian_of_tasks(losses: Any, call: Call, options: Options) -> tuple[Array, Any, Any]:
    """Differentiate K losses.

    Returns
    -------
    values : array, shape (K,)
    jacobian : pytree of arrays, each of shape (K, *parameter_shape)
    aux : Any
        None without has_aux.
    """
    # Else a derivative with respect to replicated parameters would add up what other devices computed.
    params = vary(call.params, options.batch_axes)
    call = call._replace(params=params)
    if options.micro_batches is None:
        values, jacobian, aux = _differentiate(losses, call, options)
    else:
        values, jacobian, aux = _mean_over_parts(losses, call, options, options.micro_batches)
    if options.batch_axes:
        values, jacobian = lax.pmean((values, jacobian), options.batch_axes)
    return values, jacobian, aux


def _differentiate(losses: Any, call: Call, options: Options) -> tuple[Array, Any, Any]:
    if callable(losses):
        return _differentiate_vector(losses, call, options)
    # A pass of its own for each function: the gradients of all of them stacked would come from K passes
    # through the graphs of all K.
    found = [_differentiate_one(loss, f"losses[{k}]", call, options) for k, loss in enumerate(losses)]
    values, gradients, aux = zip(*found, strict=True)
    jacobian = jax.tree.map(lambda *rows: jnp.stack(rows), *gradients)
    return jnp.stack(values), jacobian, aux if options.has_aux else None


def _differentiate_one(loss: Any, name: str, call: Call, options: Options) -> tuple[Array, Any, Any]:
    def scalar(params: Any) -> tuple[Array, Any]:
        value, aux = split_result(loss(params, *call.args, **call.kwargs), options.has_aux, name)
        return as_values(value, name, 0, _ONE), aux

    (value, aux), gradient = jax.value_and_grad(scalar, has_aux=True)(call.params)
    return value, gradient, aux


def _differentiate_vector(losses: Any, call: Call, options: Options) -> tuple[Array, Any, Any]:
    def vector(params: Any) -> tuple[Array, Any]:
        value, aux = split_result(losses(params, *call.args, **call.kwargs), options.has_aux, "losses")
        return as_values(value, "losses", 1, _VECTOR), aux

    values, pullback, aux = jax.vjp(vector, call.params, has_aux=True)
    cotangents = vary(jnp.eye(values.shape[0], dtype=values.dtype), varying_axes(values))
    each = lax.map(pullback, cotangents) if options.sequential else jax.vmap(pullback)(cotangents)
    return values, each[0], aux


def _mean_over_parts(losses: Any, call: Call, options: Options, parts: int) -> tuple[Array, Any, Any]:
    """Average values and gradients over parts of the batch, one after the other."""
    size = batch_size(call.args, "with micro_batches,")

    def of_part(args: tuple[Any, ...]) -> tuple[tuple[Array, Any], Any]:
        values, jacobian, aux = _differentiate(losses, call._replace(args=args), options)
        sums = jax.tree.map(lambda leaf: leaf.astype(wide(leaf.dtype)), (values, jacobian))
        return sums, aux

    def add(sums: Any, args: tuple[Any, ...]) -> tuple[Any, Any]:
        found, aux = of_part(args)
        return jax.tree.map(jnp.add, sums, found), aux

    split_args = split(call.args, parts, size)
    one = jax.tree.map(lambda leaf: leaf[0], split_args)
    (values, jacobian), aux = lax.scan(add, zeros_like(jax.eval_shape(of_part, one)[0]), split_args)
    jacobian = jax.tree.map(
        lambda leaf, param: (leaf / parts).astype(jnp.result_type(param)), jacobian, call.params
    )
    return values / parts, jacobian, aux
