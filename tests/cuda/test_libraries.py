"""What stands between the plans and CuPy, with a small module in its place."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import mojd
from mojd._arrays import FLOAT64_PRECISION
from mojd.kernels.status import ASYMMETRIC, OPTIMAL
from mojd.solvers import cuda, get_solver

from . import fake_cupy, launches
from .problems import assert_close, gramians


def _installed(monkeypatch: pytest.MonkeyPatch, devices: int = 1) -> Iterator[Any]:
    fake = fake_cupy.Fake(devices)
    monkeypatch.setitem(sys.modules, "cupy", fake)
    fake_cupy.forget()
    yield importlib.import_module("mojd.solvers._cuda.libraries"), fake
    fake_cupy.forget()


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """mojd's module on a fake CuPy, and that."""
    yield from _installed(monkeypatch)


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    yield from _installed(monkeypatch, devices=0)


class TestNumPyArrays:
    def test_are_copied_to_the_device_and_back(self, parts: Any) -> None:
        _, fake = parts
        given, linear = gramians(3, 5), -np.ones((3, 2, 5))
        raw = cuda.solve(given, linear, 1, FLOAT64_PRECISION)
        assert all(isinstance(array, np.ndarray) for array in raw)
        expected = get_solver("active_set").solve(given, linear, 1, FLOAT64_PRECISION)
        assert_close(raw.x, expected.x)
        assert raw.status.tolist() == expected.status.tolist()
        assert fake.events[0] == "enter device 0"
        assert fake.events[-1] == "leave device 0"
        assert fake.events.count("copy to host") == 3

    def test_come_back_with_what_is_wrong_with_them(self, parts: Any) -> None:
        for k in (2, 5):
            given = gramians(2, k)
            given[1, 0, 1] += given[1, 0, 0]
            raw = cuda.solve(given, -np.ones((2, 1, k)), 1, FLOAT64_PRECISION)
            assert raw.status.tolist() == [[OPTIMAL], [ASYMMETRIC]]

    def test_a_gpu_that_is_not_there(self, without_gpu: Any) -> None:
        message = "solver 'cuda' finds no CUDA device that it could use: cudaErrorInsufficientDriver"
        with pytest.raises(mojd.MissingDependencyError, match=message):
            cuda.solve(np.eye(2)[None], -np.ones((1, 1, 2)), 1, FLOAT64_PRECISION)
        with pytest.raises(mojd.MissingDependencyError, match=message):
            get_solver.__globals__["_SOLVERS"]["cuda"].prepare()
        assert without_gpu


