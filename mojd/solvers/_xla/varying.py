"""What may differ from device to device inside of ``jax.shard_map``, by its type."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import jax
from jax import lax


def varying_axes(value: Any) -> frozenset[Hashable]:
    """Return the axes of ``shard_map`` along which a value differs from device to device.

    Empty outside of ``shard_map`` and with ``check_vma=False``, where types do not say it. `value` is an
    array or what ``jax.eval_shape`` returns for one.
    """
    known = value if isinstance(value, jax.ShapeDtypeStruct) else jax.typeof(value)
    kind = getattr(known, "manual_axis_type", None)
    # In older versions the set is an attribute of its own.
    found = getattr(known, "vma", None) if kind is None else kind.varying
    return frozenset(found or ())


def vary(tree: Any, names: Any) -> Any:
    """Mark arrays as differing along axes, so that nothing is added up along them in a derivative."""

    def mark(leaf: Any) -> Any:
        missing = tuple(name for name in names if name not in varying_axes(leaf))
        return lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(mark, tree)
