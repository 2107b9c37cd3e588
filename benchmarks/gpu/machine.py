"""The GPU that is measured: problems on it, clocks for what it does, and what it says of itself.

A :class:`Host` stands in for it where there is none, so that everything but the figures can be tried there.
"""

from __future__ import annotations

import gc
import subprocess
import time
from collections.abc import Callable, Hashable, Mapping
from importlib import metadata
from statistics import median
from typing import Any, NamedTuple, TypeVar

import torch
from figures import describe_machine
from torch import Tensor

from mojd.solvers._cuda.presence import obstacle, trouble_with_cupy

Call = Callable[[], object]
Key = TypeVar("Key", bound=Hashable)

# Jacobians are drawn in parts of so many numbers.
PART = 2**22
# No call is sampled more often than this.
MOST = 101
# So many times longer than all repetitions should take.
VERY_LONG = 10
# How many calls wait in a blocked stream to be timed together, for how many seconds.
QUEUED, QUEUED_S = 20, 0.2
# No GPU runs faster: cycles of a kernel that only waits.
CYCLES_PER_SECOND = 2e9


class Latency(NamedTuple):
    """Median seconds of a call until it returns, and until its result is there."""

    returned: float
    done: float


class Machine:
    """A device of PyTorch, and how to time what it does."""

    def __init__(self, name: str) -> None:
        self.device = torch.device(name)

    def synchronise(self) -> None:
        """Wait for all that was asked of the device."""
        raise NotImplementedError

    def device_seconds(self, calls: Mapping[Key, Call], seconds: float, least: int = 5) -> dict[Key, float]:
        """Return median seconds of calls on the device, in turns for `seconds` all together."""
        raise NotImplementedError

    def queued_seconds(self, call: Call, alone: Latency) -> float:
        """Return what a call takes of a device that need not wait for Python; `alone` is what it took."""
        raise NotImplementedError

    def free_bytes(self) -> int:
        """Return how much memory problems may take."""
        raise NotImplementedError

    def describe(self) -> dict[str, str]:
        """Describe what the figures are from."""
        raise NotImplementedError

    def latencies(self, calls: Mapping[Key, Call], seconds: float, least: int = 3) -> dict[Key, Latency]:
        """Time calls one by one on the idle device, in turns; the first of each is not counted.

        Those whose first takes longer than `seconds` get a second one, or none if it takes very long.
        """
        collecting = gc.isenabled()
        gc.disable()
        try:
            first = {key: self._latency(call) for key, call in calls.items()}
            repeated = [key for key, latency in first.items() if latency.done <= seconds]
            samples: dict[Key, list[Latency]] = {key: [] for key in calls}
            for key in calls.keys() - repeated:
                again = first[key].done <= VERY_LONG * seconds
                samples[key].append(self._latency(calls[key]) if again else first[key])
            began = time.perf_counter()
            for taken in range(MOST if repeated else 0):
                if taken >= least and time.perf_counter() - began > seconds:
                    break
                for key in repeated:
                    samples[key].append(self._latency(calls[key]))
        finally:
            if collecting:
                gc.enable()
        return {
            key: Latency(median(one.returned for one in found), median(one.done for one in found))
            for key, found in samples.items()
        }

    def _latency(self, call: Call) -> Latency:
        self.synchronise()
        start = time.perf_counter()
        call()
        returned = time.perf_counter() - start
        self.synchronise()
        return Latency(returned, time.perf_counter() - start)

    def gramians(self, size: int, count: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
        """Return Gramians (count, K, K) of Gaussian Jacobians with n = 2K parameters."""
        source = torch.Generator(self.device).manual_seed(1000 * size + seed)
        found = torch.empty((count, size, size), dtype=dtype, device=self.device)
        part = max(1, PART // (2 * size * size))
        for first in range(0, count, part):
            here = min(part, count - first)
            shape = (here, size, 2 * size)
            J = torch.randn(shape, dtype=torch.float64, device=self.device, generator=source)
            found[first : first + here] = J @ J.mT
        return found

    def normal(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """Return normal numbers."""
        source = torch.Generator(self.device).manual_seed(sum(shape))
        return torch.randn(shape, dtype=dtype, device=self.device, generator=source)


class Gpu(Machine):
    """A GPU by CUDA, the current one."""

    def __init__(self) -> None:
        super().__init__(f"cuda:{torch.cuda.current_device()}")

    def synchronise(self) -> None:
        """Wait for the whole device."""
        torch.cuda.synchronize()

    def device_seconds(self, calls: Mapping[Key, Call], seconds: float, least: int = 5) -> dict[Key, float]:
        """Time by CUDA's events, around each call."""
        samples: dict[Key, list[float]] = {key: [] for key in calls}
        for call in calls.values():
            for _ in range(2):
                call()
        self.synchronise()
        began = time.perf_counter()
        for taken in range(MOST):
            if taken >= least and time.perf_counter() - began > seconds:
                break
            for key, call in calls.items():
                samples[key].append(self._between_events([call]))
        return {key: median(found) for key, found in samples.items()}

    def queued_seconds(self, call: Call, alone: Latency) -> float:
        """Let calls queue behind a kernel that waits for as long as Python needs to queue them."""
        call()
        self.synchronise()
        number = max(1, min(QUEUED, int(QUEUED_S / alone.done)))
        pause = 2 * alone.returned * number
        return median(self._between_events([call] * number, pause) for _ in range(5)) / number

    def _between_events(self, calls: list[Call], pause: float = 0.0) -> float:
        # Much of torch.cuda has no types.
        cuda: Any = torch.cuda
        start, end = (cuda.Event(enable_timing=True) for _ in range(2))
        if pause:
            cuda._sleep(int(CYCLES_PER_SECOND * min(pause, 1.0)))
        start.record()
        for call in calls:
            call()
        end.record()
        end.synchronize()
        return 1e-3 * float(start.elapsed_time(end))

    def free_bytes(self) -> int:
        """Return what is free, and what PyTorch keeps for later."""
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info()[0])

    def describe(self) -> dict[str, str]:
        """Return names and versions: the GPU first."""
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            done = subprocess.run(query, capture_output=True, text=True, check=False, timeout=30)
            driver = done.stdout.split("\n")[0].strip()
        except (OSError, subprocess.TimeoutExpired):
            driver = ""
        properties = torch.cuda.get_device_properties(self.device)
        return {
            "gpu": torch.cuda.get_device_name(self.device),
            "multiprocessors": str(properties.multi_processor_count),
            "driver": driver or "unknown",
            "cuda of torch": str(torch.version.cuda),
            "cupy": cupy_version(),
            **describe_machine(),
        }


class Host(Machine):
    """The CPU in place of a GPU, to see that everything runs."""

    def __init__(self) -> None:
        super().__init__("cpu")

    def synchronise(self) -> None:
        """Wait for nothing: the CPU is done when a call returns."""

    def device_seconds(self, calls: Mapping[Key, Call], seconds: float, least: int = 5) -> dict[Key, float]:
        """Return how long calls take."""
        return {key: latency.done for key, latency in self.latencies(calls, seconds, least).items()}

    def queued_seconds(self, call: Call, alone: Latency) -> float:
        """Return how long the call takes."""
        return self._latency(call).done

    def free_bytes(self) -> int:
        """Return what a try needs."""
        return 2**30

    def describe(self) -> dict[str, str]:
        """Return what it really is."""
        return {"gpu": "none: the CPU stands in for it", "cupy": cupy_version(), **describe_machine()}


def cupy_version() -> str:
    """Return CuPy's version, whichever CUDA its wheel is for, or 'none'."""
    for name in ("cupy-cuda13x", "cupy-cuda12x", "cupy"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "none"


def machine_of(device: str) -> Machine:
    """Return the machine to measure.

    Raises
    ------
    SystemExit
        If it is 'cuda' and there is no GPU that mojd's kernels could run on.
    """
    if device == "cpu":
        return Host()
    reason = obstacle()
    if not reason and not torch.cuda.is_available():
        reason = f"PyTorch {torch.__version__} sees none"
    if reason:
        raise SystemExit(f"The benchmark of solver 'cuda' needs a CUDA device: {reason}")
    if trouble_with_cupy():
        raise SystemExit("The benchmark of solver 'cuda' needs CuPy: pip install 'mojd[cuda]'")
    return Gpu()


def slug(machine: Mapping[str, str]) -> str:
    """Return the name of a GPU as part of the name of a file.

    Examples
    --------
    >>> slug({"gpu": "NVIDIA H100 80GB HBM3"})
    'nvidia-h100-80gb-hbm3'
    """
    letters = "".join(letter if letter.isalnum() else " " for letter in machine["gpu"].lower())
    return "-".join(letters.split())


def on_host(tensor: Tensor) -> Any:
    """Return a tensor as an array of NumPy."""
    return tensor.detach().cpu().numpy()
