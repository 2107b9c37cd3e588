"""Arrays on a GPU: NumPy's answers, for tensors and for arrays of CuPy and JAX, of every shape and kind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import mojd
from mojd import NNQP, Status
from tests.contracts.test_array_libraries import LIBRARIES, Maker, cases, imported
from tests.cuda.answers import AGREEMENT, distance, gramian_of, methods, random_gramians
from tests.reference.families import FAMILIES

pytestmark = pytest.mark.gpu

ON_GPU = tuple(library for library in LIBRARIES if library.on_gpu)
# Sizes on both sides of where one kernel ends and the next begins.
SIZES = (*range(1, 34), 70, 130, 300)
LARGEST = 1024
FEW_SIZES = (2, 3, 4, 5, 8, 17, 33, 40)


@pytest.fixture(autouse=True)
def cupy() -> Any:
    """CuPy, without which there are no kernels."""
    return pytest.importorskip("cupy")


@pytest.fixture(params=cases(ON_GPU))
def maker(request: pytest.FixtureRequest) -> Iterator[Maker]:
    """Each library that is installed and reaches the GPU."""
    yield from imported(request.param)


@pytest.fixture
def torch() -> Any:
    module = pytest.importorskip("torch")
    if not module.cuda.is_available():
        pytest.skip("PyTorch sees no CUDA device")
    return module


def linear_terms(count: int, size: int) -> Any:
    return np.random.default_rng([count, size]).standard_normal((count, size))


class TestValues:
    def test_the_solver_is_chosen(self, maker: Maker) -> None:
        from mojd.solvers._cuda.presence import takes

        assert "cuda" in mojd.available_solvers()
        assert takes(maker(np.eye(3)), 3)

    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    def test_every_size(self, maker: Maker, dtype: str) -> None:
        for size in SIZES:
            gramians = random_gramians(5 if size <= 33 else 2, size).astype(dtype)
            like = maker(gramians, dtype)
            for name, weigh in methods(size).items():
                weights = maker.assert_like(weigh(like), like)
                expected = weigh(gramians)
                assert weights.shape == expected.shape, (name, size)
                assert distance(gramians, weights, expected) <= AGREEMENT[dtype], (name, size)

    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    def test_solutions(self, maker: Maker, dtype: str) -> None:
        for size in SIZES:
            count = 5 if size <= 33 else 2
            gramians, linear = (
                array.astype(dtype) for array in (random_gramians(count, size), linear_terms(count, size))
            )
            expected = mojd.solve(NNQP(gramians, linear))
            found = mojd.solve(NNQP(maker(gramians, dtype), maker(linear, dtype)))
            assert (maker.read(found.status) == expected.status).all()
            if dtype == "float64":
                assert maker.read(found.kkt_residual).max() <= 1e-12
            x = maker.assert_like(found.x, maker(gramians, dtype))
            assert distance(gramians, x, expected.x) <= AGREEMENT[dtype], size

    def test_the_largest(self, maker: Maker) -> None:
        gramian = random_gramians(1, LARGEST)[0]
        weights = maker.read(mojd.upgrad(maker(gramian)))
        assert distance(gramian, weights, mojd.upgrad(gramian)) <= 1e-8

    def test_larger_ones_go_to_array_api(self, maker: Maker) -> None:
        gramian = random_gramians(1, LARGEST + 1)[0]
        linear = linear_terms(1, LARGEST + 1)[0]
        found = mojd.solve(NNQP(maker(gramian), maker(linear)))
        assert found.status is Status.OPTIMAL
        assert float(found.kkt_residual) <= 1e-12
        with pytest.raises(mojd.InvalidInputError, match="'cuda' takes K <= 1024"):
            mojd.solve(NNQP(maker(gramian), maker(linear)), "cuda")

    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    @pytest.mark.parametrize("family", FAMILIES)
    def test_adversarial_families(self, maker: Maker, family: str, dtype: str) -> None:
        """What is an error on the CPU is NaN here."""
        for size in FEW_SIZES:
            if size < FAMILIES[family].min_size:
                continue
            gramian = gramian_of(family, size, dtype)[None]
            like = maker(gramian, dtype)
            for name in ("upgrad", "pcd"):
                weigh = methods(size)[name]
                weights = maker.read(weigh(like))
                try:
                    expected = weigh(gramian)
                except mojd.MojdError:
                    assert np.isnan(weights).all(), (name, size)
                    continue
                assert distance(gramian, weights, expected) <= AGREEMENT[dtype], (name, size)

    @pytest.mark.parametrize("family", [name for name in FAMILIES if FAMILIES[name].exact])
    def test_statuses_and_rays(self, maker: Maker, family: str) -> None:
        for size in (2, 3, 4, 8):
            if size < FAMILIES[family].min_size:
                continue
            gramian = gramian_of(family, size, "float64")
            linear = np.stack([gramian[0], -np.ones(size)])
            expected = mojd.solve(NNQP(gramian, linear))
            found = mojd.solve(NNQP(maker(gramian), maker(linear)))
            assert (maker.read(found.status) == expected.status).all(), size
            assert (np.isnan(maker.read(found.ray)) == np.isnan(expected.ray)).all()

    def test_what_is_wrong_is_nan_and_stays_alone(self, maker: Maker) -> None:
        for size in (2, 3, 5, 33):
            gramians = random_gramians(4, size)
            gramians[1, 0, 1] = np.nan
            gramians[2, 0, 0] = -1.0
            gramians[3, 1, 0] += 10.0
            like = maker(gramians)
            for name in ("upgrad", "pcd", "dualproj", "mgda"):
                weights = maker.read(methods(size)[name](like))
                assert np.isfinite(weights).all(axis=1).tolist() == [True, False, False, False], name
                assert np.isnan(weights[1:]).all(), name
            solution = mojd.solve(NNQP(like, maker(np.ones((4, size)))))
            expected = [Status.OPTIMAL, Status.NONFINITE, Status.MAX_ITER, Status.MAX_ITER]
            assert maker.read(solution.status).tolist() == [int(status) for status in expected]

    def test_batches(self, maker: Maker) -> None:
        for size in (2, 3, 6, 20, 40):
            gramians = random_gramians(12, size)
            weights = maker.read(mojd.upgrad(maker(gramians.reshape(2, 3, 2, size, size))))
            assert weights.shape == (2, 3, 2, size)
            one_by_one = [maker.read(mojd.upgrad(maker(gramian))) for gramian in gramians]
            np.testing.assert_allclose(weights.reshape(12, size), one_by_one, rtol=1e-12, atol=1e-13)
            preferences = np.abs(linear_terms(3, size)) + 0.1
            like, rows = maker(gramians[:3, None]), maker(preferences)
            found = maker.read(mojd.upgrad(like, rows))
            expected = mojd.upgrad(gramians[:3, None], preferences)
            assert distance(np.broadcast_to(gramians[:3, None], (3, 3, size, size)), found, expected) <= 1e-8
            assert maker.read(mojd.upgrad(maker(gramians)[:0])).shape == (0, size)

    def test_many(self, maker: Maker) -> None:
        """More problems than a GPU has threads at once, each of which has its own answer."""
        for size in (2, 3, 4, 9, 17, 32):
            few = random_gramians(50, size)
            count = 40_000 if size <= 9 else 10_000
            like = maker(few[np.arange(count) % 50])
            for name in ("upgrad", "pcd"):
                weights = maker.read(methods(size)[name](like)).reshape(count // 50, 50, size)
                assert (weights == weights[0]).all(), (name, size)
                expected = methods(size)[name](few)
                assert distance(few, weights[0], expected) <= 1e-8, (name, size)

    def test_arguments_of_pcd(self, maker: Maker) -> None:
        gramians = random_gramians(4, 5)
        rng = np.random.default_rng(0)
        tau, scales = rng.uniform(0, 1, (4, 4)), rng.uniform(0.1, 2.0, (4, 5))
        like = maker(gramians)
        for rescale in (False, True):
            for taus in (tau, tau[0], 0.5):
                expected = mojd.pcd(gramians, taus, scales=scales, rescale=rescale)
                there = taus if isinstance(taus, float) else maker(taus)
                found = maker.read(mojd.pcd(like, there, scales=maker(scales), rescale=rescale))
                np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)

    def test_numpy_arrays_go_there_and_back(self) -> None:
        for size in (2, 5, 40):
            gramians = random_gramians(3, size)
            weights = mojd.upgrad(gramians, solver="cuda")
            assert isinstance(weights, np.ndarray)
            assert distance(gramians, weights, mojd.upgrad(gramians)) <= 1e-8


class TestTensors:
    """What only PyTorch has."""

    @pytest.mark.parametrize("size", [2, 3, 5, 33])
    def test_layouts(self, torch: Any, size: int) -> None:
        gramians = torch.tensor(random_gramians(6, size), device="cuda")
        expected = mojd.upgrad(gramians)
        spread = torch.zeros((12, size, 2 * size), dtype=torch.float64, device="cuda")
        spread[::2, :, ::2] = gramians
        views = {
            "transposed": gramians.mT,
            "strided": spread[::2, :, ::2],
            "flipped": gramians.flip(0).flip(0),
            "permuted": gramians.permute(1, 2, 0).contiguous().permute(2, 0, 1),
            "negated": torch.view_as_complex(torch.stack([torch.zeros_like(gramians), -gramians], -1))
            .conj()
            .imag,
            "conjugated": torch.view_as_complex(torch.stack([gramians, torch.zeros_like(gramians)], -1))
            .conj()
            .real,
        }
        assert views["negated"].is_neg()
        for name, view in views.items():
            assert torch.equal(mojd.upgrad(view), expected), name
        expanded = mojd.upgrad(gramians[:1].expand(7, size, size))
        torch.testing.assert_close(expanded, expected[:1].expand(7, size), rtol=1e-12, atol=1e-13)
        offset = torch.cat([gramians.new_zeros(1), gramians.reshape(-1)])[1:].reshape(gramians.shape)
        assert torch.equal(mojd.upgrad(offset), expected)

    def test_nothing_is_written_to(self, torch: Any) -> None:
        for size in (2, 3, 5, 33, 70):
            gramian = torch.tensor(random_gramians(2, size), device="cuda")
            before = gramian.clone()
            for weigh in methods(size).values():
                weigh(gramian)
            assert torch.equal(gramian, before)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_half_precision(self, torch: Any, dtype: str) -> None:
        for size in (2, 3, 5, 33):
            half = torch.tensor(random_gramians(3, size) / size, device="cuda").to(getattr(torch, dtype))
            half = (half + half.mT) / 2
            for name in ("upgrad", "pcd", "dualproj"):
                weights = methods(size)[name](half)
                assert weights.dtype == half.dtype and weights.is_cuda
                expected = methods(size)[name](half.cpu())
                assert (
                    distance(
                        half.double().cpu().numpy(),
                        *(array.double().cpu().numpy() for array in (weights, expected)),
                    )
                    <= 2e-2
                ), (name, size)

    def test_the_tape(self, torch: Any) -> None:
        jacobian = torch.randn((3, 5), dtype=torch.float64, device="cuda", requires_grad=True)
        gramian = jacobian @ jacobian.mT
        for weigh in methods(3).values():
            weights = weigh(gramian)
            assert not weights.requires_grad
            assert torch.equal(weights, weigh(gramian.detach()))

    def test_statuses_stay_there_until_they_are_read(self, torch: Any) -> None:
        gramians = torch.tensor(random_gramians(4, 6), device="cuda")
        solution = mojd.solve(NNQP(gramians, gramians[:, 0]))
        for array in (solution.x, solution.status, solution.iterations, solution.active, solution.slack):
            assert array.is_cuda
        assert solution.status.tolist() == [0, 0, 0, 0]

    def test_a_second_device(self, torch: Any) -> None:
        if torch.cuda.device_count() < 2:
            pytest.skip("there is one GPU")
        for size in (2, 3, 5, 33):
            gramians = torch.tensor(random_gramians(3, size), device="cuda:1")
            for weigh in methods(size).values():
                weights = weigh(gramians)
                assert weights.device == gramians.device
                expected = weigh(gramians.cpu().numpy())
                assert distance(gramians.cpu().numpy(), weights.cpu().numpy(), expected) <= 1e-8

    def test_plain_array_operations_agree(self, torch: Any) -> None:
        """Solver array_api on CUDA tensors."""
        for size in (2, 3, 5, 33):
            gramians = torch.tensor(random_gramians(3, size), device="cuda")
            for function in (mojd.upgrad, mojd.pcd, mojd.dualproj, mojd.mgda):
                weights = function(gramians, solver="array_api")
                assert weights.is_cuda
                expected = function(gramians.cpu().numpy())
                assert distance(gramians.cpu().numpy(), weights.cpu().numpy(), expected) <= 1e-8
