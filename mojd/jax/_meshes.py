"""Named axes inside ``jax.shard_map``, and shardings that are part of an array's type."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import NamedSharding, PartitionSpec

from mojd.errors import InvalidInputError, InvalidTypeError
from mojd.solvers._xla.varying import vary, varying_axes

Names = tuple[Hashable, ...]


def names_of(axis_name: Any, argument: str) -> Names:
    """Return axis names as a tuple: one name, several, or None for none."""
    if axis_name is None:
        return ()
    names = tuple(axis_name) if isinstance(axis_name, tuple | list) else (axis_name,)
    if not all(isinstance(name, Hashable) for name in names):
        raise InvalidTypeError(
            f"{argument} must be the name of a mesh axis, such as 'data', or a tuple of names; "
            f"got {axis_name!r}"
        )
    return names


def zeros_like(tree: Any) -> Any:
    """Return zeros of the shapes, dtypes and types inside ``shard_map`` that ``jax.eval_shape`` found."""

    def zeros(leaf: Any) -> Array:
        none = jnp.zeros(leaf.shape, leaf.dtype, device=_explicit(getattr(leaf, "sharding", None)))
        found: Array = vary(none, sorted(varying_axes(leaf), key=str))
        return found

    return jax.tree.map(zeros, tree)


def _explicit(sharding: Any) -> NamedSharding | None:
    """Return a sharding if it is part of a type, on a mesh with axes of type Explicit."""
    if isinstance(sharding, NamedSharding) and any(entry is not None for entry in sharding.spec):
        return sharding
    return None


def axes_of_leaves(axis_name: Any, tree: Any) -> list[Names]:
    """Return for each leaf the axes over which its parameter is split.

    Parameters
    ----------
    axis_name : name, tuple of names, pytree of PartitionSpec, or None
        Names hold for every leaf, but not for one of which its type says that it is the same everywhere. A
        tree, or a prefix of it, is that of the parameters in ``in_specs``.
    tree : pytree of arrays
    """
    leaves = jax.tree.leaves(tree)
    if _is_specs(axis_name):
        specs = jax.tree.leaves(_broadcast(axis_name, tree), is_leaf=_is_spec)
        return [_names_in(spec) for spec in specs]
    names = names_of(axis_name, "axis_name")
    varying = [tuple(name for name in names if name in varying_axes(leaf)) for leaf in leaves]
    # With check_vma=False there are no such types, and the caller's word is all there is.
    return varying if _has_types(names) else [names] * len(leaves)


def _has_types(names: Names) -> bool:
    """Whether types say what differs along axes: that of the place along one does, if any."""
    return bool(names) and bool(varying_axes(lax.axis_index(names[0])))


def _is_spec(value: Any) -> bool:
    return isinstance(value, PartitionSpec)


def _is_specs(axis_name: Any) -> bool:
    """Whether it is a tree of PartitionSpec, and not names."""
    leaves = jax.tree.leaves(axis_name, is_leaf=_is_spec)
    return bool(leaves) and all(_is_spec(leaf) for leaf in leaves)


def _broadcast(specs: Any, tree: Any) -> Any:
    """Return a spec per leaf of `tree`, from a prefix of it."""
    try:
        return jax.tree.map(
            lambda spec, below: jax.tree.map(lambda _: spec, below), specs, tree, is_leaf=_is_spec
        )
    except ValueError as error:
        raise InvalidInputError(
            f"axis_name is a tree of PartitionSpec that does not fit the parameters: {error}"
        ) from error


def _names_in(spec: Any) -> Names:
    """Return the names of the axes in a PartitionSpec."""
    found: list[Hashable] = []
    for entry in spec:
        found += names_of(entry, "axis_name")
    return tuple(found)


def explicit_sharding(leaf: Any, spec: tuple[Any, ...]) -> NamedSharding | None:
    """Return a sharding for what is computed from a leaf, on a mesh with axes of type Explicit.

    There a contraction over a split axis has to be told how its result is split. None on other meshes, where
    the compiler decides.
    """
    sharding = getattr(jax.typeof(leaf), "sharding", None)
    known = _explicit(sharding)
    if known is None:
        return None
    return NamedSharding(known.mesh, PartitionSpec(*spec))


def spec_of(leaf: Any) -> tuple[Any, ...]:
    """Return how the axes of an array are split according to its type; None for those that are not."""
    sharding = getattr(jax.typeof(leaf), "sharding", None)
    spec = tuple(sharding.spec) if isinstance(sharding, NamedSharding) else ()
    return spec + (None,) * (jnp.ndim(leaf) - len(spec))
