"""Train small networks and record the Gramians that mojd compares its solvers on.

    python benchmarks/record_gramians.py [FILE]

writes mojd/compare/recorded.npz, or FILE, in 20 seconds on one core; it needs the extra
``bench``. Everything is float64, on one thread and from fixed seeds, so that a second run gives
the same file, and another machine the same up to the rounding of its BLAS.

What is trained is described in ``training/``, one module a problem; the names are

- ``digits-mlp-K-STAGE`` and ``digits-cnn-K-STAGE``: one objective per example, K = 8, 32, 128 and
  (MLP only) 256, at the stages init, early, middle and late: after 0, 20, 200 and 1000 SGD steps;
  the largest K of each network at early and late only;
- ``digits-mlp-32-repeated`` and ``digits-cnn-32-repeated``: the four stages with two examples twice;
- ``multitask-4`` and ``multitask-2``: tasks over a shared trunk;
- ``physics-4`` and ``physics-3``: losses 1e6 apart; ``physics-points-16``: one per collocation point;
- ``pcd-group-lasso`` and ``pcd-l1-nuclear``: a primary task, in row 0, and its penalties.
"""

from __future__ import annotations

import sys
from itertools import chain
from pathlib import Path

import torch
from training import digits, multitask, physics, preferences

from mojd.compare.recording import record

PACKAGED = Path(__file__).resolve().parents[1] / "mojd" / "compare" / "recorded.npz"


def main(path: Path) -> None:
    """Run every training and write the file."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    with record(path) as recorder:
        for name, gramian in chain(
            digits.record_mlp(),
            digits.record_cnn(),
            multitask.record_tasks(),
            physics.record_heat(),
            preferences.record_pairs(),
            preferences.record_triples(),
        ):
            recorder(gramian, name=name)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGED)
