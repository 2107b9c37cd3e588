"""Arrays of every library: the same namespace, dtype and device come out, and the same numbers.

An array-api-strict array on its imaginary second device stands for what lives on an accelerator: it
can't be turned into a NumPy array, and has nothing but the standard's functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest

import mojd
from mojd import NNQP, Status
from mojd._arrays import is_on_device, to_numpy
from mojd.weightings import Weighting, registered_weightings
from tests.reference.families import Floats, symmetric_gramian

WEIGHTINGS = registered_weightings()


@dataclass(frozen=True)
class Library:
    """One kind of array.

    Attributes
    ----------
    name : str
        Of the case.
    module : str
        What has to be installed.
    make : callable
        ``make(module, values, dtype name)``.
    read : callable
        ``read(module, array)``, as NumPy.
    on_device : bool
        Whether kernels can't see the memory.
    dtypes : tuple of str
        The floating-point ones.
    on_gpu : bool
        Whether it needs a CUDA device.
    usable : callable
        ``usable(module)``: whether the installed library can reach what it needs.
    """

    name: str
    module: str
    make: Callable[[Any, Floats, str], Any]
    read: Callable[[Any, Any], Any] = lambda _module, array: np.asarray(array)
    on_device: bool = False
    dtypes: tuple[str, ...] = ("float32", "float64")
    on_gpu: bool = False
    usable: Callable[[Any], bool] = lambda _module: True


@contextmanager
def double_precision(jax: Any) -> Iterator[None]:
    """Let JAX have float64 for a while."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


def _make_strict(xp: Any, values: Floats, dtype: str, device: str = "CPU_DEVICE") -> Any:
    return xp.asarray(values.tolist(), dtype=getattr(xp, dtype), device=xp.Device(device))


def _make_jax(jax: Any, values: Floats, dtype: str, platform: str = "cpu") -> Any:
    return jax.device_put(jax.numpy.asarray(values, dtype=dtype), jax.devices(platform)[0])


def jax_has_cuda(jax: Any) -> bool:
    try:
        return bool(jax.devices("cuda"))
    except RuntimeError:
        return False


LIBRARIES = (
    Library("numpy", "numpy", lambda np, values, dtype: np.asarray(values, dtype=dtype)),
    Library("torch", "torch", lambda torch, values, dtype: torch.tensor(values, dtype=getattr(torch, dtype))),
    Library("jax", "jax", _make_jax),
    Library("strict", "array_api_strict", _make_strict, lambda _xp, array: np.from_dlpack(array)),
    Library(
        "strict-device",
        "array_api_strict",
        lambda xp, values, dtype: _make_strict(xp, values, dtype, "device1"),
        lambda xp, array: np.from_dlpack(xp.asarray(array, device=xp.Device("CPU_DEVICE"))),
        on_device=True,
    ),
    Library(
        "torch-cuda",
        "torch",
        lambda torch, values, dtype: torch.tensor(values, dtype=getattr(torch, dtype), device="cuda"),
        lambda _torch, array: array.cpu().numpy(),
        on_device=True,
        on_gpu=True,
    ),
    Library(
        "cupy",
        "cupy",
        lambda cupy, values, dtype: cupy.asarray(values, dtype=dtype),
        lambda cupy, array: cupy.asnumpy(array),
        on_device=True,
        on_gpu=True,
    ),
    Library(
        "jax-cuda",
        "jax",
        partial(_make_jax, platform="cuda"),
        on_device=True,
        on_gpu=True,
        usable=jax_has_cuda,
    ),
)


def cases(libraries: tuple[Library, ...] = LIBRARIES) -> list[Any]:
    """Libraries as parameters of a fixture."""
    return [
        pytest.param(library, marks=[pytest.mark.gpu] if library.on_gpu else [], id=library.name)
        for library in libraries
    ]


@dataclass(frozen=True)
class Maker:
    """A library, imported."""

    library: Library
    module: Any

    def __call__(self, values: Any, dtype: str = "float64") -> Any:
        return self.library.make(self.module, np.asarray(values, float), dtype)

    def read(self, array: Any) -> Any:
        return self.library.read(self.module, array)

    def assert_like(self, result: Any, like: Any) -> Any:
        """Check namespace, dtype and device, and return the numbers as NumPy's."""
        assert type(result) is type(like)
        assert result.dtype == like.dtype
        assert str(getattr(result, "device", "")) == str(getattr(like, "device", ""))
        return self.read(result)


