"""The benchmark of solver 'cuda', as far as it goes without a GPU: figures, bars, files, errors."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the modules of the benchmarks be found, as they are when one is run."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS.parent), **variables}
    command = [sys.executable, str(BENCHMARKS / "run_gpu.py"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def verdicts(figures: list[Any]) -> dict[str, bool | None]:
    return {figure.name: figure.met for figure in figures}


class TestFigures:
    def test_bandwidth(self) -> None:
        from gpu.bandwidth import share_of_copying

        for size, seconds, met in ((3, 1.4, True), (3, 1.5, False), (2, 9.0, None)):
            figure = share_of_copying(
                "upgrad", size, 10**7, torch.float32, moved=10**9, seconds=seconds, copying=1.0
            )
            assert figure.met is met
            assert figure.value == pytest.approx(100 / seconds)
            assert figure.details["copy_GB_per_s"] == pytest.approx(1.0)
            assert figure.details["mojd_GB_per_s"] == pytest.approx(1 / seconds)

    @pytest.mark.parametrize(
        ("size", "micro", "torchjd", "expected"),
        [
            (32, 80.0, 1e3, {"upgrad: time": True, "upgrad: times faster than torchjd": None}),
            (32, 81.0, 1e3, {"upgrad: time": False, "upgrad: times faster than torchjd": None}),
            (128, 1e3, 3.1e5, {"upgrad: time": None, "upgrad: times faster than torchjd": True}),
            (128, 1e3, 2.9e5, {"upgrad: time": None, "upgrad: times faster than torchjd": False}),
            (1024, 1.5e5, None, {"upgrad: time": True}),
            (1024, 1.6e5, None, {"upgrad: time": False}),
        ],
    )
    def test_latency(
        self, size: int, micro: float, torchjd: float | None, expected: dict[str, bool | None]
    ) -> None:
        from gpu.latency import Measured, figures_of
        from gpu.machine import Latency

        # A bar is for what is there, not for what was asked for.
        sides = {"mojd": Latency(1e-6, 1e-6 * micro)}
        if torchjd is not None:
            sides["torchjd"] = Latency(1.0, 1e-6 * torchjd)
        found = figures_of(size, Measured(sides, 5e-6, 2e-5), "a note")
        assert verdicts(found) == expected
        assert found[0].details == pytest.approx(
            {"returned_us": 1.0, "on_device_us": 5.0, "float64_us": 20.0}
        )

    def test_batches(self) -> None:
        from gpu.batches import Rates, figures_of

        for size, count, faster, met in (
            (16, 10**5, 50.0, True),
            (16, 10**5, 49.0, False),
            (16, 10**4, 1.0, None),
            (8, 10**5, 1.0, None),
        ):
            found = figures_of("solve", size, count, Rates(faster * 1e4, 1e4, 100))
            assert [figure.met for figure in found] == [None, met]

    def test_peers_that_take_too_long_are_left_out(self) -> None:
        from gpu.latency import PATIENCE_S, Patience

        patience = Patience()
        assert patience.lasts("torchjd")
        patience.saw("torchjd", 128, PATIENCE_S / 17)
        assert patience.lasts("torchjd")
        patience.saw("torchjd", 256, PATIENCE_S / 15)
        assert not patience.lasts("torchjd")
        assert patience.lasts("array_api")

    def test_wrong_answers_have_no_figure(self) -> None:
        from figures import Figure, at_least
        from gpu.answers import trusted

        figure = Figure("s", "c", "n", 100.0, "×", at_least(1.0), {"mojd_us": 1.0})
        for worst in (1e-3, math.inf):
            found = trusted(figure, worst, torch.float64)
            assert math.isnan(found.value) and found.met is False and "WRONG ANSWERS" in found.note
        found = trusted(figure, 1e-15, torch.float64)
        assert found.met and found.details == {"mojd_us": 1.0, "kkt_residual": 1e-15}

    def test_residuals_see_what_is_wrong(self) -> None:
        from gpu import answers
        from gpu.machine import Host

        import mojd

        gramian = Host().gramians(5, 40, torch.float64)
        weights = mojd.upgrad(gramian)
        assert answers.worst_of_weights("upgrad", weights, gramian) < 1e-12
        assert answers.worst_of_weights("upgrad", weights + 1e-3, gramian) > 1e-5
        assert answers.worst_of_weights("upgrad", torch.full_like(weights, math.nan), gramian) == math.inf
        problem = mojd.NNQP(gramian, Host().normal(40, 5, dtype=torch.float64))
        solution = mojd.solve(problem)
        assert answers.worst_of_solution(solution) < 1e-12
        solution.x_float64[3, 0] += 0.1
        assert answers.worst_of_solution(solution) > 1e-5
        unsolved = mojd.solve(mojd.NNQP([[[1.0, -1.0], [-1.0, 1.0]]], [[-1.0, -1.0]]))
        assert answers.worst_of_solution(unsolved) == math.inf

    def test_the_table(self) -> None:
        import run_gpu
        from figures import Figure, at_least

        found = [
            Figure("one", "K = 2", "time", 1.5, "µs", None, {"returned_us": 0.5}),
            Figure("two", "K = 16", "times", 60.0, "×", at_least(50.0)),
            Figure("two", "K = 32", "times", math.nan, "×", at_least(50.0), {}, "WRONG ANSWERS"),
        ]
        lines = run_gpu.table(found).splitlines()
        assert [line.split()[0] for line in lines if line and not line.startswith(" ")] == ["one", "two"]
        assert lines[1] == "  K = 2  time  1.50 µs      returned_us 0.500"
        assert "≥ 50 ×  met" in lines[4]
        assert "- ×  ≥ 50 ×  missed  WRONG ANSWERS" in lines[5]
        assert run_gpu.summary(found) == "1 of 2 bars met"

    def test_the_first_use_of_kernels(self) -> None:
        from gpu.compiling import figures_of

        (figure,) = figures_of({"mojd::a": 1.0, "mojd::b": 4.0, "mojd::c": 2.0}, 8)
        assert figure.value == 4.0 and "mojd::b" in figure.note
        assert figure.details == {"median_s": 2.0, "total_s": 7.0}


class TestRuns:
    @pytest.mark.slow
    def test_a_try_on_the_cpu(self, tmp_path: Path) -> None:
        path = tmp_path / "deep" / "gpu.json"
        done = run("--device", "cpu", "--quick", "--json", str(path), "--only", "compile,latency")
        assert done.returncode == 0, done.stderr
        content = json.loads(path.read_text(encoding="utf-8"))
        assert content["quick"] is True
        assert "stands in" in content["machine"]["gpu"]
        assert {"gpu", "cupy", "torch", "numpy", "processor"} <= set(content["machine"])
        assert all(figure["details"]["kkt_residual"] < 1e-6 for figure in content["figures"])
        assert {figure["section"] for figure in content["figures"]} == {"latency"}
        assert "bars met; figures in" in done.stdout
        assert "[1/4, " in done.stderr

    def test_figures_are_kept_as_they_come(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        import run_gpu
        from figures import Figure, Task

        def fail() -> list[Figure]:
            raise RuntimeError("the device is lost")

        tasks = [Task("first", lambda: [Figure("s", "c", "n", 1.0, "×")]), Task("second", fail)]
        path = tmp_path / "partial.json"
        with pytest.raises(RuntimeError, match="lost"):
            run_gpu.measure(tasks, {"gpu": "a"}, path, quick=False)
        assert [figure["name"] for figure in json.loads(path.read_text())["figures"]] == ["n"]
        assert "[2/2" in capsys.readouterr().err

    def test_without_a_gpu_it_says_so(self, tmp_path: Path) -> None:
        done = run("--json", str(tmp_path / "none.json"), CUDA_VISIBLE_DEVICES="")
        assert done.returncode == 1
        assert "needs a CUDA device: CUDA_VISIBLE_DEVICES hides all GPUs" in done.stderr
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--only", "latency,speed"], "unknown section speed; choose from compile, bandwidth"),
            (["--device", "cpu"], "--device cpu needs --quick and --json FILE"),
        ],
    )
    def test_bad_arguments(
        self, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        import run_gpu

        with pytest.raises(SystemExit):
            run_gpu.parse(arguments)
        assert message in capsys.readouterr().err

    def test_the_name_of_the_file(self) -> None:
        from gpu.machine import slug

        assert slug({"gpu": "NVIDIA H100 80GB HBM3"}) == "nvidia-h100-80gb-hbm3"
