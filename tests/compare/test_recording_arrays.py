"""Recording arrays of every library and dtype."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from mojd.compare.recording import load_gramians, record
from mojd.errors import InvalidTypeError

TOY = np.array([[18.0, -22.0], [-22.0, 38.0]])


class TestArrays:
    @pytest.mark.parametrize(
        ("stored", "given_dtype"),
        [("float16", "float16"), ("float32", ">f4"), ("float64", "float64"), ("float64", "int32")],
    )
    def test_numpy_dtypes(self, tmp_path: Path, stored: str, given_dtype: str) -> None:
        with record(tmp_path / "run.npz") as recorder:
            recorder(TOY.astype(given_dtype))
        loaded = load_gramians(tmp_path / "run.npz")["gramian"]
        assert loaded.dtype == np.dtype(stored)
        np.testing.assert_array_equal(loaded[0], TOY)

    def test_nested_lists(self, tmp_path: Path) -> None:
        with record(tmp_path / "run.npz") as recorder:
            recorder(TOY.tolist())
        np.testing.assert_array_equal(load_gramians(tmp_path / "run.npz")["gramian"][0], TOY)

    def test_read_only_and_non_contiguous(self, tmp_path: Path) -> None:
        hilbert = 1 / (1 + np.add.outer(np.arange(6.0), np.arange(6.0)))
        view = hilbert[::-2, ::-2]
        view.flags.writeable = False
        with record(tmp_path / "run.npz") as recorder:
            recorder(view)
        np.testing.assert_array_equal(load_gramians(tmp_path / "run.npz")["gramian"][0], view)

    @pytest.mark.parametrize(
        ("dtype", "stored"),
        [("float64", "float64"), ("float32", "float32"), ("float16", "float16"), ("bfloat16", "float32")],
    )
    def test_torch(self, tmp_path: Path, dtype: str, stored: str) -> None:
        torch = pytest.importorskip("torch")
        tensor = torch.tensor(TOY, dtype=getattr(torch, dtype), requires_grad=True)
        with record(tmp_path / "run.npz") as recorder:
            recorder(tensor)
            with torch.no_grad():
                tensor.zero_()
        loaded = load_gramians(tmp_path / "run.npz")["gramian"]
        assert loaded.dtype == np.dtype(stored)
        np.testing.assert_array_equal(loaded[0], TOY)

    def test_torch_cuda(self, tmp_path: Path) -> None:
        torch = pytest.importorskip("torch")
        if not torch.cuda.is_available():
            pytest.skip("needs a GPU")
        with record(tmp_path / "run.npz") as recorder:
            recorder(torch.tensor(TOY, device="cuda"))
        np.testing.assert_array_equal(load_gramians(tmp_path / "run.npz")["gramian"][0], TOY)

    @pytest.mark.parametrize(("dtype", "stored"), [("float32", "float32"), ("bfloat16", "float32")])
    def test_jax(self, tmp_path: Path, dtype: str, stored: str) -> None:
        jnp = pytest.importorskip("jax.numpy")
        with record(tmp_path / "run.npz") as recorder:
            recorder(jnp.asarray(TOY, dtype=dtype))
        loaded = load_gramians(tmp_path / "run.npz")["gramian"]
        assert loaded.dtype == np.dtype(stored)
        np.testing.assert_array_equal(loaded[0], TOY)

    def test_traced_jax_values_are_refused(self, tmp_path: Path) -> None:
        jax = pytest.importorskip("jax")
        recorder = record(tmp_path / "run.npz")
        with pytest.raises(InvalidTypeError, match=r"gramian: .*outside of jit"):
            jax.jit(recorder)(TOY)

    def test_array_api_strict(self, tmp_path: Path) -> None:
        strict = pytest.importorskip("array_api_strict")
        with record(tmp_path / "run.npz") as recorder:
            recorder(strict.asarray(TOY))
        np.testing.assert_array_equal(load_gramians(tmp_path / "run.npz")["gramian"][0], TOY)

    def test_an_array_that_only_speaks_dlpack(self, tmp_path: Path) -> None:
        class Minimal:
            def __dlpack__(self, **options: Any) -> Any:
                return TOY.__dlpack__(**options)

            def __dlpack_device__(self) -> Any:
                return TOY.__dlpack_device__()

        with record(tmp_path / "run.npz") as recorder:
            recorder(Minimal())
        np.testing.assert_array_equal(load_gramians(tmp_path / "run.npz")["gramian"][0], TOY)

    def test_an_array_that_refuses_implicit_transfers(self, tmp_path: Path) -> None:
        class LikeCuPy:
            __cuda_array_interface__: ClassVar[dict[str, Any]] = {}

            def get(self) -> Any:
                return TOY

            def __array__(self, *_: Any, **__: Any) -> Any:
                raise TypeError("implicit conversion is not allowed")

        with record(tmp_path / "run.npz") as recorder:
            recorder(LikeCuPy())
        np.testing.assert_array_equal(load_gramians(tmp_path / "run.npz")["gramian"][0], TOY)
