"""Cases that need 8 devices: ``python -m tests.jax.sharded_cases FILE`` writes what is wrong with each.

The number of devices is fixed when JAX starts, so that they run in a process of their own.
"""

from __future__ import annotations

import json
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import mojd.jax
from tests.jax.problems import softened

TASKS, EXAMPLES = 3, 24
# How a network is split that keeps its hidden units on different devices.
SPECS = {"in": P(None, "model"), "bias": P("model"), "out": P(None, "model"), "offset": P(), "odd": P()}
BATCH, SAME = P("data"), P()


def problem() -> tuple[dict[str, Any], Array, Array]:
    """Parameters of which some are split and some are not, and a batch."""
    rng = np.random.default_rng(0)
    shapes = {"in": (6, 8), "bias": (8,), "out": (TASKS, 8), "offset": (), "odd": (5,)}
    params = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}
    return params, jnp.asarray(rng.normal(size=(EXAMPLES, 6))), jnp.asarray(rng.normal(size=EXAMPLES))


def outputs(params: Any, x: Array, total: Callable[[Array], Array] = lambda partial: partial) -> Array:
    """The outputs of the tasks; `total` adds up over the devices that have the hidden units."""
    hidden = jnp.tanh(x @ params["in"] + params["bias"])
    found: Array = total(hidden @ params["out"].T) + params["offset"] + x[..., :5] @ params["odd"][:, None]
    return found


def task_losses(params: Any, x: Array, y: Array, **options: Any) -> Array:
    return ((outputs(params, x, **options) - y[:, None] * jnp.arange(1.0, TASKS + 1)) ** 2).mean(0)


def example_loss(params: Any, x: Array, y: Array, **options: Any) -> Array:
    total: Array = ((outputs(params, x, **options) - y) ** 2).sum()
    return total


def over_model(partial: Array) -> Array:
    total: Array = lax.psum(partial, "model")
    return total


def mesh_of(kind: AxisType) -> Any:
    return jax.make_mesh((4, 2), ("data", "model"), axis_types=(kind, kind))


def assert_same(found: Any, expected: Any) -> None:
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12 * float(jnp.abs(other).max()))


def collectives(function: Any, *args: Any) -> list[str]:
    """What crosses devices in the compiled program, as lines of its text."""
    text = function.lower(*args).compile().as_text()
    return re.findall(r"= (.* (?:all-gather|all-reduce|all-to-all|collective|reduce-scatter)[^(]*)\(", text)


def assert_no_gather(lines: list[str]) -> None:
    assert lines, "nothing crosses devices: nothing is sharded"
    assert not [line for line in lines if "all-gather" in line], lines


def placed(mesh: Any) -> tuple[Any, Any, Any]:
    params, x, y = problem()
    params = {name: jax.device_put(leaf, NamedSharding(mesh, SPECS[name])) for name, leaf in params.items()}
    return params, *(jax.device_put(array, NamedSharding(mesh, BATCH)) for array in (x, y))


def check_compiler(losses: Any, weighting: Any = softened, **options: Any) -> None:
    """Split arrays under jit; the compiler finds out what has to cross."""
    step = mojd.jax.value_and_direction(losses, weighting, info=True, **options)
    args = placed(mesh_of(AxisType.Auto))
    compiled = jax.jit(step)
    found = compiled(*args)
    assert_same(found, step(*problem()))
    assert_no_gather(collectives(compiled, *args))
    for name, leaf in found[1].items():
        assert leaf.sharding.is_equivalent_to(args[0][name].sharding, leaf.ndim), (name, leaf.sharding)


def jit_vector() -> None:
    check_compiler(task_losses)


def jit_upgrad() -> None:
    check_compiler(task_losses, "upgrad")


def jit_sequence() -> None:
    check_compiler([lambda *args, task=task: task_losses(*args)[task] for task in range(TASKS)])


def jit_sequential() -> None:
    check_compiler(task_losses, sequential=True)


def jit_micro_batches() -> None:
    check_compiler(task_losses, micro_batches=2)


def jit_gramian() -> None:
    """K² numbers are added up over the devices, and nothing else crosses them."""
    mesh = mesh_of(AxisType.Auto)
    rng = np.random.default_rng(0)
    leaf = jnp.asarray(rng.normal(size=(TASKS, 4, 6, 8)))
    for spec in (P(None, "model"), P(None, None, None, ("data", "model")), P(None, "data", None, "model")):
        function = jax.jit(mojd.jax.gramian)
        split = jax.device_put(leaf, NamedSharding(mesh, spec))
        assert_same(function(split), mojd.jax.gramian(leaf))
        lines = collectives(function, split)
        assert lines and all("f64[3,3]" in line and "all-reduce" in line for line in lines), lines


