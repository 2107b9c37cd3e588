"""Several losses, one direction: what stands where ``jax.value_and_grad`` does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from mojd.errors import InvalidInputError, InvalidTypeError
from mojd.jax._calls import Call, Options, check_losses, check_options, check_params
from mojd.jax._weighing import checked, is_stateful, weigh
from mojd.jax.examples import differentiate_examples, direction_of_examples, jacobian_of_examples
from mojd.jax.gradients import combine, gramian
from mojd.jax.stateful import StatefulWeighting
from mojd.jax.tasks import jacobian_of_tasks

Losses = Callable[..., Any] | Sequence[Callable[..., Any]]


class StepInfo(NamedTuple):
    """What a direction was computed from.

    Attributes
    ----------
    gramian : array, shape (K, K)
        G = J Jᵀ.
    weights : array, shape (K,)
        w, with d = Jᵀw.
    slopes : array, shape (K,)
        J d = G w: how fast each loss falls, to first order, along −d.
    """

    gramian: Array
    weights: Array
    slopes: Array


def value_and_direction(
    losses: Losses,
    weighting: Any = "upgrad",
    *,
    has_aux: bool = False,
    per_example: bool = False,
    micro_batches: int | None = None,
    sequential: bool = False,
    axis_name: Any = None,
    batch_axis_name: Any = None,
    info: bool = False,
) -> Callable[..., Any]:
    r"""Make a function that evaluates several losses and the direction to subtract from the parameters.

    .. math:: d = \sum_k w_k\, \nabla \ell_k, \qquad w = \omega(J J^\top)

    It stands where ``jax.value_and_grad`` does; any optimiser takes the step.

    Parameters
    ----------
    losses : sequence of functions, or function
        K functions of the parameters and further arguments, each to a scalar; or one function to a vector
        (K,), so that the losses share what they have in common. With `per_example`, one function of the
        parameters and one example to a scalar. In the order of the weights: for PCD the primary first.
    weighting : str, callable or StatefulWeighting, default 'upgrad'
        From the Gramian (K, K) to weights (K,): the name of a method of mojd without state or randomness; a
        function of mojd, a partial of one, as in ``functools.partial(mojd.pcd, tau=0.1)``, or a function of
        yours; or one with a state, such as :func:`mojd.jax.pcd_weighting`.
    has_aux : bool, default False
        Whether the functions return pairs (loss, aux).
    per_example : bool, default False
        Whether each example of the batch has a loss of its own (IWRM). The arrays among the positional
        arguments have the examples as their first axis; keyword arguments are shared by all.
    micro_batches : int, optional
        Into how many parts to split the batch, the first axis of the arrays among the positional arguments,
        to hold the activations of one at a time. Losses are taken as means over the batch. With
        `per_example`, the gradients of at most two parts are held; they are computed again, m (m + 1) / 2
        times for m parts instead of m.
    sequential : bool, default False
        With one function to a vector: one backward pass after the other, and not all K at once. Slower, and
        in less memory.
    axis_name : name, tuple of names, or pytree of PartitionSpec, optional
        In ``jax.shard_map``, the mesh axes over which parameters are split, as for
        :func:`mojd.jax.gramian`.
    batch_axis_name : name or tuple of names, optional
        In ``jax.shard_map``, the mesh axes over which the batch is split. The losses are those of this
        device's part: means over it, which are averaged here, or with `per_example` its share of the K
        losses.
    info : bool, default False
        Whether a :class:`StepInfo` comes last in what the function returns.

    Returns
    -------
    callable
        ``function(params, *args, **kwargs)``, returning ``(values, direction)``: the losses, shape (K,), and
        a pytree such as the parameters. With `has_aux`, ``((values, aux), direction)``. With a stateful
        weighting, ``function(params, *args, state=..., **kwargs)``, returning
        ``(values, direction, state)``, from ``weighting.init(K)`` in the first step. With `batch_axis_name`
        and `per_example`, the values of this device's examples.

    Raises
    ------
    InvalidTypeError, InvalidInputError
        If an argument is not what it should be; and by the function when it is called or traced, if losses,
        parameters, batch or weights have the wrong shape or dtype.

    Notes
    -----
    NaN or infinity in a gradient makes all weights NaN, and so the direction; nothing is raised, and
    ``optax.apply_if_finite`` skips the step. Parameters that a loss does not reach have a gradient of 0.

    `aux` of a sequence of functions is a tuple of theirs. That of examples has them as its first axis. With
    `micro_batches` and without `per_example`, its first axis is the parts; part c has the examples
    c, c + m, c + 2m, ...

    Cost: K backward passes, or one per example; K² n multiplications for the Gramian, K n for the direction,
    and the weighting. Memory: K gradients. With `per_example` and `micro_batches`, 2 K / m, and one more
    ordinary pass over the batch.

    References
    ----------
    Jacobian descent, arXiv 2406.16232, Algorithm 1.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, mojd.jax
    >>> def losses(params, x):
    ...     features = jnp.tanh(x @ params["trunk"])
    ...     return jnp.stack([jnp.mean((features @ head - 1) ** 2) for head in params["heads"]])
    >>> params = {"trunk": jnp.eye(3, 2), "heads": [jnp.array([1.0, 0.5]), jnp.array([-1.0, 0.5])]}
    >>> step = jax.jit(mojd.jax.value_and_direction(losses, "upgrad", info=True))
    >>> values, direction, info = step(params, jnp.array([[1.0, 2.0, 3.0], [0.5, -1.0, 2.0]]))
    >>> bool((info.slopes > 0).all())  # along −direction, both losses fall
    True
    >>> params = jax.tree.map(lambda p, d: p - 0.1 * d, params, direction)
    """
    losses = check_losses(losses, per_example)
    weigher = checked(weighting)
    has_state = is_stateful(weighting)
    options = check_options(has_aux, per_example, micro_batches, sequential, axis_name, batch_axis_name)

    def function(params: Any, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        state = _taken_state(kwargs) if has_state else ()
        check_params(params)
        of_kind = _of_examples if per_example else _of_tasks
        values, aux, direction, step, state = of_kind(
            losses, Call(params, args, kwargs), options, weigher, state
        )
        returned = ((values, aux) if has_aux else values, direction)
        return returned + ((state,) if has_state else ()) + ((step,) if info else ())

    return _named(function, losses, has_state)


def value_and_jacobian(
    losses: Losses,
    *,
    has_aux: bool = False,
    per_example: bool = False,
    micro_batches: int | None = None,
    sequential: bool = False,
    batch_axis_name: Any = None,
) -> Callable[..., Any]:
    r"""Make a function that evaluates several losses and the gradient of each.

    For :func:`mojd.jax.aggregate_gradients`, and for gradients that something is to be done with before they
    are weighed.

    Parameters
    ----------
    losses, has_aux, per_example, micro_batches, sequential, batch_axis_name
        As for :func:`value_and_direction`; gradients of single examples are all held, so that `per_example`
        takes neither `micro_batches` nor `batch_axis_name`.

    Returns
    -------
    callable
        ``function(params, *args, **kwargs)``, returning ``(values, jacobian)``: the losses, shape (K,), and
        a pytree such as the parameters with leaves (K, \*parameter_shape). With `has_aux`,
        ``((values, aux), jacobian)``.

    Raises
    ------
    InvalidTypeError, InvalidInputError
        As for :func:`value_and_direction`.

    Examples
    --------
    >>> import jax.numpy as jnp, mojd.jax
    >>> losses = [lambda p: (p["a"] ** 2).sum(), lambda p: p["a"].sum() * p["b"].sum()]
    >>> params = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([4.0])}
    >>> mojd.jax.value_and_jacobian(losses)(params)
    (Array([ 5., 12.], dtype=float32), {'a': Array([[2., 4.],
           [4., 4.]], dtype=float32), 'b': Array([[0.],
           [3.]], dtype=float32)})
    """
    losses = check_losses(losses, per_example)
    options = check_options(has_aux, per_example, micro_batches, sequential, None, batch_axis_name)
    if per_example and (micro_batches is not None or options.batch_axes):
        raise InvalidInputError(
            "value_and_jacobian holds the gradients of all examples at once: leave micro_batches and "
            "batch_axis_name out, or use mojd.jax.value_and_direction"
        )
    differentiate = jacobian_of_examples if per_example else jacobian_of_tasks

    def function(params: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        check_params(params)
        values, jacobian, aux = differentiate(losses, Call(params, args, kwargs), options)
        return (values, aux) if has_aux else values, jacobian

    return _named(function, losses)


def _named(function: Callable[..., Any], losses: Any, has_state: bool = False) -> Callable[..., Any]:
    """Give a function the name and the documentation of the losses, for traces and profiles."""
    if not callable(losses):
        return function
    named = wraps(losses)(function)
    if has_state:
        # The signature of the losses lacks it, and jax.jit looks names of arguments up.
        del named.__wrapped__
    return named


def _taken_state(kwargs: dict[str, Any]) -> Any:
    if kwargs.get("state") is None:
        raise InvalidTypeError(
            "the weighting has a state: call the function with state=weighting.init(K) in the first "
            "step, for K objectives, and with the state that the last call returned after that"
        )
    return kwargs.pop("state")


def _of_tasks(
    losses: Any, call: Call, options: Options, weigher: StatefulWeighting, state: Any
) -> tuple[Array, Any, Any, StepInfo, Any]:
    values, jacobian, aux = jacobian_of_tasks(losses, call, options)
    step, state = _weighed(gramian(jacobian, axis_name=options.axis_name), weigher, state)
    return values, aux, combine(jacobian, step.weights), step, state


def _of_examples(
    losses: Any, call: Call, options: Options, weigher: StatefulWeighting, state: Any
) -> tuple[Array, Any, Any, StepInfo, Any]:
    found = differentiate_examples(losses, call, options)
    step, state = _weighed(found.gramian, weigher, state)
    direction = direction_of_examples(losses, call, options, found, step.weights)
    return found.values, found.aux, direction, step, state


def _weighed(products: Array, weigher: StatefulWeighting, state: Any) -> tuple[StepInfo, Any]:
    weights, state = weigh(weigher, products, state)
    slopes = jnp.matmul(products, weights, precision=lax.Precision.HIGHEST)
    return StepInfo(products, weights, slopes), state
