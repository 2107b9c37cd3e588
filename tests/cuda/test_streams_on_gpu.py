"""On a GPU, no call waits: blocked streams delay nobody, streams keep their order, graphs can be captured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import mojd
from mojd import NNQP
from tests.contracts.test_array_libraries import double_precision, jax_has_cuda
from tests.cuda.answers import methods, random_gramians

pytestmark = pytest.mark.gpu

# One size for each kind of kernel.
SIZES = (1, 2, 3, 4, 7, 16, 32, 33, 70, 130)
# No GPU counts faster; a stream is blocked for at least so long.
CYCLES_PER_SECOND, BLOCKED_S = 2e9, 0.5
SPIN = r"""
extern "C" __global__ void spin(long long cycles) {
    long long start = clock64();
    while (clock64() - start < cycles) {}
}
"""


@pytest.fixture(autouse=True)
def cupy() -> Any:
    """CuPy, without which there are no kernels."""
    return pytest.importorskip("cupy")


@pytest.fixture
def torch() -> Iterator[Any]:
    module: Any = pytest.importorskip("torch")
    if not module.cuda.is_available():
        pytest.skip("PyTorch sees no CUDA device")
    yield module
    module.cuda.synchronize()


def tensors(torch: Any, count: int, size: int) -> Any:
    return torch.tensor(random_gramians(count, size), device="cuda")


def block(torch: Any, seconds: float = BLOCKED_S) -> None:
    """Let the current stream do nothing for a while."""
    torch.cuda._sleep(int(CYCLES_PER_SECOND * seconds))


def calls(torch: Any, size: int) -> dict[str, Callable[[Any], Any]]:
    """Return what is called with Gramians (B, K, K), with all other arguments on the device before."""
    rng = np.random.default_rng(size)

    def there(*shape: int) -> Any:
        return torch.tensor(rng.uniform(0.1, 0.9, shape), device="cuda")

    preference, rows, linear, scales = there(size), there(3, size), there(size), there(size)
    found: dict[str, Callable[[Any], Any]] = {
        "upgrad": mojd.upgrad,
        "upgrad with preferences": lambda G: mojd.upgrad(G, preference),
        "dualproj": mojd.dualproj,
        "dualproj with preferences": lambda G: mojd.dualproj(G, preference),
        "mgda": mojd.mgda,
        "project": lambda G: mojd.project(rows, G),
        "solve": lambda G: mojd.solve(NNQP(G, -linear)).x,
        "statuses": lambda G: mojd.solve(NNQP(G, -linear)).codes,
    }
    if 1 < size <= 33:
        tau = there(size - 1)
        found["pcd"] = mojd.pcd
        found["pcd with tensors"] = lambda G: mojd.pcd(G, tau, scales=scales, rescale=True)
    return found


@contextmanager
def waiting_is_an_error(torch: Any, cupy: Any) -> Iterator[None]:
    """Fail where PyTorch or CuPy waits for the device, or copies from it."""

    def refuse(*_arguments: Any, **_options: Any) -> None:
        raise AssertionError("the host waits for the device")

    runtime, patch = cupy.cuda.runtime, pytest.MonkeyPatch()
    names = ("deviceSynchronize", "streamSynchronize", "eventSynchronize", "memcpy", "memcpyAsync")
    for name in names:
        patch.setattr(runtime, name, refuse)
    for name in ("get", "item", "__int__", "__float__", "__bool__"):
        patch.setattr(cupy.ndarray, name, refuse)
    patch.setattr(cupy.cuda.Stream, "synchronize", refuse)
    patch.setattr(cupy, "asnumpy", refuse)
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
        patch.undo()


class TestNoCallWaits:
    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_tensors(self, torch: Any, cupy: Any, size: int, dtype: str) -> None:
        gramians = tensors(torch, 7, size).to(getattr(torch, dtype))
        for name, call in calls(torch, size).items():
            for given in (gramians, gramians[0]):
                expected = call(given)
                # Leaves memory behind for the next call: to ask the driver for more may take a while.
                call(given)
                torch.cuda.synchronize()
                done = torch.cuda.Event()
                with waiting_is_an_error(torch, cupy):
                    block(torch)
                    start = time.perf_counter()
                    found = call(given)
                    seconds = time.perf_counter() - start
                    done.record()
                    assert not done.query(), f"{name}: the device was done before the call was"
                assert seconds < BLOCKED_S / 2, name
                torch.cuda.synchronize()
                assert torch.equal(found, expected), name

    @pytest.mark.parametrize("size", [2, 5, 33, 70])
    def test_arrays_of_cupy(self, cupy: Any, size: int) -> None:
        spin = cupy.RawKernel(SPIN, "spin")
        gramians = cupy.asarray(random_gramians(7, size))
        for name in ("upgrad", "pcd", "dualproj") if size <= 33 else ("upgrad", "dualproj"):
            weigh = methods(size)[name]
            expected = cupy.asnumpy(weigh(gramians))
            with cupy.cuda.Stream(non_blocking=True) as stream:
                spin((1,), (1,), (np.int64(1),))
                weigh(gramians)
                stream.synchronize()
                spin((1,), (1,), (np.int64(CYCLES_PER_SECOND * BLOCKED_S),))
                start = time.perf_counter()
                found = weigh(gramians)
                seconds = time.perf_counter() - start
                assert not stream.done, name
                assert seconds < BLOCKED_S / 2, name
                stream.synchronize()
            assert np.array_equal(cupy.asnumpy(found), expected), name


class TestStreams:
    @pytest.mark.parametrize("size", SIZES)
    def test_what_is_written_late_on_a_side_stream(self, torch: Any, size: int) -> None:
        """The call reads it after it was written, and what follows reads the result after the call."""
        real = tensors(torch, 5, size)
        for name, call in calls(torch, size).items():
            expected = call(real)
            torch.cuda.synchronize()
            side = torch.cuda.Stream()
            with torch.cuda.stream(side):
                late = torch.eye(size, dtype=real.dtype, device="cuda").expand(real.shape).clone()
                block(torch, 0.05)
                late.copy_(real)
                found = call(late).clone()
                late.zero_()
            side.synchronize()
            assert torch.equal(found, expected), name

    def test_streams_of_one_thread_keep_apart(self, torch: Any) -> None:
        streams = [torch.cuda.Stream() for _ in range(3)]
        given = [tensors(torch, 200, size) for size in (3, 9, 40)]
        expected = [mojd.upgrad(gramians) for gramians in given]
        torch.cuda.synchronize()
        found: list[list[Any]] = [[] for _ in streams]
        for _ in range(20):
            for results, stream, gramians in zip(found, streams, given, strict=True):
                with torch.cuda.stream(stream):
                    results.append(mojd.upgrad(gramians))
        torch.cuda.synchronize()
        for results, weights in zip(found, expected, strict=True):
            assert all(torch.equal(result, weights) for result in results)

    def test_threads_with_streams_of_their_own(self, torch: Any) -> None:
        given = [tensors(torch, 100, size) for size in (2, 5, 33, 70)]
        expected = [mojd.upgrad(gramians) for gramians in given]
        torch.cuda.synchronize()

        def work(index: int) -> bool:
            with torch.cuda.stream(torch.cuda.Stream()):
                results = [mojd.upgrad(given[index]) for _ in range(30)]
                torch.cuda.current_stream().synchronize()
            return all(torch.equal(result, expected[index]) for result in results)

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(work, range(4)))

    def test_arrays_of_jax_are_ready_when_they_are_read(self) -> None:
        jax: Any = pytest.importorskip("jax")
        if not jax_has_cuda(jax):
            pytest.skip("JAX sees no CUDA device")
        with double_precision(jax):
            values = random_gramians(64, 6)
            there = jax.device_put(values, jax.devices("cuda")[0])
            expected = mojd.upgrad(values)
            slow = jax.jit(lambda G: jax.lax.fori_loop(0, 2000, lambda _, H: (H + H.mT) / 2, G))
            for _ in range(5):
                weights = mojd.upgrad(slow(there))
                np.testing.assert_allclose(np.asarray(2 * weights), 2 * expected, rtol=1e-9, atol=1e-12)


class TestGraphs:
    @pytest.mark.parametrize("size", SIZES)
    def test_capture_and_replay(self, torch: Any, size: int) -> None:
        contents = [tensors(torch, 5, size) * (1 + step) + step for step in range(4)]
        for name, call in calls(torch, size).items():
            expected = [call(gramians) for gramians in contents]
            static = contents[0].clone()
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(2):
                    call(static)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                found = call(static)
            for step in (1, 3, 0, 2, 2, 1) * 3:
                # What others allocate meanwhile is nothing that the graph works on.
                rubbish = [torch.full((4096,), float("nan"), device="cuda") for _ in range(8)]
                static.copy_(contents[step])
                graph.replay()
                torch.testing.assert_close(
                    found, expected[step], rtol=1e-11, atol=1e-13, msg=f"{name}, {step}"
                )
                del rubbish

    def test_a_training_step_in_a_graph(self, torch: Any) -> None:
        """Gramian, weights and direction, captured as one."""
        jacobians = torch.randn((6, 20, 300), dtype=torch.float64, device="cuda")
        static = jacobians[0].clone()

        def direction() -> Any:
            return mojd.upgrad(static @ static.mT) @ static

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            direction()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = direction()
        for jacobian in jacobians:
            static.copy_(jacobian)
            graph.replay()
            expected = mojd.upgrad((jacobian @ jacobian.mT).cpu().numpy()) @ jacobian.cpu().numpy()
            np.testing.assert_allclose(found.cpu().numpy(), expected, rtol=1e-9, atol=1e-9)