def explicit_axes() -> None:
    """A mesh as jax.make_mesh returns it, on which types say how arrays are split."""
    mesh = mesh_of(AxisType.Explicit)
    with jax.set_mesh(mesh):

        def losses(params: Any, x: Array, y: Array) -> Array:
            hidden = jnp.tanh(x @ params["in"] + params["bias"])
            found = jnp.einsum("bh,th->bt", hidden, params["out"], out_sharding=P("data"))
            found = found + params["offset"] + x[..., :5] @ params["odd"][:, None]
            means: Array = ((found - y[:, None] * jnp.arange(1.0, TASKS + 1)) ** 2).mean(0)
            return means

        args = placed(mesh)
        in_parts = jax.jit(mojd.jax.value_and_direction(losses, softened, info=True, micro_batches=2))(*args)
        found = jax.jit(mojd.jax.value_and_direction(losses, softened, info=True))(*args)
        for name, leaf in found[1].items():
            assert leaf.sharding.is_equivalent_to(args[0][name].sharding, leaf.ndim), (name, leaf.sharding)
        found, in_parts = jax.tree.map(np.asarray, (found, in_parts))
    expected = mojd.jax.value_and_direction(task_losses, softened, info=True)(*problem())
    assert_same(found, expected)
    assert_same(in_parts, expected)


def check_shard_map(
    losses: Any,
    specs: Any,
    check_vma: bool = True,
    weighting: Any = softened,
    model_axis: bool = True,
    values_spec: Any = SAME,
    **options: Any,
) -> list[str]:
    """Every device computes with its own parts; return what crosses."""
    mesh = mesh_of(AxisType.Auto)
    arguments = {"total": over_model} if model_axis else {}
    per_example = options.get("per_example", False)
    split_batch = "batch_axis_name" in options
    batch = BATCH if split_batch else P()

    def own(params: Any, x: Array, y: Array) -> Array:
        found: Array = losses(params, x, y, **arguments)
        return found

    step = mojd.jax.value_and_direction(own, weighting, info=True, **options)
    function = jax.jit(
        jax.shard_map(
            step,
            mesh=mesh,
            in_specs=(specs, batch, batch),
            out_specs=(values_spec, specs, P()),
            check_vma=check_vma,
        )
    )
    args = problem()
    whole = mojd.jax.value_and_direction(losses, weighting, per_example=per_example, info=True)
    assert_same(function(*args), whole(*args))
    lines = collectives(function, *args)
    assert_no_gather(lines)
    return lines


def map_tasks() -> None:
    check_shard_map(task_losses, SPECS, axis_name="model")


def map_tasks_by_specs() -> None:
    check_shard_map(task_losses, SPECS, axis_name=SPECS)


def map_tasks_and_batch() -> None:
    check_shard_map(task_losses, SPECS, axis_name="model", batch_axis_name="data")


def map_tasks_upgrad() -> None:
    check_shard_map(task_losses, SPECS, weighting="upgrad", axis_name="model", batch_axis_name="data")


def map_tasks_in_parts() -> None:
    check_shard_map(task_losses, SPECS, axis_name="model", batch_axis_name="data", micro_batches=3)


def map_batch_unchecked() -> None:
    replicated = dict.fromkeys(SPECS, P())
    check_shard_map(task_losses, replicated, False, model_axis=False, batch_axis_name="data")


def map_losses_that_average() -> None:
    """Losses that are means over the whole batch by themselves need no batch_axis_name."""
    mesh = mesh_of(AxisType.Auto)
    step = mojd.jax.value_and_direction(
        lambda *args: lax.pmean(task_losses(*args), "data"), softened, info=True
    )
    function = jax.shard_map(step, mesh=mesh, in_specs=(P(), BATCH, BATCH), out_specs=P())
    expected = mojd.jax.value_and_direction(task_losses, softened, info=True)(*problem())
    assert_same(jax.jit(function)(*problem()), expected)


