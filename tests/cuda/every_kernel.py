"""Launch every kernel on small hard problems, and look at the answers.

    compute-sanitizer --tool memcheck python -m tests.cuda.every_kernel

is how tools watch them on a GPU. CuPy alone stands between, with an allocation of its own for every array, so
that what is beyond one is nobody's. The tests run the same program with the kernels compiled for the CPU.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mojd import NNQP, Solution, Status
from mojd.solvers._cuda import plans
from mojd.solvers._cuda.devices import Device
from mojd.solvers._cuda.source import names
from mojd.weightings import get_method
from tests.cuda import launches
from tests.reference.families import FAMILIES, Floats

Array = Any

# Exact Gramians, so that a small residual is due; and one that takes every way through the kernels.
HARD = (
    *("ties", "duplicates_grid", "antiparallel_grid", "rank_half_grid", "zero_rows_grid", "all_zero"),
    *("row_scales_grid", "strongly_stationary_grid", "equicorrelated_singular", "cycling", "murty", "fathi"),
)
WELL_POSED = ("random", "random_grid")
SOLVED, HARD_TO_SOLVE, ROUNDED = 1e-12, 1e-8, 1e-4
SOLVE_SIZES = (1, 2, 3, 4, 7, 13, 31, 33, 70)
UPGRAD_SIZES = (1, 2, 3, 4, 5, 13, 31, 33)
# Of these there are so many that a tile has a Gramian of its own.
MANY_SIZES = (4, 6, 11, 20)
PCD_SIZES = (2, 3, 5, 8, 17, 33)
# Work as for a small GPU, so that few problems are many; tests of the host's kernels have the same.
PROCESSORS = 2


@dataclass(frozen=True)
class Place:
    """Where kernels run, and how arrays of NumPy get there and back."""

    device: Device
    there: Callable[[NDArray[Any]], Array]
    back: Callable[[Array], NDArray[Any]]


def stack(size: int, dtype: str, chosen: Sequence[str]) -> NDArray[Any]:
    """Return Gramians (B, K, K), one of each family that has that size."""
    rng = np.random.default_rng(size)
    samples = [FAMILIES[name].sample(size, rng).gramian for name in chosen if FAMILIES[name].min_size <= size]
    return np.stack(samples).astype(dtype)


def problems(size: int, dtype: str) -> Iterator[tuple[NDArray[Any], float]]:
    """Iterate over stacks of Gramians and the residual that is due on them; infinity for none."""
    single = dtype == "float32"
    yield stack(size, dtype, WELL_POSED), ROUNDED if single else SOLVED
    # What float32 makes of exact Gramians need not have an exact answer.
    yield stack(size, dtype, HARD), np.inf if single else HARD_TO_SOLVE


def precise(gramian: NDArray[Any]) -> tuple[Floats, Floats]:
    """Return Gramians in float64, and linear terms in their ranges (B, 3, K)."""
    matrices = gramian.astype(np.float64)
    norms = np.sqrt(np.diagonal(matrices, axis1=1, axis2=2))
    scale = 2.0 ** -np.frexp(np.where(norms > 0, norms, 1.0))[1]
    rng = np.random.default_rng(gramian.shape[-1])
    combined = rng.integers(-7, 8, (len(matrices), 3, gramian.shape[-1])) * scale[:, None, :]
    return matrices, combined @ matrices


def require(is_right: Any, what: str) -> None:
    """Fail unless an answer is right."""
    if not np.all(is_right):
        raise AssertionError(f"wrong answers: {what}")


def solve_all(place: Place) -> None:
    """Launch what solves, on finite Gramians, and on one that is not."""
    dtype = "float64"
    for size in SOLVE_SIZES:
        for gramian, due in problems(size, dtype):
            matrices, linear = precise(gramian)
            raw = launches.solve(place.device, place.there(gramian), place.there(linear))
            x, status = place.back(raw.x), place.back(raw.status)
            what = f"solve, K = {size}, {dtype}"
            require(np.isfinite(x[status == Status.OPTIMAL]), f"{what}: x is not finite")
            if np.isfinite(due):
                require(status == Status.OPTIMAL, f"{what}: statuses {status.tolist()}")
                problem = NNQP(matrices[:, None], linear)
                residual = Solution(problem, x, status, status).kkt_residual
                require(residual <= due, f"{what}: residual {residual.max():.1e}")
        broken = stack(size, dtype, WELL_POSED)
        broken[0, -1, -1] = np.nan
        raw = launches.solve(place.device, place.there(broken), place.there(broken))
        what = f"solve, K = {size}, {dtype}: NaN"
        require(place.back(raw.status)[0] == Status.NONFINITE, what)
        require(np.isnan(place.back(raw.x)[0]) & np.isfinite(place.back(raw.x)[1]), what)


def weigh(place: Place, method: str, gramian: NDArray[Any]) -> NDArray[Any]:
    """Return the weights of a method that has kernels of its own."""
    size, given = gramian.shape[-1], place.there(gramian)
    if method == "upgrad":
        return place.back(launches.upgrad(place.device, given))
    tau, scales = np.full((1, size - 1), 0.02), np.ones((len(gramian), size))
    return place.back(launches.pcd(place.device, given, place.there(tau), place.there(scales)))


def weigh_all(place: Place, dtype: str) -> None:
    """Launch the kernels of whole methods."""
    cases = [("upgrad", size, 1) for size in UPGRAD_SIZES]
    cases += [("upgrad", size, PROCESSORS * plans.BLOCKS_PER_PROCESSOR) for size in MANY_SIZES]
    cases += [("pcd", size, 1) for size in PCD_SIZES]
    for method, size, full_blocks in cases:
        for gramian, due in problems(size, dtype):
            tiles = plans.TILE_THREADS // plans.width_of(min(size, 32))
            count = max(len(gramian), tiles * full_blocks if full_blocks > 1 else 0)
            repeated = np.resize(gramian, (count, size, size))
            weights = weigh(place, method, repeated)
            what = f"{method}, K = {size}, {dtype}"
            require(np.isfinite(weights) | np.isinf(due), f"{what}: weights are not finite")
            if np.isfinite(due):
                own: Any = get_method(method)
                residual = own.residual(
                    weights[: len(gramian)].astype(np.float64), gramian.astype(np.float64)
                )
                require(residual <= due, f"{what}: residual {residual.max():.1e}")
            # The same problem has the same answer, whoever solves it.
            again = weights[np.arange(count) % len(gramian)]
            require((weights == again) | np.isnan(weights), f"{what}: repeated problems")


def run(place: Place) -> None:
    """Launch everything."""
    solve_all(place)
    for dtype in ("float64", "float32"):
        weigh_all(place, dtype)


def main() -> None:
    """Run on the GPU, and fail if any kernel was not launched."""
    import cupy

    from mojd.solvers._cuda.libraries import CupyDevice

    class Watched(CupyDevice):
        launched: set[str]

        def launch(self, kernel: str, *arguments: Any) -> None:
            self.launched.add(kernel)
            super().launch(kernel, *arguments)

    cupy.cuda.set_allocator(None)
    device = Watched(int(cupy.cuda.Device().id))
    device.launched, device.processors = set(), PROCESSORS
    run(Place(device, functools.partial(cupy.asarray), cupy.asnumpy))
    cupy.cuda.runtime.deviceSynchronize()
    missed = set(names()) - device.launched
    require(not missed, f"never launched: {sorted(missed)}")
    sys.stdout.write(f"{len(device.launched)} kernels launched; all answers are right\n")


if __name__ == "__main__":
    main()
