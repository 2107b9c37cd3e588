"""Cases that fail, for the test of what runs cases."""

from __future__ import annotations

import os

import torch.distributed as dist


def fails_on_one() -> None:
    if dist.get_rank() == 1:
        raise ValueError("this is the reason")


def passes() -> None:
    dist.barrier()


def dies_on_one() -> None:
    if dist.get_rank() == 1:
        os._exit(3)
    dist.barrier()
