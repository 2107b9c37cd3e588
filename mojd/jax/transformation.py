"""The weighting as the first link of a chain of optax: Jacobians in, a direction out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax

from mojd.errors import InvalidInputError, InvalidTypeError, MissingDependencyError
from mojd.jax._weighing import checked, is_stateful, weigh
from mojd.jax.gradients import combine, gramian

if TYPE_CHECKING:
    import optax


def aggregate_gradients(
    weighting: Any = "upgrad", *, num_losses: int | None = None, axis_name: Any = None
) -> optax.GradientTransformationExtraArgs:
    r"""Make a gradient transformation of optax from the gradients of several losses to one direction.

    .. math:: d = \sum_k w_k\, g_k, \qquad w = \omega(J J^\top)

    Parameters
    ----------
    weighting : str, callable or StatefulWeighting, default 'upgrad'
        As for :func:`mojd.jax.value_and_direction`.
    num_losses : int, optional
        K. A weighting with a state needs it, as ``init`` of optax sees the parameters alone.
    axis_name : name, tuple of names, or pytree of PartitionSpec, optional
        In ``jax.shard_map``, the mesh axes over which parameters are split, as for
        :func:`mojd.jax.gramian`.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        Its updates are Jacobians, with leaves (K, \*parameter_shape), such as
        :func:`mojd.jax.value_and_jacobian` gives; its result has the shapes of the parameters. Its state is
        that of the weighting, and empty if there is none.

    Raises
    ------
    MissingDependencyError
        If optax is not installed.
    InvalidTypeError, InvalidInputError
        If the weighting is none, or `num_losses` is missing or not what the Jacobians hold.

    Notes
    -----
    It comes first in a chain, and what follows sees one direction. Transformations that wrap others and count
    on updates of the shapes of the parameters go behind it, not around it:
    ``optax.chain(aggregate_gradients(...), optax.apply_if_finite(optax.adam(1e-3), 5))`` skips steps with
    NaN. In place of ``optax.MultiSteps``, :func:`mojd.jax.value_and_jacobian` takes ``micro_batches``.

    Examples
    --------
    >>> import jax.numpy as jnp, mojd.jax, optax
    >>> losses = [lambda p: (p[0] - 1) ** 2, lambda p: p[0] ** 2 + p[1] ** 2]
    >>> optimizer = optax.chain(mojd.jax.aggregate_gradients("upgrad"), optax.sgd(0.5))
    >>> params = jnp.array([0.5, 1.0])
    >>> state = optimizer.init(params)
    >>> values, jacobian = mojd.jax.value_and_jacobian(losses)(params)
    >>> updates, state = optimizer.update(jacobian, state, params)
    >>> [round(float(entry), 3) for entry in optax.apply_updates(params, updates)]
    [0.7, 0.4]
    """
    try:
        import optax
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "mojd.jax.aggregate_gradients needs optax, which is not installed: pip install 'mojd[optax]'"
        ) from error

    weigher, has_state = checked(weighting), is_stateful(weighting)
    _check_count(num_losses, has_state)

    def init(params: Any) -> Any:
        del params
        return weigher.init(num_losses) if has_state and num_losses else optax.EmptyState()

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        del extra
        products = gramian(updates, axis_name=axis_name)
        _check_shapes(updates, params, num_losses)
        weights, state = weigh(weigher, products, state)
        return combine(updates, weights), state

    return optax.GradientTransformationExtraArgs(init, update)


def _check_count(num_losses: Any, has_state: bool) -> None:
    if num_losses is None:
        if has_state:
            raise InvalidInputError(
                "the weighting has a state, whose size optax can't know: pass num_losses=, the "
                "number of losses"
            )
    elif isinstance(num_losses, bool) or not isinstance(num_losses, int) or num_losses < 1:
        raise InvalidInputError(f"num_losses must be an integer of at least 1, got {num_losses!r}")


def _check_shapes(updates: Any, params: Any, num_losses: int | None) -> None:
    """Raise unless updates hold a gradient per loss for each of the parameters, if these are known."""
    found = jax.tree.leaves(updates)[0].shape[0]
    if num_losses is not None and found != num_losses:
        raise InvalidInputError(f"updates hold {found} gradients, and num_losses is {num_losses}")
    if params is None:
        return
    given: Any = jax.tree.structure(updates)
    wanted: Any = jax.tree.structure(params)
    if given != wanted:
        raise InvalidTypeError(
            f"updates have the structure {given}, the parameters {wanted}: pass "
            "the Jacobian from mojd.jax.value_and_jacobian"
        )
    for (path, leaf), param in zip(
        jax.tree_util.tree_leaves_with_path(updates), jax.tree.leaves(params), strict=True
    ):
        if leaf.shape[1:] != param.shape:
            raise InvalidInputError(
                f"updates{jax.tree_util.keystr(path)} has shape {leaf.shape}, the parameter {param.shape}: "
                "before the parameter's own axes there must be one for the losses"
            )
