"""Reading recordings and files of one's own, and the Gramians that come with mojd."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import numpy as np
import pytest

from mojd.compare.recording import PCD_PREFIX, load_gramians, recorded_gramians
from mojd.errors import InvalidInputError, InvalidTypeError


class TestLoading:
    def test_files_of_ones_own(self, tmp_path: Path) -> None:
        stack = np.arange(5.0)[:, np.newaxis, np.newaxis] * np.ones((3, 3))
        np.savez(tmp_path / "mine.npz", one=np.eye(2), many=stack, whole=np.eye(4, dtype=np.int64))
        loaded = load_gramians(str(tmp_path / "mine.npz"))
        np.testing.assert_array_equal(loaded["one"], np.eye(2)[np.newaxis])
        np.testing.assert_array_equal(loaded["many"], stack)
        assert loaded["whole"].dtype == np.float64

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            load_gramians(tmp_path / "absent.npz")

    @pytest.mark.parametrize("shape", [(3, 2), (6,), (2, 3, 3, 3), (0, 3, 3)])
    def test_other_shapes(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        np.savez(tmp_path / "mine.npz", mine=np.ones(shape))
        message = f"mine.npz: 'mine' has shape {shape}; a Gramian has shape (K, K)"
        with pytest.raises(InvalidInputError, match=re.escape(message)):
            load_gramians(tmp_path / "mine.npz")

    def test_other_types(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "mine.npz", mine=np.ones((2, 2), dtype=complex))
        with pytest.raises(
            InvalidTypeError, match=r"mine.npz: 'mine': must hold real numbers, got dtype complex128"
        ):
            load_gramians(tmp_path / "mine.npz")

    def test_objects(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "mine.npz", mine=np.array([[None]]))
        with pytest.raises(
            InvalidInputError, match=r"mine.npz: cannot be read as an npz file of plain arrays"
        ):
            load_gramians(tmp_path / "mine.npz")

    @pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut short"])
    def test_files_that_are_not_npz(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "mine.npz").write_bytes(content)
        with pytest.raises(InvalidInputError, match=r"mine.npz: not an npz file"):
            load_gramians(tmp_path / "mine.npz")

    def test_an_empty_file(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "mine.npz")
        with pytest.raises(InvalidInputError, match=r"mine.npz: holds no arrays"):
            load_gramians(tmp_path / "mine.npz")

    def test_a_later_format(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "run.npz", mojd_format=2, gramian=np.ones((1, 3)))
        with pytest.raises(InvalidInputError, match=r"run.npz: recorded in format 2, .* update mojd"):
            load_gramians(tmp_path / "run.npz")

    @pytest.mark.parametrize("shape", [(1, 2), (1, 0), (3,), (1, 2, 2)])
    def test_broken_triangles(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        np.savez(tmp_path / "run.npz", mojd_format=1, gramian=np.ones(shape))
        with pytest.raises(
            InvalidInputError, match=re.escape(f"'gramian' has shape {shape}, not that of packed")
        ):
            load_gramians(tmp_path / "run.npz")


class TestRecordedGramians:
    def test_every_size_is_there(self) -> None:
        sizes = {gramians.shape[1] for gramians in recorded_gramians().values()}
        assert sizes == {2, 3, 4, 8, 16, 32, 128, 256}

    def test_both_kinds_are_there(self) -> None:
        names = recorded_gramians()
        assert {key for key in names if key.startswith(PCD_PREFIX)} == {"pcd-group-lasso", "pcd-l1-nuclear"}
        assert {key.split("-")[0] for key in names} == {"digits", "multitask", "physics", "pcd"}

    def test_they_are_gramians(self) -> None:
        for name, gramians in recorded_gramians().items():
            assert gramians.dtype == np.float64, name
            assert np.isfinite(gramians).all(), name
            for gramian in gramians:
                lengths = np.sqrt(gramian.diagonal())
                assert lengths.min() > 0, name
                smallest = np.linalg.eigvalsh(gramian / np.outer(lengths, lengths))[0]
                assert smallest > -1e-14, name

    def test_they_are_hard_where_they_should_be(self) -> None:
        recorded = recorded_gramians()
        late = recorded["digits-mlp-256-late"][0].diagonal()
        assert late.max() / late.min() > 1e10
        scales = [gramian.diagonal().max() / gramian.diagonal().min() for gramian in recorded["physics-4"]]
        assert np.median(scales) > 1e6
        for gramian in recorded["digits-mlp-32-repeated"]:
            np.testing.assert_allclose(gramian[0], gramian[30], rtol=1e-9, atol=1e-9 * gramian[0, 0])

    def test_the_file_is_small(self) -> None:
        package = importlib.import_module("mojd.compare.recording")
        assert package.__file__ is not None
        assert Path(package.__file__).with_name("recorded.npz").stat().st_size < 1.5e6