class TestKernels:
    def test_are_compiled_once(self, parts: Any) -> None:
        libraries, fake = parts
        given = fake.asarray(gramians(3, 5))
        for _ in range(3):
            with libraries.device_of(given) as device:
                launches.upgrad(device, given)
        compiled = [event for event in fake.events if event.startswith("compile")]
        launched = [event for event in fake.events if event.startswith("launch")]
        assert len(compiled) == len(set(compiled)) == 2
        assert len(launched) == 3 * len(compiled)
        assert fake.events.count("attributes of device 0") == 1

    def test_are_compiled_for_each_device(self, parts: Any) -> None:
        libraries, fake = parts
        name = "mojd::solve_closed<double, 2>"
        assert libraries._kernel(name, 0) is libraries._kernel(name, 0)
        assert libraries._kernel(name, 0) is not libraries._kernel(name, 1)
        assert fake.events.count(f"compile {name}") == 2

    def test_of_blocks_may_have_all_shared_memory_there_is(self, parts: Any) -> None:
        libraries, fake = parts
        for k in (20, 200, 600):
            given, linear = fake.asarray(np.eye(k)[None]), fake.asarray(np.zeros((1, 1, k)))
            for _ in range(2):
                with libraries.device_of(given) as device:
                    launches.solve(device, given, linear)
        assert [event for event in fake.events if event.startswith("allow")] == [f"allow {fake.shared}"]

    @pytest.mark.parametrize(
        ("shared", "capability", "largest"),
        [(99 * 1024, "89", 1024), (64 * 1024, "75", 780), (48 * 1024, "70", 576), (99 * 1024, "61", 0)],
    )
    def test_the_largest_size_is_what_fits(
        self, shared: int, capability: str, largest: int, parts: Any
    ) -> None:
        """Before Volta, parts of a warp could not go their own ways."""
        libraries, fake = parts
        fake.shared, fake.capability = shared, capability
        assert libraries.largest_size(fake.asarray(np.eye(2))) == largest

    def test_their_compilation_is_told_on_a_terminal(
        self, parts: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        libraries, _ = parts
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        libraries._kernel("mojd::solve_closed<double, 2>", 5)
        assert "mojd: loading mojd::solve_closed<double, 2>" in capsys.readouterr().err


def _tensor_device_of(libraries: Any) -> Any:
    """Tensors of the CPU, as if it were device 0."""

    def find(torch: Any, given: Any) -> Any:
        device = libraries.TorchDevice(torch, SimpleNamespace(index=0))
        device._device = given
        return device

    return find


class TestTensors:
    @pytest.fixture
    def torch(self, parts: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
        torch = pytest.importorskip("torch")
        stream = SimpleNamespace(cuda_stream=4321)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: stream)
        # The CPU has no number.
        libraries, fake = parts
        monkeypatch.setattr(libraries, "_index_of", lambda _array: 0)
        monkeypatch.setattr(libraries, "_tensor_device", _tensor_device_of(libraries))
        monkeypatch.setattr(torch.cuda, "device", lambda _device: fake.cuda.Device(0))
        return torch

    def test_kernels_go_to_pytorchs_stream(self, torch: Any, parts: Any) -> None:
        libraries, fake = parts
        values = gramians(40, 4)
        tensor = torch.tensor(values)
        with libraries.device_of(tensor) as device:
            inside = len(fake.events)
            weights = launches.upgrad(device, tensor)
        assert isinstance(weights, torch.Tensor)
        assert_close(weights.numpy(), mojd.upgrad(values))
        entered = [event for event in fake.events[:inside] if event.startswith("enter")]
        assert entered == ["enter device 0", "enter stream 4321"]
        left = [event for event in fake.events[inside:] if event.startswith("leave")]
        assert left == ["leave stream 4321", "leave device 0"]
        assert any(event.startswith("launch") for event in fake.events[inside : -len(left)])

    def test_streams_are_left_after_an_error(self, torch: Any, parts: Any) -> None:
        libraries, fake = parts
        with pytest.raises(ZeroDivisionError), libraries.device_of(torch.zeros(1)):
            raise ZeroDivisionError
        assert [event.split()[0] for event in fake.events if "stream" in event] == ["enter", "leave"]

    def test_are_taken_in_as_kernels_read_them(self, torch: Any, parts: Any) -> None:
        libraries, fake = parts
        base = torch.arange(12.0, dtype=torch.float64).reshape(3, 4)
        same = libraries.taken_in(base, "float64")
        assert same.data_ptr() == base.data_ptr()
        negated = torch.complex(base, base).conj().imag
        assert negated.is_neg()
        for given, dtype in (
            (base.T, "float64"),
            (base[:, ::2], "float64"),
            (base.to(torch.bfloat16), "float32"),
            (negated, "float64"),
            (base.clone().requires_grad_(), "float64"),
        ):
            taken = libraries.taken_in(given, dtype)
            assert taken.is_contiguous()
            assert not taken.requires_grad
            assert not taken.is_neg()
            assert str(taken.dtype) == f"torch.{dtype}"
            assert torch.equal(taken.double(), given.detach().double())
        assert libraries.handed_back(base, base) is base
        assert not fake.events

    def test_are_made_on_the_device_of_those_that_were_given(self, torch: Any, parts: Any) -> None:
        libraries, _ = parts
        with libraries.device_of(torch.zeros(1, device="meta")) as device:
            for dtype in ("float64", "float32", "int8", "int32"):
                made = device.empty((2, 3), dtype)
                assert made.device.type == "meta"
                assert made.shape == (2, 3)
                assert str(made.dtype) == f"torch.{dtype}"

    def test_of_half_precision_are_solved_in_float32(self, torch: Any, parts: Any) -> None:
        _, fake = parts
        for k in (3, 6):
            for dtype in (torch.float16, torch.bfloat16):
                # Rounded so coarsely, most of them are asymmetric for what float32 resolves.
                values = torch.tensor(gramians(20, k) / (2 * k))
                given = (values * (1 + 1e-3 * torch.triu(torch.ones(k, k, dtype=torch.float64), 1))).to(dtype)
                for found, expected in (
                    (cuda.upgrad(given, (20,), None), mojd.upgrad(given)),
                    (cuda.pcd(given, (20,), 0.3, None, False), mojd.pcd(given, 0.3)),
                ):
                    assert found.dtype == dtype
                    assert bool(torch.isfinite(found).all())
                    assert torch.allclose(found, expected, rtol=2 * torch.finfo(dtype).eps, atol=0.0)
        launched = [event for event in fake.events if event.startswith("launch")]
        assert launched
        assert all("<float" in event for event in launched)


class TestOtherArrays:
    def test_of_jax_are_worked_on_where_they_are(self, parts: Any) -> None:
        """JAX counts the devices of all processes, CuPy those of this machine."""
        libraries, fake = parts
        device = SimpleNamespace(id=9, local_hardware_id=1)
        with libraries.device_of(SimpleNamespace(devices=lambda: {1: device}.values())) as found:
            assert found.index == 1
        assert fake.events == ["enter device 1", "attributes of device 1", "leave device 1"]

    def test_of_cupy_are_made_row_major(self, parts: Any) -> None:
        libraries, fake = parts
        given = fake_cupy.Array.of(np.asfortranarray(gramians(1, 3)[0]).astype(np.float32), fake)
        taken = libraries.taken_in(given, "float64")
        assert taken.values.flags.c_contiguous
        assert taken.dtype == np.float64
        assert np.array_equal(taken.values, given.values)
        wide = libraries.taken_in(given, "float64", (2, 3, 3))
        assert np.array_equal(wide.values, [given.values] * 2)
        assert not fake.events
        assert libraries.handed_back(taken, given) is taken

    def test_of_jax_come_and_go_by_dlpack(self, parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        libraries, fake = parts
        dlpack = SimpleNamespace(from_dlpack=lambda array: ("of JAX", array))
        monkeypatch.setitem(sys.modules, "jax", SimpleNamespace(dlpack=dlpack))
        given = np.eye(3)
        taken = libraries.taken_in(given, "float64")
        assert isinstance(taken, fake_cupy.Array)
        assert fake.events[0] == "from_dlpack"
        assert libraries.handed_back(taken, given) == ("of JAX", taken)

    def test_of_jax_are_kept_until_kernels_have_read_them(self, parts: Any) -> None:
        libraries, fake = parts
        given = np.eye(3)
        fake.idle = False
        for count in (1, 2):
            libraries.keep_until_done([fake.asarray(given)], given)
            assert len(libraries._in_use) == count
        libraries.keep_until_done([], fake.asarray(given))
        assert fake.events.count("record an event") == len(libraries._in_use) == 2
        fake.idle = True
        libraries.keep_until_done([fake.asarray(given)], given)
        assert len(libraries._in_use) == 1
