"""Measure in a process of its own what one process can measure only once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import mojd

REPOSITORY = Path(mojd.__file__).parents[1]


def run_python(code: str, *arguments: str, folder: Path = REPOSITORY) -> str:
    """Run Python code in a new process that finds mojd in `folder`; return what it prints.

    Raises
    ------
    RuntimeError
        If it fails, with its error messages.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_CACHE")}
    environment["PYTHONPATH"] = str(folder)
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"a measuring process failed:\n{done.stderr}")
    return done.stdout
