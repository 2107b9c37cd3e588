"""What methods that treat all objectives alike, and have no unit, have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.reference.families import symmetric_gramian


def assert_symmetric(weigh: Callable[[Any], Any], rtol: float) -> None:
    """Reorder objectives, change the unit of all losses, and split batches: the weights follow.

    `rtol` is for other orders of sums; a batch may differ from its parts in the last digits only.
    """
    rng = np.random.default_rng(0)
    for k in (2, 3, 8):
        gramians = np.stack([symmetric_gramian(rng.standard_normal((k, 2 * k))) for _ in range(4)])
        weights = weigh(gramians)
        order = rng.permutation(k)
        swapped = weigh(gramians[:, order][:, :, order])
        np.testing.assert_allclose(swapped, weights[:, order], rtol=rtol, atol=1e-12)
        for scale in (1e-300, 7.0, 1e300):
            np.testing.assert_allclose(weigh(scale * gramians), weights, rtol=rtol, atol=1e-12)
        for gramian, together in zip(gramians, weights, strict=True):
            np.testing.assert_allclose(weigh(gramian), together, rtol=1e-13, atol=1e-14)
    assert weigh(np.zeros((0, 3, 3))).shape == (0, 3)
