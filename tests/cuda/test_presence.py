"""Whether there is a GPU and CuPy, and what a newcomer reads if there is not."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import mojd
from mojd import NNQP
from mojd.solvers import cuda, get_solver
from mojd.solvers._cuda import presence


@pytest.fixture(autouse=True)
def _nothing_known() -> Iterator[None]:
    """Look again, before and after."""
    for cached in (presence._count_devices, presence._hint, presence.trouble_with_cupy):
        cached.cache_clear()
    yield
    for cached in (presence._count_devices, presence._hint, presence.trouble_with_cupy):
        cached.cache_clear()


class Nvml:
    """NVIDIA's management library, which finds some GPUs, or fails."""

    def __init__(self, found: int, init: int = 0, failed: int = 0) -> None:
        self.found, self.init, self.failed = found, init, failed
        self.calls: list[str] = []

    def nvmlInit_v2(self) -> int:  # noqa: N802
        self.calls.append("init")
        return self.init

    def nvmlDeviceGetCount_v2(self, place: Any) -> int:  # noqa: N802
        self.calls.append("count")
        place._obj.value = self.found
        return self.failed

    def nvmlShutdown(self) -> int:  # noqa: N802
        self.calls.append("shutdown")
        return 0


def with_nvml(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_name: str) -> Any:
        if library is None:
            raise OSError("libnvidia-ml.so.1: cannot open shared object file")
        return library

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(ctypes, "CDLL", load)


def with_packages(monkeypatch: pytest.MonkeyPatch, *, cupy: bool) -> None:
    real = importlib.util.find_spec
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: (cupy or None) if name == "cupy" else real(name)
    )