def imported(library: Library) -> Iterator[Maker]:
    """A library, if it is installed and can be used; JAX with float64."""
    module = pytest.importorskip(library.module)
    if not library.usable(module):
        pytest.skip(f"{library.module} sees no CUDA device")
    with double_precision(module) if library.module == "jax" else nullcontext():
        yield Maker(library, module)


@pytest.fixture(params=cases())
def maker(request: pytest.FixtureRequest) -> Iterator[Maker]:
    """Each kind of array whose library is installed."""
    yield from imported(request.param)


@pytest.fixture(params=WEIGHTINGS, ids=lambda weighting: str(weighting.name))
def weighting(request: pytest.FixtureRequest) -> Weighting:
    """Each method from Gramians to weights."""
    found: Weighting = request.param
    return found


@pytest.fixture
def compute(weighting: Weighting) -> Callable[..., Any]:
    """Its function, with values for options that have no default."""
    return partial(weighting.weights, **weighting.example_options)


def random_gramians(count: int, k: int) -> Floats:
    rows = np.random.default_rng(k).standard_normal((count, k, 3 * k))
    return np.stack([symmetric_gramian(jacobian) for jacobian in rows])


def agree(maker: Maker, dtype: str, actual: Any, expected: Any) -> None:
    """The same kernels see CPU arrays of any library; a device computes for itself."""
    precision = max(2 * float(np.finfo(dtype).eps), 1e-12 if maker.library.on_device else 1e-14)
    np.testing.assert_allclose(actual, np.asarray(expected, dtype=dtype), rtol=precision, atol=precision)


