"""The shim that runs CUDA kernels on the CPU: it does what a GPU does, and tells where that is undefined."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from .host import compile as compiling
from .host.compile import build
from .host.launching import LaunchError, Library, Order, guarded
from .kernels_for_tests import NAMES, SOURCE

ORDERS: tuple[Order, ...] = ("ascending", "descending", 0, 1)


@pytest.fixture(scope="module")
def kernels() -> Library:
    return build(NAMES, SOURCE)


def at(array: NDArray[Any]) -> np.uintp:
    return np.uintp(array.ctypes.data)


def test_indices(kernels: Library) -> None:
    out = np.zeros(3 * 40, dtype=np.int32)
    kernels.launch("mojd::indices", 3, 40, 0, (at(out),))
    expected = [i + 100 * b + 10000 * 40 + 1000000 * 3 for b in range(3) for i in range(40)]
    assert out.tolist() == expected


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("name", "dtype"), [("int", np.int32), ("long long", np.int64), ("double", np.float64)]
)
def test_shuffles(kernels: Library, name: str, dtype: type[np.generic], order: Order) -> None:
    values = (np.arange(64) * 3 - 50).astype(dtype)
    out = np.zeros((6, 64), dtype=dtype)
    kernels.launch(f"mojd::shuffles<{name}>", 1, 64, 0, (at(values), at(out)), order)
    lane = np.arange(64)
    first, place = lane // 16 * 16, lane % 16
    sources = [
        first + 3,
        first + (place + 1) % 16,
        lane ^ 5,
        # An xor reaches lower segments, and no higher one.
        np.where(lane & 16, lane ^ 16, lane),
        np.where(place >= 2, lane - 2, lane),
        np.where(place < 14, lane + 2, lane),
    ]
    assert np.array_equal(out, values[np.array(sources)])


@pytest.mark.parametrize("order", ORDERS)
def test_votes(kernels: Library, order: Order) -> None:
    values = np.array([i % 3 for i in range(32)] + [9] * 32, dtype=np.int32)
    out = np.zeros((6, 64), dtype=np.uint32)
    kernels.launch("mojd::votes", 1, 64, 0, (at(values), at(out)), order)
    ballot = sum(1 << i for i in range(32) if i % 3)
    first, second = out[:, :32].T.tolist(), out[:, 32:].T.tolist()
    positive = int((values > 0).sum())
    assert first == [[ballot, 0, 1, 1, 0, positive]] * 32
    assert second == [[0xFFFFFFFF, 1, 0, 1, 0, positive]] * 32


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("width", "threads"), [(4, 32), (4, 1024), (32, 1024)])
def test_tiles_run_apart(kernels: Library, width: int, threads: int, order: Order) -> None:
    out = np.zeros(threads)
    kernels.launch(f"mojd::tiles<{width}>", 1, threads, 0, (at(out),), order)
    sums = np.arange(threads, dtype=float).reshape(-1, width).sum(axis=1)
    # Each further sum adds equal numbers.
    sums *= float(width) ** np.arange(len(sums))
    assert np.array_equal(out, np.repeat(sums, width))


def results_by_order(kernels: Library, name: str, threads: int) -> list[list[float]]:
    values = np.random.default_rng(0).random((2, threads))
    results = []
    for order in ORDERS:
        out = np.zeros(threads if "neighbours" in name else 2)
        pointers = (at(out),) if "neighbours" in name else (at(values), at(out))
        kernels.launch(name, 1 if "neighbours" in name else 2, threads, 8 * threads, pointers, order)
        results.append(out.tolist())
    return results


@pytest.mark.parametrize(("name", "threads"), [("reduce", 32), ("reduce", 256), ("neighbours", 32)])
def test_a_race_depends_on_the_order(kernels: Library, name: str, threads: int) -> None:
    right = results_by_order(kernels, f"mojd::{name}<true>", threads)
    racy = results_by_order(kernels, f"mojd::{name}<false>", threads)
    assert all(result == right[0] for result in right)
    assert any(result != racy[0] for result in racy)


def turns(kernels: Library, order: Order) -> list[int]:
    """Three blocks of 40 threads, each of which notes its number before and after a barrier."""
    counter, out = np.zeros(1, dtype=np.int32), np.zeros(3 * 2 * 40, dtype=np.int32)
    kernels.launch("mojd::turns", 3, 40, 0, (at(counter), at(out)), order)
    return [int(number) for number in out]


def test_threads_and_blocks_take_turns_in_the_order_asked_for(kernels: Library) -> None:
    ascending = [i for block in range(3) for _ in range(2) for i in range(40 * block, 40 * block + 40)]
    assert turns(kernels, "ascending") == ascending
    assert turns(kernels, "descending") == ascending[::-1]


def test_a_seed_shuffles_each_time_differently(kernels: Library) -> None:
    seen = [turns(kernels, seed) for seed in range(6)]
    assert all(a != b for a, b in itertools.combinations(seen, 2))
    assert all(turns(kernels, seed) == seen[seed] for seed in range(6))
    for numbers in seen:
        rounds = [[i % 40 for i in numbers[at : at + 40]] for at in range(0, 240, 40)]
        assert all(sorted(each) == list(range(40)) for each in rounds)
        assert all(a != b for a, b in itertools.combinations(rounds, 2))
    assert len({tuple(numbers[::80]) for numbers in seen}) > 1


def test_shared_memory_is_nan_before_every_block(kernels: Library) -> None:
    out = np.zeros(3)
    kernels.launch("mojd::shared_is_poisoned", 3, 1, 64, (at(out), np.int32(1)))
    assert np.isnan(out).all()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("how", "message"),
    [
        (0, r"different barriers: threads 0-39 wait at __syncthreads in line \d+; threads 40-63 wait at"),
        (1, r"for ever: threads 0-6,8-63 have returned; threads 7 wait at __syncthreads in line \d+\n  line"),
        (
            2,
            r"different collectives: threads 0-15 wait at __any_sync .*threads 16-31 wait at __ballot",
        ),
        (
            8,
            r"for ever: threads 0-15,32-63 wait at __syncthreads in line \d+; threads 16-31 wait at __ballot",
        ),
        (3, r"different collectives.* 5 wait at __shfl_sync with mask 0x000000ff and width 32 in line"),
        (
            4,
            r"different barriers: threads 0-31 .* in line \d+; threads 32-63 .*\n.*\n.*syncthreads",
        ),
        (5, r"lane \d+ reads lane \d+, which is not in mask 0x(0000ffff|ffff0000), in line \d+"),
        (6, r"not in its own mask: threads \d+ wait at __syncwarp with mask 0x0000ffff"),
    ],
)
def test_divergence_is_reported(kernels: Library, how: int, message: str, order: Order) -> None:
    with pytest.raises(LaunchError, match=message):
        kernels.launch("mojd::diverge", 2, 64, 0, (np.int32(how),), order)
    # What failed leaves nothing behind.
    kernels.launch("mojd::diverge", 2, 64, 0, (np.int32(9),), order)


def test_lanes_that_the_block_has_not(kernels: Library) -> None:
    with pytest.raises(LaunchError, match="lanes that the block has not"):
        kernels.launch("mojd::tiles<32>", 1, 16, 0, (at(np.zeros(32)),))


@pytest.mark.parametrize("write", [0, 1])
@pytest.mark.parametrize("doubles", [1, 6, 512, 513, 29056])
def test_shared_memory_ends_where_it_ends(kernels: Library, doubles: int, write: int) -> None:
    def touch(offset: int) -> None:
        kernels.launch(
            "mojd::touch", 2, 64, 8 * doubles, (np.int64(offset), np.int32(write)), order="descending"
        )

    touch(doubles - 1)
    beyond = doubles + doubles % 2
    with pytest.raises(
        LaunchError, match=rf"block 1: thread 63 touches byte {8 * beyond} of .* in line \d+\n"
    ):
        touch(beyond)
    # Up to 8 bytes before the guard page, and whatever is before the start, are only seen if written to.
    for offset in {doubles, -1} - {beyond}:
        if write:
            with pytest.raises(LaunchError, match=rf"byte {8 * offset}( |\+|$)|touches|wrote to byte"):
                touch(offset)


def test_global_memory_ends_where_it_ends(kernels: Library) -> None:
    values, out = guarded(np.arange(7.0)), np.zeros(1)
    kernels.launch("mojd::read_far", 1, 1, 0, (at(values), np.int64(6), at(out)))
    assert out[0] == 6.0
    with pytest.raises(LaunchError, match="touches memory that is not its own, at 0x"):
        kernels.launch("mojd::read_far", 1, 1, 0, (at(values), np.int64(7), at(out)))
    with pytest.raises(LaunchError, match="touches memory that is not its own"):
        kernels.launch("mojd::read_far", 1, 1, 0, (np.uintp(0), np.int64(0), at(out)))


def test_stacks_end_where_they_end(kernels: Library) -> None:
    depth = np.zeros(1, dtype=np.int32)
    kernels.launch("mojd::overflow", 1, 1, 0, (at(depth), np.int32(50)))
    assert depth[0] == 51
    with pytest.raises(LaunchError, match="thread 0 overflows its stack of 64 kB"):
        kernels.launch("mojd::overflow", 1, 1, 0, (at(depth), np.int32(500)))


def test_parameters(kernels: Library) -> None:
    values, out = np.array([1, 2, 3], dtype=np.float32), np.zeros(5)
    pair = np.void((1.5, 7), dtype=np.dtype([("first", "f8"), ("second", "i4")], align=True))
    arguments: tuple[np.generic, ...] = (pair, at(values), np.uint8(200), np.float64(-2.5), at(out))
    kernels.launch("mojd::parameters", 1, 1, 0, arguments)
    assert out.tolist() == [1.5, 7.0, 2.0, 200.0, -2.5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.int64(1), np.int32(2), np.uintp(0)), "argument 0 of mojd::add is int64 .* integer of 4 bytes"),
        ((np.int32(1), np.float32(2), np.uintp(0)), "argument 1 of mojd::add is float32 .* integer"),
        ((np.int32(1), np.int32(2), np.int64(0)), "argument 2 of mojd::add is int64 .* a pointer of 8 bytes"),
        ((np.int32(1), np.int32(2)), "takes 3 arguments, not 2"),
        ((np.int32(1), 2, np.uintp(0)), "argument 1 of mojd::add is no NumPy scalar but int"),
    ],
)
def test_arguments_are_checked(kernels: Library, arguments: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        kernels.launch("mojd::add", 1, 1, 0, arguments)


@pytest.mark.parametrize(
    ("grid", "block", "shared", "message"),
    [(1, 1025, 0, "threads"), (1, 0, 0, "threads"), (0, 1, 0, "blocks"), (1, 1, 227 * 1024 + 1, "bytes")],
)
def test_sizes_are_checked(kernels: Library, grid: int, block: int, shared: int, message: str) -> None:
    with pytest.raises(LaunchError, match=message):
        kernels.launch("mojd::diverge", grid, block, shared, (np.int32(7),))


def test_arithmetic_rounds_as_on_a_gpu(kernels: Library) -> None:
    # The square of 1 + ε is 1 + 2ε + ε², of which only an fma sees the last.
    epsilon = 2.0**-30
    a, out = 1.0 + epsilon, np.zeros(8)
    kernels.launch("mojd::arithmetic", 1, 1, 0, (np.float64(a), np.float64(a), np.float64(-1.0), at(out)))
    assert out[0] == 2 * epsilon + epsilon**2 > 2 * epsilon
    assert out[1] == out[2] == 2 * epsilon
    assert np.isnan(out[3])
    assert out[4:].tolist() == [a / 2, 2 * a, a + 2.0**-52, a + 1.0]
    kernels.launch("mojd::contraction", 1, 1, 0, (np.float64(a), np.float64(a), np.float64(-1.0), at(out)))
    assert out[0] == 2 * epsilon


def test_undefined_behaviour_is_reported_if_asked_for() -> None:
    out = np.zeros(1, dtype=np.int32)
    library = build(["mojd::add"], SOURCE, sanitize=True)
    library.launch("mojd::add", 1, 1, 0, (np.int32(2**30), np.int32(1), at(out)))
    assert out[0] == 2**30 + 1
    with pytest.raises(LaunchError, match="undefined behaviour"):
        library.launch("mojd::add", 1, 1, 0, (np.int32(2**30), np.int32(2**30), at(out)))


def test_without_assembler() -> None:
    library = build(["mojd::tiles<4>", "mojd::diverge"], SOURCE, portable=True)
    for order in ORDERS:
        test_tiles_run_apart(library, 4, 32, order)
        test_tiles_run_apart(library, 4, 1024, order)
        test_divergence_is_reported(library, 1, "have returned", order)


def test_compilation_errors_name_the_line() -> None:
    with pytest.raises(RuntimeError, match=r"source:2:\d+: error"):
        build(["f"], "__global__ void f() {\n  nonsense();\n}")


def test_a_library_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "CACHE", tmp_path)
    build(["f", "f"], "__global__ void f() {}").launch("f", 1, 1, 0, ())
    made = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.suffix in (".so", ".o")}
    assert len(made) == 2
    build(["f"], "__global__ void f() {}").launch("f", 1, 1, 0, ())
    assert {path.name for path in tmp_path.iterdir() if path.suffix in (".so", ".o")} == set(made)
    assert all((tmp_path / name).stat().st_mtime_ns == then for name, then in made.items())


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "compiler", lambda: None)
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="install"):
        build(["f"], "")
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="install"):
        build(["f"], "")
