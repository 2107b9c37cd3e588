"""NVIDIA's compiler takes the kernels, without a warning, for the GPUs that they are meant for."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from mojd.solvers._cuda.source import names, source

NVCC = shutil.which("nvcc")
MOST_REGISTERS = 255


def compiled(chosen: Sequence[str], options: str, folder: Path) -> str:
    """Compile kernels and return what the compiler says."""
    # The host's half of the program refers to each kernel, which instantiates it.
    references = ",\n    ".join(f"reinterpret_cast<const void*>({name})" for name in chosen)
    written = folder / "kernels.cu"
    written.write_text(f"{source()}\nextern const void* const kernels[] = {{\n    {references}}};\n")
    command = f"{NVCC} -std=c++17 --Werror all-warnings {options} -o {folder / 'out'} {written}".split()
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


# The A100 and the H100. Every kernel is compiled once, as its numbers have nothing to do with the GPU.
@pytest.mark.slow
@pytest.mark.skipif(NVCC is None, reason="nvcc is not on the path")
@pytest.mark.parametrize(("architecture", "number"), [("sm_80", "double"), ("sm_90", "float")])
def test_all_kernels_compile(architecture: str, number: str, tmp_path: Path) -> None:
    chosen = [name for name in names() if number in name]
    # As CuPy has it.
    compiled(chosen, f"-arch={architecture} -ptx -ftz=true", tmp_path)
    text = (tmp_path / "out").read_text()
    assert text.count(".entry") == len(chosen)
    # It would take subnormal numbers for 0.
    assert "cvt.ftz.f64.f32" not in text


@pytest.mark.slow
@pytest.mark.skipif(NVCC is None, reason="nvcc is not on the path")
def test_machine_code_fits_into_registers(tmp_path: Path) -> None:
    chosen = ("mojd::upgrad_closed<double, 3>", "mojd::solve_tiles<double, 32>", "mojd::solve_blocks<double>")
    said = compiled(chosen, "-arch=sm_90 -cubin --resource-usage", tmp_path)
    # Shown by `pytest -rP`: what each kernel takes of a GPU.
    print(said)
    used = [int(found) for found in re.findall(r"Used (\d+) registers", said)]
    assert len(used) == len(chosen)
    assert max(used) <= MOST_REGISTERS
