"""A few losses on several ranks: what 2 and 4 gloo processes compute is what one process computes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import mojd
from tests.torch import ranks
from tests.torch.ranks import run_on_ranks

torch = pytest.importorskip("torch")
if not torch.distributed.is_available():
    pytest.skip("this build of PyTorch has no torch.distributed", allow_module_level=True)

from mojd.errors import InvalidInputError, InvalidTypeError, MissingDependencyError  # noqa: E402
from mojd.torch.distributed import Ranks, crosses_ranks, gather_rows, sum_gradients  # noqa: E402
from tests.torch.distributed_cases import CASES  # noqa: E402

Outcomes = Callable[[int], dict[str, list[str]]]


@pytest.fixture(scope="session")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """Return what went wrong with every case, by the number of ranks.

    The processes of pytest-xdist share the run: the first that asks does it, others wait for what it writes.
    """
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    known: dict[int, dict[str, list[str]]] = {}

    def run(world_size: int) -> dict[str, list[str]]:
        if world_size not in known:
            known[world_size] = _run_once(base / f"ranks-{world_size}", world_size)
        return known[world_size]

    return run


def _run_once(folder: Path, world_size: int) -> dict[str, list[str]]:
    report = folder / "report.json"
    try:
        folder.mkdir()
    except FileExistsError:
        deadline = time.monotonic() + ranks.ALL_SECONDS
        while not report.exists():
            assert time.monotonic() < deadline, "the process of pytest-xdist that runs the ranks went away"
            time.sleep(0.1)
    else:
        mojd.upgrad([[1.0]])  # compiles, if need be, before there are ranks that all do it at once
        names = [name for name, sizes in CASES.items() if world_size in sizes]
        errors = run_on_ranks("tests.torch.distributed_cases", names, world_size, folder)
        unfinished = report.with_suffix(".part")
        unfinished.write_text(json.dumps(errors), encoding="utf-8")
        unfinished.rename(report)
    found: dict[str, list[str]] = json.loads(report.read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize(
    ("world_size", "case"),
    [(size, name) for size in (2, 4) for name, sizes in CASES.items() if size in sizes],
)
def test_ranks(outcomes: Outcomes, world_size: int, case: str) -> None:
    errors = outcomes(world_size)[case]
    assert not errors, "\n\n".join(errors)


def test_one_process_needs_no_ranks() -> None:
    assert not crosses_ranks([torch.nn.Parameter(torch.ones(2))], None)


@pytest.mark.parametrize(
    "function", [lambda group: Ranks([torch.ones(1)], group), lambda group: gather_rows(torch.ones(1), group)]
)
def test_what_is_no_group(function: Callable[[object], object]) -> None:
    with pytest.raises(InvalidTypeError, match=r"must be a torch\.distributed\.ProcessGroup, got 'world'"):
        function("world")


def test_the_harness_sees_failures(tmp_path: Path) -> None:
    """A rank that raises, one that waits for it in vain, and one that dies are all reported."""
    assert ranks.COLLECTIVE_SECONDS < ranks.CASE_SECONDS
    found = run_on_ranks("tests.torch.failing_cases", ["fails_on_one", "passes", "dies_on_one"], 2, tmp_path)
    assert found["passes"] == []
    assert len(found["fails_on_one"]) == 1 and "rank 1 of 2" in found["fails_on_one"][0]
    assert "this is the reason" in found["fails_on_one"][0]
    assert any("did not finish" in error for error in found["dies_on_one"])


def test_a_group_needs_torch_distributed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    with pytest.raises(MissingDependencyError, match=r"without torch\.distributed"):
        sum_gradients([torch.ones(1)], object())


def test_a_group_of_a_torch_distributed_that_was_shut_down(tmp_path: Path) -> None:
    dist = torch.distributed
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/a", rank=0, world_size=1)
    group = dist.group.WORLD
    dist.destroy_process_group()
    with pytest.raises(InvalidInputError, match="not initialised"):
        sum_gradients([torch.ones(1)], group)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/b", rank=0, world_size=1)
    try:
        with pytest.raises(InvalidInputError, match="has been shut down"):
            sum_gradients([torch.ones(1)], group)
    finally:
        dist.destroy_process_group()