def gramian_unchecked() -> None:
    """Without types, specs say which leaves are split."""
    mesh = mesh_of(AxisType.Auto)
    jacobian = {"split": jnp.arange(32.0).reshape(2, 16) - 5, "same": jnp.arange(6.0).reshape(2, 3)}
    specs = {"split": P(("data", "model")), "same": P()}
    for axes, expected in (
        (specs, mojd.jax.gramian(jacobian)),
        # By the word of a name, every leaf is split: eight times what is the same everywhere.
        (
            ("data", "model"),
            mojd.jax.gramian(jacobian["split"]) + 8 * mojd.jax.gramian(jacobian["same"]),
        ),
    ):
        function = jax.shard_map(
            lambda tree, axes=axes: mojd.jax.gramian(tree, axis_name=axes),
            mesh=mesh,
            in_specs=({"split": P(None, ("data", "model")), "same": P()},) * 1,
            out_specs=P(),
            check_vma=False,
        )
        assert_same(jax.jit(function)(jacobian), expected)


def check_examples(specs: Any, check_vma: bool = True, **options: Any) -> None:
    lines = check_shard_map(
        example_loss, specs, check_vma, values_spec=BATCH, per_example=True, batch_axis_name="data", **options
    )
    assert any("all-to-all" in line for line in lines), lines


def map_examples() -> None:
    check_examples(SPECS, axis_name="model")


def map_examples_upgrad() -> None:
    replicated = dict.fromkeys(SPECS, P())
    check_examples(replicated, weighting="upgrad", model_axis=False)


def map_examples_in_chunks() -> None:
    check_examples(SPECS, axis_name="model", micro_batches=3)


def map_examples_unchecked() -> None:
    replicated = dict.fromkeys(SPECS, P())
    check_examples(replicated, False, model_axis=False)
    check_examples(replicated, False, model_axis=False, micro_batches=2)


def map_examples_over_both_axes() -> None:
    mesh = mesh_of(AxisType.Auto)
    both = ("data", "model")
    step = mojd.jax.value_and_direction(
        example_loss, softened, per_example=True, batch_axis_name=both, micro_batches=3
    )
    function = jax.shard_map(step, mesh=mesh, in_specs=(P(), P(both), P(both)), out_specs=(P(both), P()))
    whole = mojd.jax.value_and_direction(example_loss, softened, per_example=True)
    assert_same(jax.jit(function)(*problem()), whole(*problem()))


def map_gramians() -> None:
    """Gramians of which each device has its own: values and derivatives, by kernels and by XLA."""
    J = jnp.asarray(np.random.default_rng(1).normal(size=(8, 4, 6)))
    mesh = mesh_of(AxisType.Auto)
    for name, solver in (("upgrad", "auto"), ("mgda", "auto"), ("pcd", "auto"), ("upgrad", "xla")):

        def loss(J: Array, name: str = name, solver: str = solver) -> Array:
            weights: Array = getattr(mojd.jax, name)(J @ J.mT, solver=solver)
            return (weights**2).sum(-1)

        mapped = jax.shard_map(loss, mesh=mesh, in_specs=P(("data", "model")), out_specs=P(("data", "model")))
        assert_same(jax.jit(mapped)(J), loss(J))
        found = jax.jit(jax.grad(lambda J, mapped=mapped: mapped(J).sum()))(J)
        assert_same(found, jax.grad(lambda J, loss=loss: loss(J).sum())(J))


def map_what_is_the_same_everywhere() -> None:
    """Leaves that no axis splits are not added up over it, and types say so."""
    leaves = {"w": jnp.ones((3, 5)), "b": jnp.arange(3.0)}
    function = jax.shard_map(
        lambda leaves: mojd.jax.gramian(leaves, axis_name="model"),
        mesh=mesh_of(AxisType.Auto),
        in_specs=(SAME,),
        out_specs=SAME,
    )
    assert_same(function(leaves), mojd.jax.gramian(leaves))


CASES: dict[str, Callable[[], None]] = {
    case.__name__: case
    for case in (
        jit_vector,
        jit_upgrad,
        jit_sequence,
        jit_sequential,
        jit_micro_batches,
        jit_gramian,
        explicit_axes,
        map_tasks,
        map_tasks_by_specs,
        map_tasks_and_batch,
        map_tasks_upgrad,
        map_tasks_in_parts,
        map_batch_unchecked,
        map_losses_that_average,
        gramian_unchecked,
        map_examples,
        map_examples_upgrad,
        map_examples_in_chunks,
        map_examples_unchecked,
        map_examples_over_both_axes,
        map_gramians,
        map_what_is_the_same_everywhere,
    )
}


def main(path: Path) -> None:
    """Run all cases, and write their tracebacks, empty where all is well."""
    jax.config.update("jax_enable_x64", True)
    found = {}
    for name, case in CASES.items():
        try:
            case()
            found[name] = ""
        except Exception:
            found[name] = traceback.format_exc()
        path.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
