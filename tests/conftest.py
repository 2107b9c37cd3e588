"""What all tests share: one BLAS thread, fixed seeds, hypothesis profiles, and no GPU tests without a GPU."""

from __future__ import annotations

import os
from pathlib import Path

# Before NumPy is imported: BLAS reads these once. Processes that tests start inherit them. Results
# then depend neither on the number of cores nor on how many tests run beside each other.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
    os.environ[variable] = "1"

# XLA compiles for seconds what then runs for microseconds; the processes of a test run share the programs.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
# Nor does LLVM have to optimise them, nor MLIR to emit the fusions, and in one module a program is compiled
# once: a third of the time. The doctests and the benchmarks run what users do.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    " --xla_cpu_parallel_codegen_split_count=1",
)

# On a GPU, JAX shares the memory with PyTorch and CuPy, and with the tests that run beside it.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import random
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("dev", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("dev"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "dev")


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Seed the global generators, for libraries that draw from them without being asked."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator that is the same for every test."""
    return np.random.default_rng(0)


def has_cuda() -> bool:
    """Whether PyTorch sees a CUDA device, or without PyTorch whether there is one."""
    try:
        import torch
    except ModuleNotFoundError:
        from mojd.solvers._cuda.presence import obstacle

        return not obstacle()
    return torch.cuda.is_available()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not has_cuda():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="there is no CUDA device"))