class TestObstacles:
    def test_none_where_there_is_a_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        nvml = Nvml(2)
        with_nvml(nvml, monkeypatch)
        assert presence.obstacle() == presence.obstacle() == ""
        assert nvml.calls == ["init", "count", "shutdown"]

    @pytest.mark.parametrize(
        "library",
        [None, Nvml(0), Nvml(2, init=9), Nvml(2, failed=1)],
        ids=["missing", "none", "init", "count"],
    )
    def test_no_gpu_or_no_driver(self, library: Nvml | None, monkeypatch: pytest.MonkeyPatch) -> None:
        with_nvml(library, monkeypatch)
        assert presence.obstacle() == "there is no CUDA device, or no driver for it"

    @pytest.mark.parametrize("value", ["", "-1", "NoDevFiles"])
    def test_hidden_gpus(self, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
        with_nvml(Nvml(2), monkeypatch)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert presence.obstacle() == "CUDA_VISIBLE_DEVICES hides all GPUs"
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
        assert presence.obstacle() == ""


class TestSolverByName:
    """What `solver='cuda'` says to whoever has not everything."""

    def test_without_cupy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with_packages(monkeypatch, cupy=False)
        with_nvml(Nvml(1), monkeypatch)
        with pytest.raises(mojd.MissingDependencyError) as caught:
            mojd.solve(NNQP(np.eye(2), -np.ones(2)), "cuda")
        assert str(caught.value) == "solver 'cuda' needs the package(s) cupy: pip install 'mojd[cuda]'"
        assert "cuda" not in mojd.available_solvers()

    def test_without_a_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with_packages(monkeypatch, cupy=True)
        with_nvml(None, monkeypatch)
        for method in (mojd.upgrad, mojd.pcd):
            with pytest.raises(mojd.MissingDependencyError) as caught:
                method(np.eye(2), solver="cuda")
            assert str(caught.value) == (
                "solver 'cuda' can't run here: there is no CUDA device, or no driver for it"
            )
        assert "cuda" not in mojd.available_solvers()

    def test_with_both(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with_packages(monkeypatch, cupy=True)
        with_nvml(Nvml(1), monkeypatch)
        assert get_solver("cuda").name == "cuda"
        assert "cuda" in mojd.available_solvers()


class TestHint:
    def test_comes_once_and_names_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with_packages(monkeypatch, cupy=False)
        monkeypatch.setattr(presence, "is_cuda", lambda _array: True)
        with pytest.warns(
            UserWarning, match=r"need CuPy 14, which is not installed.*pip install 'mojd\[cuda\]'"
        ):
            assert not presence.takes("a tensor", 4)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert not presence.takes("a tensor", 4)

    def test_does_not_come_where_kernels_would_not_help(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with_packages(monkeypatch, cupy=False)
        assert not presence.takes(np.eye(2), 2)
        monkeypatch.setattr(presence, "is_cuda", lambda _array: True)
        assert not presence.takes("a tensor", 1025)

    def test_does_not_come_where_an_error_does(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with_packages(monkeypatch, cupy=False)
        monkeypatch.setattr(presence, "is_cuda", lambda _array: True)
        assert not cuda.is_wanted(np.eye(2), "cuda")
        with pytest.warns(UserWarning, match="need CuPy 14"):
            assert not cuda.is_wanted(np.eye(2), "auto")

    def test_with_cupy_arrays_are_taken_up_to_what_the_gpu_holds(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stream = SimpleNamespace(from_external=None)
        monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=SimpleNamespace(Stream=stream)))
        monkeypatch.setattr(presence, "is_cuda", lambda _array: True)
        for largest in (1024, 780, 0):
            libraries = SimpleNamespace(largest_size=lambda _array, found=largest: found)
            monkeypatch.setitem(sys.modules, "mojd.solvers._cuda.libraries", libraries)
            assert presence.takes("a tensor", 780) == (largest >= 780)
            assert presence.takes("a tensor", 1024) == (largest >= 1024)
            assert not presence.takes("a tensor", 1025)

    def test_a_cupy_that_is_of_no_use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(presence, "is_cuda", lambda _array: True)
        old = SimpleNamespace(cuda=SimpleNamespace(Stream=object))
        broken = SimpleNamespace()
        for module, trouble in ((old, "which is too old"), (broken, r"which can't be imported \(.*cuda")):
            monkeypatch.setitem(sys.modules, "cupy", module)
            presence.trouble_with_cupy.cache_clear()
            with pytest.warns(UserWarning, match=trouble):
                assert not presence.takes("a tensor", 4)


class Tensor:
    """PyTorch's."""

    def __init__(self, device: str, layout: str = "strided", *, is_nested: bool = False) -> None:
        self.device, self.layout, self.is_nested = SimpleNamespace(type=device), layout, is_nested


class DistributedTensor(Tensor):
    """Has no memory of its own."""


class CupyArray:
    """CuPy's."""


class JaxArray:
    """JAX's, on some devices."""

    def __init__(self, *devices: tuple[str, str]) -> None:
        clients = [
            SimpleNamespace(platform=platform, platform_version=version) for platform, version in devices
        ]
        # Sets hold devices by identity.
        self.on = [SimpleNamespace(client=client) for client in clients]

    def devices(self) -> Any:
        return self.on


class Tracer(JaxArray):
    """A value without numbers."""


CUDA, ROCM, HOST = ("gpu", "PJRT C API\ncuda 12090"), ("gpu", "rocm 60000"), ("cpu", "cpu")


class TestArrays:
    @pytest.fixture(autouse=True)
    def libraries(self, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
        nn = SimpleNamespace(Parameter=type("Parameter", (Tensor,), {}))
        version = SimpleNamespace(hip=None)
        torch = SimpleNamespace(Tensor=Tensor, nn=nn, version=version, strided="strided")
        runtime = SimpleNamespace(is_hip=False)
        cupy = SimpleNamespace(ndarray=CupyArray, cuda=SimpleNamespace(runtime=runtime))
        jax = SimpleNamespace(Array=JaxArray, core=SimpleNamespace(Tracer=Tracer))
        for name, module in (("torch", torch), ("cupy", cupy), ("jax", jax)):
            monkeypatch.setitem(sys.modules, name, module)
        return SimpleNamespace(torch=torch, runtime=runtime)

    def test_on_one_cuda_device(self) -> None:
        for array in (Tensor("cuda"), CupyArray(), JaxArray(CUDA)):
            assert presence.is_cuda(array)

    @pytest.mark.parametrize(
        "array",
        [
            Tensor("cpu"),
            Tensor("mps"),
            Tensor("cuda", "sparse_coo"),
            Tensor("cuda", is_nested=True),
            DistributedTensor("cuda"),
            JaxArray(HOST),
            JaxArray(ROCM),
            JaxArray(("another", "built with cuda 12090")),
            JaxArray(CUDA, CUDA),
            Tracer(CUDA),
            np.eye(2),
            [[1.0]],
        ],
    )
    def test_elsewhere(self, array: Any) -> None:
        assert not presence.is_cuda(array)

    def test_on_rocm_which_calls_itself_cuda(self, libraries: SimpleNamespace) -> None:
        libraries.torch.version.hip = "6.0"
        libraries.runtime.is_hip = True
        assert not presence.is_cuda(Tensor("cuda"))
        assert not presence.is_cuda(CupyArray())

    def test_of_libraries_that_nobody_has_imported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("torch", "cupy", "jax"):
            monkeypatch.delitem(sys.modules, name)
        assert not presence.is_cuda(Tensor("cuda"))
        assert not {"torch", "cupy", "jax"} & set(sys.modules)
