"""Compile CUDA kernels with the host's C++ compiler, and run them on the CPU.

Each kernel becomes a shared library of its own, so that they compile side by side and are kept apart in
the cache.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .launching import Kernel, Library

HERE = Path(__file__).parent
CACHE = HERE.parents[2] / ".pytest_cache" / "cuda_host"
# An operator is one rounding, as in the kernels, which say fma where they mean it. No errno: sqrt is one
# instruction. Without _FORTIFY_SOURCE longjmp does not mind which stack it comes from. Pragmas are CUDA's.
FLAGS = (
    *("-std=c++17", "-O2", "-march=native", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off"),
    *("-fno-math-errno", "-fno-strict-aliasing", "-fno-exceptions", "-fno-rtti", "-fstack-clash-protection"),
    *("-U_FORTIFY_SOURCE", "-Wall", "-Werror", "-Wno-unknown-pragmas", "-Wno-unused-command-line-argument"),
)
SANITIZE = ("-fsanitize=undefined", "-fsanitize-undefined-trap-on-error")


def compiler() -> str | None:
    """Return the C++ compiler to use: $CXX, or one that is on the path."""
    candidates = (os.environ.get("CXX"), "g++", "clang++", "c++")
    return next((found for name in candidates if name and (found := shutil.which(name))), None)


def required_compiler() -> str:
    """Return the compiler; without one the test that asks is skipped, but fails in CI."""
    found = compiler()
    if found is None:
        message = "running CUDA kernels on the CPU needs a C++ compiler: install g++ or clang++, or set CXX"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return found


def build(names: Iterable[str], source: str, *, sanitize: bool = False, portable: bool = False) -> Library:
    """Compile kernels, or take them from the cache.

    Parameters
    ----------
    names
        C++ expressions that name kernels, such as "mojd::solve_tiles<double, 16>".
    source
        The text of the kernels, with nothing left to include.
    sanitize
        Whether undefined behaviour ends a launch.
    portable
        Whether to switch fibers by the C library alone, as on processors other than x86-64.

    Raises
    ------
    RuntimeError
        With what the compiler said.
    """
    names = tuple(names)
    tool = required_compiler()
    flags = (*FLAGS, *(SANITIZE if sanitize else ()))
    switch = ("-DMOJD_PORTABLE_SWITCH",) if portable else ()
    runtime = _cached(tool, (*FLAGS, *switch, "-c"), (HERE / "runtime.cpp").read_text(), ".o")

    def one(name: str) -> Path:
        text = (
            f'#include "shim.hpp"\n#line 1 "source"\n{source}\n#include "launcher.hpp"\nMOJD_EXPORT({name})\n'
        )
        return _cached(tool, (*flags, "-shared"), text, ".so", [runtime])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        paths = list(pool.map(one, names))
    return Library({name: Kernel(name, path, source) for name, path in zip(names, paths, strict=True)})


@functools.cache
def _surroundings(tool: str) -> bytes:
    """Return what else a compiled file depends on: the shim, the compiler's version, the processor."""
    macros = [tool, *FLAGS, "-dM", "-E", "-x", "c++", os.devnull]
    outputs = [subprocess.run(macros, check=True, stdout=subprocess.PIPE).stdout]
    outputs += [path.read_bytes() for path in sorted(HERE.glob("*.hpp"))]
    return b"\0".join(outputs)


def _cached(tool: str, flags: Sequence[str], text: str, suffix: str, inputs: Sequence[Path] = ()) -> Path:
    """Compile a text into a file of the cache, unless that is there.

    Several processes may want the same file: one compiles it while the others wait, and it appears whole.
    """
    parts = [tool, *flags, text, *(path.stem for path in inputs)]
    key = hashlib.sha256("\0".join(parts).encode() + _surroundings(tool)).hexdigest()[:32]
    target = CACHE / f"{key}{suffix}"
    if target.exists():
        return target
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            written, unfinished = CACHE / f"{key}.cpp", CACHE / f"{key}.unfinished"
            written.write_text(text)
            _run([tool, *flags, f"-I{HERE}", "-o", str(unfinished), str(written), *map(str, inputs)])
            unfinished.rename(target)
    return target


def _run(command: list[str]) -> None:
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}")
