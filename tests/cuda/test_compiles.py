"""NVIDIA's compiler takes the kernels, without a warning, for the GPUs that they are meant for."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

NVCC = shutil.which("nvcc")
# The A100 and the H100.
ARCHITECTURES = ("sm_80", "sm_90")
MOST_REGISTERS = 255
STAND_IN = """
namespace mojd {
template <class T, int W>
__global__ void stand_in(const T* a, T* out, long long count) {
    const long long i = static_cast<long long>(blockIdx.x) * W + threadIdx.x;
    if (i < count) out[i] = a[i];
}
}  // namespace mojd
"""


def kernels() -> tuple[str, tuple[str, ...]]:
    """The source of all kernels, and the name expressions of those that are compiled."""
    try:
        module = importlib.import_module("mojd.solvers._cuda.source")
    except ModuleNotFoundError as error:
        if not str(error.name).startswith("mojd.solvers._cuda"):
            raise
        return STAND_IN, ("mojd::stand_in<double, 32>", "mojd::stand_in<float, 16>")
    return module.source(), module.names()


@pytest.mark.slow
@pytest.mark.skipif(NVCC is None, reason="nvcc is not on the path")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_compiles(architecture: str, tmp_path: Path) -> None:
    source, names = kernels()
    # The host's half of the program refers to each kernel, which instantiates it.
    references = ",\n    ".join(f"reinterpret_cast<const void*>({name})" for name in names)
    written = tmp_path / "kernels.cu"
    written.write_text(f"{source}\nextern const void* const kernels[] = {{\n    {references}}};\n")
    command = (
        f"{NVCC} -std=c++17 -arch={architecture} -cubin --Werror all-warnings --resource-usage -o".split()
    )
    command += [str(tmp_path / "kernels.cubin"), str(written)]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    # Shown by `pytest -rP`: what each kernel takes of a GPU.
    print(done.stdout)
    assert done.stdout.count("Compiling entry function") == len(names)
    assert all(int(used) <= MOST_REGISTERS for used in re.findall(r"Used (\d+) registers", done.stdout))
