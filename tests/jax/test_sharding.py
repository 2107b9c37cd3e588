"""Parameters and batches that are split over 8 devices, in a process that has them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.jax.sharded_cases import CASES

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What went wrong with each case."""
    path = tmp_path_factory.mktemp("sharded") / "found.json"
    command = [sys.executable, "-m", "tests.jax.sharded_cases", str(path)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    written: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {name: written.get(name, f"did not finish:\n{process.stderr}") for name in CASES}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_equals_the_unsharded_result(found: dict[str, str], case: str) -> None:
    assert not found[case], found[case]
