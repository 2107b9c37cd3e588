"""The program that compute-sanitizer watches on a GPU launches every kernel, and sees wrong answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mojd.solvers._cuda.source import names
from tests.cuda import every_kernel
from tests.cuda.every_kernel import Place
from tests.cuda.on_host import HostDevice


def same(array: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(array)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_on_the_cpu() -> None:
    device = HostDevice()
    assert device.processors == every_kernel.PROCESSORS
    every_kernel.run(Place(device, same, same))
    assert set(device.launches) == set(names())


def test_wrong_answers_are_seen() -> None:
    with pytest.raises(AssertionError, match="wrong answers: residual"):
        every_kernel.require(np.array([True, False]), "residual")
    place = Place(HostDevice(), same, lambda array: array + (1e-3 if array.dtype.kind == "f" else 0))
    with pytest.raises(AssertionError, match=r"solve, K = 1, float64: residual"):
        every_kernel.solve_all(place)


@pytest.mark.gpu
def test_on_the_gpu() -> None:
    pytest.importorskip("cupy")
    every_kernel.main()
