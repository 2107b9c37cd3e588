"""The `mojd` command: what it prints, what it writes and how it ends."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import mojd
from mojd.cli import build_app, main
from mojd.compare import Interrupted, Report
from mojd.errors import MissingDependencyError

QUICK = [
    "compare",
    "--solvers",
    "closed_form,scipy_nnls",
    "--random",
    "--count",
    "2",
    "--k",
    "2,3",
    "--repeats",
    "1",
]


def test_compare_prints_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(QUICK) == 0
    printed = capsys.readouterr()
    assert "upgrad: 4 Gramians in 2 groups; solved means scale-free KKT residual ≤ 1e-06" in printed.out
    assert "K = 2: 2 Gramians" in printed.out
    assert "K = 3: 2 Gramians" in printed.out
    assert "4/4" in printed.out
    assert "\x1b" not in printed.out
    assert "…" not in printed.out
    assert max(len(line) for line in printed.out.splitlines()) <= 100
    assert printed.err == ""


def test_compare_writes_json_and_a_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, plot = tmp_path / "report.json", tmp_path / "plot.png"
    assert main([*QUICK, "--json", str(table), "--plot", str(plot)]) == 0
    assert {row["solver"] for row in json.loads(table.read_text())["rows"]} == {"closed_form", "scipy_nnls"}
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "4/4" in capsys.readouterr().out


@pytest.mark.parametrize("option", [["--json"], ["--json", "-"], ["--json", "--tolerance", "1e-3"]])
def test_json_without_a_file_is_all_of_stdout(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUICK, *option]) == 0
    assert json.loads(capsys.readouterr().out)["tolerance"] == (1e-3 if "1e-3" in option else 1e-6)


def test_compare_reads_a_file_of_gramians(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, mine=np.eye(3), pairs=np.stack([np.eye(2), 2 * np.eye(2)]))
    solvers = ["--solvers", "closed_form", "--repeats", "0"]
    assert main(["compare", "--gramians", str(path), "--by", "name", "--method", "mgda", *solvers]) == 0
    printed = capsys.readouterr().out
    assert "mine (K = 3): 1 Gramian" in printed
    assert "pairs (K = 2): 2 Gramians" in printed
    assert main(["compare", "--gramians", str(path), "--k", "2", *solvers]) == 0
    assert "mine" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "sum"], "method='sum' is not known"),
        (["--solvers", "gurobi"], "solver='gurobi' is not known"),
        (["--k", "two"], "--k 'two' must be whole numbers"),
        (["--k", "1000"], "--k 1000: there are Gramians of K = "),
        (["--random", "--k", "0"], "must be at least 1"),
        (["--random", "--count", "0"], "must be at least 1"),
        (["--random", "--gramians", "x.npz"], "exclude each other"),
        (["--gramians", "no-such-file.npz"], "no-such-file.npz: No such file"),
        (["--plot", "no-such-folder/plot.png"], "no-such-folder does not exist"),
        (["--json", "no-such-folder/report.json"], "no-such-folder does not exist"),
        (["--tolerance", "-1"], "tolerance=-1.0 must be greater than 0"),
        (["--by", "size"], "by='size' is not known"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *arguments]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.startswith("mojd: ")
    assert len(printed.err.splitlines()) == 1
    assert printed.out == ""


@pytest.mark.parametrize("content", [b"", b"not a zip file"])
def test_a_file_that_is_not_npz(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.npz"
    path.write_bytes(content)
    assert main(["compare", "--gramians", str(path)]) == 2
    assert "not an npz file" in capsys.readouterr().err


def test_a_file_of_other_shapes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, jacobian=np.ones((2, 3)))
    assert main(["compare", "--gramians", str(path)]) == 2
    assert "(2, 3)" in capsys.readouterr().err


def test_unknown_options_have_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--sovlers", "osqp"]) == 2
    assert "--sovlers" in capsys.readouterr().err


def test_interruption_prints_what_was_finished(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> Report:
        raise Interrupted(Report("upgrad", 1e-6, 2.0, (), {}, interrupted=True))

    monkeypatch.setattr("mojd.compare.command.compare", interrupted)
    assert main(QUICK) == 130
    assert "Interrupted" in capsys.readouterr().out


def test_solvers_lists_all_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["solvers"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in mojd.available_solvers())
    assert "≤ 3" in printed


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"mojd {mojd.__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["compare", "--help"], ["solvers", "--help"]])
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    assert "Usage: mojd" in capsys.readouterr().out


@pytest.mark.parametrize("module", ["typer", "rich"])
def test_without_the_extra_the_command_says_what_to_install(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in list(sys.modules):
        if name.split(".")[0] == module or name in ("mojd.compare.command", "mojd.compare.tables"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=r"mojd\[cli\]"):
        build_app()
    assert main(["--version"]) == 2
    assert capsys.readouterr().err == f"mojd: the mojd command needs {module}: pip install 'mojd[cli]'\n"
