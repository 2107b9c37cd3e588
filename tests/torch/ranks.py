"""Run functions on several gloo processes, started once for all of them.

Every case has a process group of its own, so that one that fails, or leaves ranks waiting, spoils no other.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from datetime import timedelta
from operator import attrgetter
from pathlib import Path

# For a collective; where ranks wait for each other, an error says so after that.
COLLECTIVE_SECONDS = 30
CASE_SECONDS = 75
ALL_SECONDS = 270


def run_on_ranks(module: str, names: Sequence[str], world_size: int, folder: Path) -> dict[str, list[str]]:
    """Run functions of a module on ranks.

    Returns what went wrong with each, one text for every rank that failed.
    """
    # Here, as the module is imported where there may be no torch.
    from torch.multiprocessing.spawn import ProcessException, spawn

    context = spawn(  # type: ignore[no-untyped-call]
        _work, (module, list(names), world_size, str(folder)), nprocs=world_size, join=False
    )
    assert context is not None
    deadline = time.monotonic() + ALL_SECONDS
    problem = ""
    try:
        while not context.join(timeout=1, grace_period=5):
            if time.monotonic() > deadline:
                problem = f"the ranks took more than {ALL_SECONDS} s"
                break
    except ProcessException as error:
        problem = str(error)
    for process in context.processes:
        if process.is_alive():
            process.kill()
    return {name: _errors(name, world_size, folder, problem) for name in names}


def _errors(name: str, world_size: int, folder: Path, problem: str) -> list[str]:
    """Collect what the ranks left behind about a case."""
    errors = []
    for rank in range(world_size):
        path = _result(folder, name, rank)
        if path.exists():
            error = json.loads(path.read_text(encoding="utf-8"))
        else:
            log = _log(folder, rank)
            tail = log.read_text(encoding="utf-8", errors="replace")[-3000:] if log.exists() else ""
            error = f"did not finish; {problem}\n{tail}"
        if error:
            errors.append(f"rank {rank} of {world_size}: {error}")
    return errors


def _result(folder: Path, name: str, rank: int) -> Path:
    return folder / f"{name}-{rank}.json"


def _log(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank}.log"


def _work(rank: int, module: str, names: Sequence[str], world_size: int, directory: str) -> None:
    """Run all cases on one rank."""
    folder = Path(directory)
    log = _log(folder, rank).open("w", encoding="utf-8")
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    if sys.platform == "linux":
        # The processes are all here, and the host's name need not resolve.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    import torch

    torch.set_num_threads(1)
    cases = importlib.import_module(module)
    for name in names:
        faulthandler.dump_traceback_later(CASE_SECONDS, exit=True, file=log)
        error = _run_case(attrgetter(name)(cases), rank, world_size, folder / f"{name}.store")
        unfinished = _result(folder, name, rank).with_suffix(".part")
        unfinished.write_text(json.dumps(error), encoding="utf-8")
        unfinished.rename(_result(folder, name, rank))
        # Ranks that failed early wait for the others to time out.
        while not all(_result(folder, name, other).exists() for other in range(world_size)):
            time.sleep(0.002)
        faulthandler.cancel_dump_traceback_later()


def _run_case(case: object, rank: int, world_size: int, store: Path) -> str:
    """Run one case; return the traceback if it fails, and otherwise nothing."""
    import torch
    import torch.distributed as dist

    assert callable(case)
    torch.manual_seed(0)
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{store}",
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=COLLECTIVE_SECONDS),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            case()
    except BaseException:
        return traceback.format_exc()
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    return ""