@pytest.mark.parametrize("k", [1, 2, 3, 6])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weightings(
    maker: Maker, weighting: Weighting, compute: Callable[..., Any], dtype: str, k: int
) -> None:
    if k < weighting.min_size:
        pytest.skip(f"{weighting.name} takes {weighting.min_size} objectives or more")
    gramians = random_gramians(5, k).astype(dtype)
    like = maker(gramians, dtype)
    assert is_on_device(like) == maker.library.on_device
    weights = maker.assert_like(compute(like), like)
    assert weights.shape == (5, k)
    agree(maker, dtype, weights, compute(gramians))
    alone = maker.assert_like(compute(maker(gramians[0], dtype)), like)
    agree(maker, dtype, alone, compute(gramians[0]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_solutions_and_their_certificates(maker: Maker, dtype: str) -> None:
    gramian = random_gramians(1, 5)[0].astype(dtype)
    linear = np.random.default_rng(0).standard_normal((7, 5)).astype(dtype)
    like = maker(gramian, dtype)
    solution = mojd.solve(NNQP(like, maker(linear, dtype)))
    expected = mojd.solve(NNQP(gramian, linear))
    agree(maker, dtype, maker.assert_like(solution.x, like), expected.x)
    agree(maker, dtype, maker.assert_like(solution.slack, like), expected.slack)
    assert np.isnan(maker.assert_like(solution.ray, like)).all()
    assert type(solution.active) is type(solution.status) is type(solution.kkt_residual) is type(like)
    assert np.array_equal(maker.read(solution.active), expected.active)
    assert np.array_equal(maker.read(solution.status), expected.status)
    assert maker.read(solution.iterations).shape == (7,)
    for name in ("kkt_residual", "gap", "direction_error_bound"):
        values = maker.read(getattr(solution, name))
        assert values.shape == (7,)
        assert np.abs(values).max() < 1e-6
    assert maker.read(solution.kkt_residual).max() <= 1e-12


def test_one_problem(maker: Maker) -> None:
    """Numbers about one problem are numbers."""
    solution = mojd.solve(NNQP(maker([[2.0, 1.0], [1.0, 2.0]]), maker([-3.0, 1.0])))
    assert solution.status is Status.OPTIMAL
    assert maker.read(solution.x).tolist() == [1.5, 0.0]
    assert float(solution.kkt_residual) == 0.0
    assert int(solution.iterations) >= 0
    unbounded = mojd.solve(NNQP(maker([[1.0, -1.0], [-1.0, 1.0]]), maker([-1.0, -1.0])))
    assert unbounded.status is Status.INFEASIBLE
    ray = maker.read(unbounded.ray)
    assert ray[0] == ray[1] > 0
    assert np.isnan(maker.read(unbounded.x)).all()


def test_arguments_beside_the_gramian(maker: Maker) -> None:
    """Preferences, tau, scales and rows to project may be of the same library, or plain numbers."""
    gramian = random_gramians(1, 4)[0]
    like = maker(gramian)
    preference, tau, scales = (
        np.array([0.5, 0.0, 2.0, 1.0]),
        np.array([0.1, 0.0, 1.0]),
        np.array([1.0, 2.0, 0.5, 1.0]),
    )
    rows = np.abs(np.random.default_rng(0).standard_normal((3, 4)))
    for convert in (maker, list):
        for function in (mojd.upgrad, mojd.dualproj):
            weights = maker.assert_like(function(like, convert(preference)), like)
            agree(maker, "float64", weights, function(gramian, preference))
        weights = maker.assert_like(mojd.pcd(like, convert(tau), scales=convert(scales), rescale=True), like)
        agree(maker, "float64", weights, mojd.pcd(gramian, tau, scales=scales, rescale=True))
    projected = maker.assert_like(mojd.project(maker(rows), like), like)
    agree(maker, "float64", projected, mojd.project(rows, gramian))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gramian_and_aggregate(maker: Maker, compute: Callable[..., Any], dtype: str) -> None:
    jacobian = np.random.default_rng(0).standard_normal((2, 4, 9)).astype(dtype)
    like = maker(jacobian, dtype)
    eps = float(np.finfo(dtype).eps)
    products = maker.assert_like(mojd.gramian(like), like)
    np.testing.assert_allclose(products, jacobian @ jacobian.swapaxes(1, 2), rtol=100 * eps, atol=100 * eps)
    direction = maker.assert_like(mojd.aggregate(like, compute), like)
    expected = mojd.aggregate(jacobian, compute)
    np.testing.assert_allclose(direction, expected, rtol=1e3 * eps, atol=1e3 * eps)


def test_the_normaliser(maker: Maker) -> None:
    gramian = random_gramians(1, 3)[0]
    like = maker(gramian)
    state, expected_state = mojd.init_normaliser(3), mojd.init_normaliser(3)
    for _ in range(3):
        scales, state = mojd.normalise(state, like, beta=0.9)
        expected, expected_state = mojd.normalise(expected_state, gramian, beta=0.9)
        np.testing.assert_allclose(maker.assert_like(scales, like), expected, rtol=1e-14)
    agree(maker, "float64", maker.read(mojd.pcd(like, scales=scales)), mojd.pcd(gramian, scales=expected))


def test_nan_propagates(maker: Maker, compute: Callable[..., Any]) -> None:
    gramians = random_gramians(3, 4)
    gramians[1, 0, 1] = np.nan
    weights = maker.read(compute(maker(gramians), nonfinite="propagate"))
    assert np.isnan(weights).all(axis=1).tolist() == [False, True, False]
    assert np.isnan(weights).any(axis=1).tolist() == [False, True, False]
    if maker.library.on_device:
        # To look would wait for the device, so that no error is raised there.
        assert np.isnan(maker.read(compute(maker(gramians)))[1]).all()
    else:
        with pytest.raises(mojd.NonFiniteError, match="gramian"):
            compute(maker(gramians))


def test_empty_batches(maker: Maker, weighting: Weighting, compute: Callable[..., Any]) -> None:
    if maker.library.name.startswith("strict"):
        pytest.skip("a list of nothing has no shape to give to array_api_strict")
    for k in (2, 3, 5):
        if k < weighting.min_size:
            continue
        like = maker(np.zeros((0, k, k)))
        assert maker.assert_like(compute(like), like).shape == (0, k)


def test_integers(maker: Maker) -> None:
    """There is no integer to round the weights to: they are float64."""
    if maker.library.on_device or maker.library.module == "jax":
        pytest.skip("made as float64 here")
    like = maker([[18.0, -22.0], [-22.0, 38.0]], "int64")
    weights = maker.read(mojd.upgrad(like))
    assert weights.dtype == np.float64
    assert np.array_equal(weights, mojd.upgrad([[18.0, -22.0], [-22.0, 38.0]]))


class TestTorch:
    def test_memory_is_shared(self) -> None:
        torch = pytest.importorskip("torch")
        tensor = torch.ones((3, 3), dtype=torch.float64)
        assert np.shares_memory(to_numpy(tensor), tensor.numpy())

    def test_gradients_stop_here(self) -> None:
        """Weights are constants of a training step; a tensor on the tape is no reason to fail."""
        torch = pytest.importorskip("torch")
        jacobian = torch.randn((3, 5), dtype=torch.float64, requires_grad=True)
        weights = mojd.upgrad(jacobian @ jacobian.T)
        assert not weights.requires_grad
        assert torch.equal(weights, mojd.upgrad((jacobian @ jacobian.T).detach()))

    def test_views(self) -> None:
        torch = pytest.importorskip("torch")
        gramians = torch.tensor(random_gramians(4, 3))
        expected = mojd.upgrad(gramians)
        spread = torch.zeros((4, 6, 3), dtype=torch.float64)
        spread[:, ::2] = gramians
        for view in (gramians.mT, spread[:, ::2], gramians.flip(0).flip(0)):
            assert torch.equal(mojd.upgrad(view), expected)
        batch = mojd.upgrad(gramians[:1].expand(5, 3, 3))
        np.testing.assert_allclose(batch, expected[:1].expand(5, 3), rtol=1e-13)

    def test_half_precision(self, compute: Callable[..., Any]) -> None:
        torch = pytest.importorskip("torch")
        gramian = [
            [4.0, -2.0, 1.0, 0.5],
            [-2.0, 8.0, -3.0, 1.0],
            [1.0, -3.0, 6.0, -1.0],
            [0.5, 1.0, -1.0, 4.0],
        ]
        expected = compute(torch.tensor(gramian, dtype=torch.float64))
        for dtype in (torch.float16, torch.bfloat16):
            weights = compute(torch.tensor(gramian, dtype=dtype))
            assert weights.dtype == dtype
            assert torch.equal(weights, expected.to(dtype))
            direction = mojd.aggregate(torch.eye(4, dtype=dtype), compute)
            assert direction.dtype == dtype

    def test_other_kinds_of_numbers_are_refused(self) -> None:
        torch = pytest.importorskip("torch")
        for dtype in (torch.complex64, torch.bool):
            with pytest.raises(
                mojd.InvalidTypeError, match=r"gramian must hold real numbers.*\(2, 2\).*Tensor"
            ):
                mojd.upgrad(torch.zeros((2, 2), dtype=dtype))


class TestJax:
    def test_float32_is_the_default(self) -> None:
        jax = pytest.importorskip("jax")
        gramian = jax.numpy.asarray([[18.0, -22.0], [-22.0, 38.0]])
        weights = mojd.upgrad(gramian)
        assert weights.dtype == np.float32
        np.testing.assert_allclose(weights, [10 / 9, 15 / 19], rtol=1e-7)

    def test_its_read_only_memory_is_used_as_it_is(self) -> None:
        jax = pytest.importorskip("jax")
        with double_precision(jax):
            gramian = jax.numpy.asarray(random_gramians(1, 6)[0])
            assert np.shares_memory(to_numpy(gramian), np.asarray(gramian))
            assert not to_numpy(gramian).flags.writeable
            before = np.asarray(gramian).copy()
            mojd.upgrad(gramian)
            assert np.array_equal(np.asarray(gramian), before)


class TestDevices:
    """The second device of array_api_strict, which NumPy can't read."""

    def on_device(self, values: Any) -> Any:
        xp = pytest.importorskip("array_api_strict")
        return _make_strict(xp, np.asarray(values, float), "float64", "device1")

    def test_the_kernels_are_not_for_it(self) -> None:
        problem = NNQP(self.on_device(np.eye(2)), self.on_device([-1.0, -1.0]))
        with pytest.raises(mojd.InvalidInputError, match=r"'active_set' runs on the CPU.*device.*auto"):
            mojd.solve(problem, "active_set")

    def test_arrays_have_to_be_together(self) -> None:
        with pytest.raises(
            mojd.InvalidInputError, match=r"gramian is on .*device1.* but linear on .*one device"
        ):
            NNQP(self.on_device(np.eye(2)), np.ones(2))

    def test_what_is_no_gramian_gets_a_status(self) -> None:
        """Errors would have to wait for the device."""
        solution = mojd.solve(NNQP(self.on_device([[1.0, 3.0], [3.0, 1.0]]), self.on_device([-1.0, -1.0])))
        assert solution.status is Status.MAX_ITER


def test_data_frames_are_read_as_arrays() -> None:
    """Anything that NumPy can read will do, and comes out as NumPy's."""

    class Frame:
        def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
            return np.array([[18.0, -22.0], [-22.0, 38.0]], dtype=dtype)

    weights = mojd.upgrad(Frame())
    assert type(weights) is np.ndarray
    np.testing.assert_allclose(weights, [10 / 9, 15 / 19], rtol=1e-15)
