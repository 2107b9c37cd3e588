"""Plans, run on arrays (B, ...) of any device: what solver 'cuda' does around them, and nothing else."""

from __future__ import annotations

from typing import Any

from mojd._arrays import Array, precision_of
from mojd.solvers._cuda import plans
from mojd.solvers._cuda.devices import Device, run
from mojd.solvers._cuda.plans import Plan, Shape, Vectors
from mojd.solvers._registry import RawSolution


def shape_of(device: Device, gramian: Array, rows: int) -> Shape:
    count, size = (int(length) for length in gramian.shape[:2])
    number = "float" if str(gramian.dtype).endswith("float32") else "double"
    return Shape(count, rows, size, number, device.processors, precision_of(gramian))


def vectors(name: str, values: Array | float, arrays: dict[str, Array]) -> Vectors:
    """Name vectors (B, M), or (1, M) for all problems, among the arrays; or take a number for all."""
    if isinstance(values, float):
        return Vectors("", 0, values)
    arrays[name] = values
    return Vectors(name, int(values.shape[1]) if values.shape[0] > 1 else 0, 0.0)


def solve(device: Device, gramian: Array, linear: Array, **options: Any) -> RawSolution:
    """G (B, K, K) and q (B, R, K), of one dtype."""
    count, rows, size = (int(length) for length in linear.shape)
    raw = RawSolution(
        device.empty((count, rows, size), "float64"),
        device.empty((count, rows), "int8"),
        device.empty((count, rows), "int32"),
    )
    if count * rows:
        plan = plans.solve(shape_of(device, gramian, rows), **options)
        run(device, plan, {"gramian": gramian, "linear": linear, **raw._asdict()})
    return raw


def _weights(device: Device, plan: Plan, arrays: dict[str, Array]) -> Array:
    gramian = arrays["gramian"]
    weights = device.empty(tuple(gramian.shape[:2]), str(gramian.dtype).rsplit(".", maxsplit=1)[-1])
    run(device, plan, {**arrays, "weights": weights})
    return weights


def upgrad(device: Device, gramian: Array, preference: Array | float | None = None) -> Array:
    arrays = {"gramian": gramian}
    size = int(gramian.shape[1])
    own = vectors("preference", 1.0 / size if preference is None else preference, arrays)
    return _weights(device, plans.upgrad(shape_of(device, gramian, size), own), arrays)


def pcd(
    device: Device, gramian: Array, tau: Array | float, scales: Array | float = 1.0, rescale: bool = False
) -> Array:
    arrays = {"gramian": gramian}
    own = vectors("tau", tau, arrays), vectors("scales", scales, arrays)
    shape = shape_of(device, gramian, int(gramian.shape[1]))
    return _weights(device, plans.pcd(shape, *own, rescale), arrays)
