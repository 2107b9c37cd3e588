"""Recording Gramians in a loop: what is kept, when it is written, what is refused."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mojd.compare.recording import load_gramians, record
from mojd.errors import InvalidInputError, InvalidTypeError, MojdError

TOY = np.array([[18.0, -22.0], [-22.0, 38.0]])


def random_gramian(size: int, seed: int = 0) -> Any:
    jacobian = np.random.default_rng(seed).standard_normal((size, 2 * size))
    return jacobian @ jacobian.T


class TestRecorder:
    def test_keeps_every_gramian_in_order(self, tmp_path: Path) -> None:
        gramians = [random_gramian(5, seed) for seed in range(4)]
        with record(tmp_path / "run.npz") as recorder:
            for gramian in gramians:
                recorder(gramian, name="digits")
        loaded = load_gramians(tmp_path / "run.npz")
        assert list(loaded) == ["digits"]
        np.testing.assert_array_equal(loaded["digits"], gramians)

    def test_close_writes_and_further_calls_are_refused(self, tmp_path: Path) -> None:
        recorder = record(tmp_path / "run.npz")
        recorder(TOY)
        assert not recorder.closed
        recorder.close()
        recorder.close()
        assert recorder.closed
        assert load_gramians(tmp_path / "run.npz")["gramian"].shape == (1, 2, 2)
        with pytest.raises(InvalidInputError, match="closed"):
            recorder(TOY)

    def test_copies(self, tmp_path: Path) -> None:
        gramian = TOY.copy()
        with record(tmp_path / "run.npz") as recorder:
            recorder(gramian)
            gramian *= 0.0
        np.testing.assert_array_equal(load_gramians(tmp_path / "run.npz")["gramian"][0], TOY)

    def test_one_name_with_several_sizes(self, tmp_path: Path) -> None:
        with record(tmp_path / "run.npz") as recorder:
            for size in (2, 3, 3):
                recorder(random_gramian(size), name="mixed")
            recorder(TOY, name="other")
        loaded = load_gramians(tmp_path / "run.npz")
        assert {key: value.shape for key, value in loaded.items()} == {
            "mixed@2": (1, 2, 2),
            "mixed@3": (2, 3, 3),
            "other": (1, 2, 2),
        }

    @pytest.mark.parametrize("name", ["file", "args", "allow_pickle", "step 3", "größe"])
    def test_any_sensible_name(self, tmp_path: Path, name: str) -> None:
        with record(tmp_path / "run.npz") as recorder:
            recorder(TOY, name=name)
        assert list(load_gramians(tmp_path / "run.npz")) == [name]

    def test_every_counts_each_name_by_itself(self, tmp_path: Path) -> None:
        with record(tmp_path / "run.npz", every=3) as recorder:
            for step in range(7):
                recorder(np.full((1, 1), float(step)), name="a")
                recorder(np.full((1, 1), -float(step)), name="b")
        loaded = load_gramians(tmp_path / "run.npz")
        assert loaded["a"].ravel().tolist() == [0.0, 3.0, 6.0]
        assert loaded["b"].ravel().tolist() == [0.0, -3.0, -6.0]

    def test_limit_warns_once_for_each_name(self, tmp_path: Path) -> None:
        with record(tmp_path / "run.npz", limit=2) as recorder:
            recorder(TOY)
            recorder(TOY)
            with pytest.warns(UserWarning, match="'gramian' has reached limit=2") as caught:
                recorder(TOY)
            assert caught[0].filename == __file__
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                recorder(TOY)
        assert len(load_gramians(tmp_path / "run.npz")["gramian"]) == 2

    def test_skipped_calls_do_not_touch_the_array(self, tmp_path: Path) -> None:
        class Untouchable:
            def __array__(self, *_: Any, **__: Any) -> Any:
                raise AssertionError("converted")

        with record(tmp_path / "run.npz", every=2) as recorder:
            recorder(TOY)
            recorder(Untouchable())

    def test_writes_what_it_has_when_the_loop_raises(self, tmp_path: Path) -> None:
        def train() -> None:
            with record(tmp_path / "run.npz") as recorder:
                recorder(TOY)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train()
        assert len(load_gramians(tmp_path / "run.npz")["gramian"]) == 1

    def test_writes_what_it_has_when_never_closed(self, tmp_path: Path) -> None:
        script = (
            "from mojd.compare.recording import record\n"
            f"recorder = record({str(tmp_path / 'run.npz')!r})\n"
            "recorder([[2.0, 1.0], [1.0, 2.0]])\n"
            "raise RuntimeError('the loop failed')\n"
        )
        result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert "the loop failed" in result.stderr
        assert load_gramians(tmp_path / "run.npz")["gramian"].shape == (1, 2, 2)

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
    def test_a_forked_worker_does_not_write(self, tmp_path: Path) -> None:
        script = (
            "import os\n"
            "from mojd.compare.recording import record\n"
            f"path = {str(tmp_path / 'run.npz')!r}\n"
            "recorder = record(path)\n"
            "recorder([[1.0]])\n"
            "child = os.fork()\n"
            "if child == 0:\n"
            "    recorder([[2.0]])\n"
            "    raise SystemExit\n"
            "os.waitpid(child, 0)\n"
            "assert not os.path.exists(path)\n"
        )
        subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True)
        assert load_gramians(tmp_path / "run.npz")["gramian"].ravel().tolist() == [1.0]

    def test_nothing_recorded_leaves_an_older_file_alone(self, tmp_path: Path) -> None:
        with record(tmp_path / "run.npz") as recorder:
            recorder(TOY)
        with record(tmp_path / "run.npz"):
            pass
        assert load_gramians(tmp_path / "run.npz")["gramian"].shape == (1, 2, 2)

    def test_a_failed_write_keeps_the_older_file_and_can_be_repeated(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "run.npz"
        with record(path) as recorder:
            recorder(TOY)
        recorder = record(path)
        recorder(2 * TOY)

        def full_disk(*_: Any, **__: Any) -> None:
            raise OSError("no space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(np.lib.format, "write_array", full_disk)
            with pytest.raises(OSError, match="no space left"):
                recorder.close()
        np.testing.assert_array_equal(load_gramians(path)["gramian"][0], TOY)
        assert [entry.name for entry in tmp_path.iterdir()] == ["run.npz"]
        recorder.close()
        np.testing.assert_array_equal(load_gramians(path)["gramian"][0], 2 * TOY)

    def test_stores_only_triangles(self, tmp_path: Path) -> None:
        with record(tmp_path / "run.npz") as recorder:
            recorder(random_gramian(128))
        assert (tmp_path / "run.npz").stat().st_size < 8 * 128 * 129 / 2 + 1500

    def test_repr_says_how_many_and_where(self, tmp_path: Path) -> None:
        recorder = record(tmp_path / "run.npz")
        recorder(TOY)
        assert repr(recorder) == f"<mojd Recorder: 1 Gramians for {tmp_path / 'run.npz'}>"
        recorder.close()
        assert repr(recorder).endswith(", closed>")

    @given(
        matrix=hnp.arrays(
            st.sampled_from([np.float16, np.float32, np.float64]),
            st.integers(1, 9).map(lambda size: (size, size)),
            elements={"allow_nan": True, "allow_infinity": True},
        )
    )
    def test_round_trip_is_exact(self, matrix: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
        symmetric = np.where(np.tri(len(matrix), dtype=bool), matrix, matrix.T)
        path = tmp_path_factory.mktemp("round") / "trip.npz"
        with record(path) as recorder:
            recorder(symmetric)
        (loaded,) = load_gramians(path)["gramian"]
        assert loaded.dtype == matrix.dtype
        np.testing.assert_array_equal(loaded, symmetric)


class TestRefusals:
    @pytest.mark.parametrize("shape", [(3, 5), (4,), (), (2, 3, 3), (0, 0)])
    def test_shapes(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        recorder = record(tmp_path / "run.npz")
        message = f"gramian: must be one square matrix of shape (K, K) with K >= 1, got shape {shape}"
        with pytest.raises(InvalidInputError, match=re.escape(message)):
            recorder(np.ones(shape))

    def test_asymmetry(self, tmp_path: Path) -> None:
        recorder = record(tmp_path / "run.npz")
        message = "gramian: shape (2, 2) is not symmetric: [0, 1] is 1 and [1, 0] is 3"
        with pytest.raises(InvalidInputError, match=re.escape(message)):
            recorder([[2.0, 1.0], [3.0, 4.0]])

    @pytest.mark.parametrize(
        "value", [np.ones((2, 2), dtype=complex), np.ones((2, 2), dtype=bool), [["a"]], object(), [[1.0], []]]
    )
    def test_types(self, tmp_path: Path, value: Any) -> None:
        recorder = record(tmp_path / "run.npz")
        with pytest.raises(InvalidTypeError, match="gramian: "):
            recorder(value)

    @pytest.mark.parametrize("name", ["", "a@3", "a/b", "a\\b", "mojd_format", 3, None, ["a"]])
    def test_names(self, tmp_path: Path, name: Any) -> None:
        recorder = record(tmp_path / "run.npz")
        with pytest.raises(InvalidInputError, match="name: must be a non-empty string"):
            recorder(TOY, name=name)

    @pytest.mark.parametrize(
        ("option", "value"), list(itertools.product(["every", "limit"], [0, -1, 1.5, True, "3"]))
    )
    def test_options(self, tmp_path: Path, option: str, value: Any) -> None:
        with pytest.raises(InvalidInputError, match=f"{option}: must be a positive integer, got {value!r}"):
            record(tmp_path / "run.npz", **{option: value})

    def test_paths(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidInputError, match=r"path: the folder .*absent does not exist"):
            record(tmp_path / "absent" / "run.npz")
        with pytest.raises(InvalidInputError, match=r"path: .* is a folder"):
            record(tmp_path)

    def test_a_refused_gramian_is_not_recorded(self, tmp_path: Path) -> None:
        with record(tmp_path / "run.npz") as recorder:
            recorder(TOY)
            with pytest.raises(MojdError):
                recorder(np.ones((2, 3)))
        assert len(load_gramians(tmp_path / "run.npz")["gramian"]) == 1
