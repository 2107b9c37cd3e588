"""Table 1 of the Jacobian-descent paper, and the table over all methods, by machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import mojd
from mojd.cli import main
from mojd.properties import Report, Spec, check_table, get_property, registered_properties
from mojd.properties.published import JACOBIAN_DESCENT, TABLE_1
from mojd.properties.strategies import ADVERSARIAL, STRUCTURES
from mojd.properties.table import load, method_names

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def table_1() -> Report:
    """All 33 cells; `make properties` does the same with 1000 examples."""
    return check_table(list(TABLE_1), JACOBIAN_DESCENT, examples=200, processes=1)


class TestTable1:
    def test_all_33_marks_agree(self, table_1: Report) -> None:
        assert len(table_1.findings) == 33
        assert not table_1.disagreements
        for method, row in TABLE_1.items():
            assert tuple(table_1[method, name].holds for name in JACOBIAN_DESCENT) == row

    def test_each_cross_has_its_own_small_counterexample(self, table_1: Report) -> None:
        failures = table_1.failures
        assert len(failures) == sum(not mark for row in TABLE_1.values() for mark in row)
        for finding in failures:
            counterexample = finding.counterexample
            assert counterexample is not None
            assert len(counterexample.jacobian) <= 3
            assert len(counterexample.statement) <= 110
            assert counterexample.violation > 1e-3
            with pytest.raises(AssertionError):
                exec(finding.assertion(), {})

    def test_each_tick_saw_the_adversarial_families(self, table_1: Report) -> None:
        for finding in table_1.findings:
            if finding.holds:
                assert finding.examples == 200
                assert set(finding.structures) & set(ADVERSARIAL)
                assert finding.violation <= finding.tolerance

    def test_upgrad_is_held_to_what_the_mathematics_says(self, table_1: Report) -> None:
        assert table_1["upgrad", "non_conflicting"].tolerance == 1e-12
        assert table_1["upgrad", "linear_under_scaling"].tolerance == 1e-9


class TestResultsInTheDocumentation:
    """`make properties` writes them, and continuous integration looks for a difference."""

    def results(self) -> Any:
        return json.loads((DOCS / "properties" / "results.json").read_text(encoding="utf-8"))

    def test_they_are_complete(self) -> None:
        results = self.results()
        assert results["examples"] >= 1000
        assert sorted(results["methods"]) == sorted(method_names())
        for row in results["methods"].values():
            assert list(row) == [item.name for item in registered_properties()]

    def test_every_tick_rests_on_a_thousand_examples(self) -> None:
        for row in self.results()["methods"].values():
            for name, entry in row.items():
                if entry["mark"].startswith("✓"):
                    assert entry["examples"] >= 1000
                    assert entry["structures"] == len(get_property(name).structures or STRUCTURES)
                elif entry["mark"].startswith("✗"):
                    assert entry["counterexample"]
                else:
                    assert entry["reason"]

    def test_no_paper_says_otherwise(self) -> None:
        for method, row in self.results()["methods"].items():
            for name, entry in row.items():
                assert "!" not in entry["mark"], (method, name)

    def test_docstrings_have_the_same_marks(self) -> None:
        for method, row in self.results()["methods"].items():
            marks = {name: row[name]["mark"] for name in JACOBIAN_DESCENT}
            line = (
                f"Properties: non-conflicting {marks['non_conflicting']}, "
                f"linear under scaling {marks['linear_under_scaling']}, weighted {marks['weighted']}."
            )
            assert line in (getattr(mojd, method).__doc__ or ""), method

    def test_there_is_a_page_for_each(self) -> None:
        for item in registered_properties():
            text = (DOCS / "properties" / f"{item.name}.md").read_text(encoding="utf-8")
            assert f"{{{{ findings_{item.name} }}}}" in text
        for method in mojd.weightings.registered_methods():
            text = (DOCS / "methods" / f"{method.name}.md").read_text(encoding="utf-8")
            assert f".. autofunction:: {method.name}" in text


class TestSeveralProcesses:
    def test_the_result_does_not_depend_on_them(self) -> None:
        names = ["non_conflicting", "linear_under_scaling"]
        alone = check_table(["mgda", "rgw"], names, examples=60, processes=1)
        together = check_table(["mgda", "rgw"], names, examples=60, processes=2)
        assert alone.to_dict() == together.to_dict()

    def test_progress(self) -> None:
        seen: list[tuple[int, int, str]] = []
        check_table(["mgda"], "weighted", examples=5, processes=1, progress=lambda *given: seen.append(given))
        assert seen == [(1, 1, "mgda: weighted")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with somebody's module in it."""
    (tmp_path / "their_methods.py").write_text(
        "import numpy as np\n\n\n"
        "def shortest_first(G):\n"
        "    weights = 1 / np.maximum(G.diagonal(), 1e-12)\n"
        "    return weights / weights.sum()\n\n\n"
        "class Methods:\n"
        "    mean = staticmethod(lambda J: J.mean(axis=0))\n\n\n"
        "broken = 3\n",
        encoding="utf-8",
    )
    (tmp_path / "their_error.py").write_text("raise ValueError('no')\n", encoding="utf-8")
    (tmp_path / "their_imports.py").write_text("import nothing_of_this_name\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    load.cache_clear()
    return tmp_path


class TestCommand:
    def test_table_1_is_the_default(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["check", "--examples", "20", "--processes", "1"]) in (0, 1)
        text = capsys.readouterr().out
        for method in TABLE_1:
            assert method in text
        assert "of 33 marks agree" in text

    def test_one_method(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["check", "mgda", "--examples", "30", "--processes", "1"]) == 0
        text = capsys.readouterr().out
        assert "non_conflicting" in text
        assert "no counterexample among 30 examples" in text
        assert "proved" not in text

    def test_somebodys_function(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        call = ["check", "their_methods:shortest_first", "--examples", "30", "--processes", "2"]
        assert main([*call, "--counterexamples"]) == 0
        text = capsys.readouterr().out
        assert "import their_methods" in text
        code = text[text.index("# their_methods:shortest_first fails non_conflicting") :].split("\n\n# ")[0]
        with pytest.raises(AssertionError):
            exec(code, {})

    def test_a_name_inside_of_a_class(self, folder: Path) -> None:
        report = check_table([Spec("their_methods:Methods.mean")], "weighted", examples=20, processes=1)
        assert report.findings[0].holds

    def test_naming_a_property_is_a_claim(self) -> None:
        quick = ["--examples", "30", "--processes", "1"]
        assert main(["check", "mgda", "--property", "linear_under_scaling", *quick]) == 1
        assert main(["check", "mgda", "--property", "non_conflicting,weighted", *quick]) == 0
        assert main(["check", "mgda", "-p", "linear-under-scaling", "-p", "weighted", *quick]) == 1

    def test_what_can_not_be_asked_is_no_claim_that_holds(self, capsys: pytest.CaptureFixture[str]) -> None:
        call = ["check", "mean", "--property", "optimal", "--examples", "30", "--processes", "1"]
        assert main(call) == 1
        assert "it is a formula, and solves no problem" in capsys.readouterr().out

    def test_bounds(self, capsys: pytest.CaptureFixture[str]) -> None:
        call = ["check", "mgda", "-p", "weighted", "--examples", "30", "--processes", "1"]
        assert main([*call, "--k", "3-4", "--n", "2", "--tolerance", "1e-6"]) == 0
        assert "K = 3 to 4; largest violation" in capsys.readouterr().out

    def test_like(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        call = ["check", "their_methods:shortest_first", "--property", "optimal", "--examples", "30"]
        assert main([*call, "--like", "mgda", "--processes", "1"]) == 1
        assert "optimal" in capsys.readouterr().out

    def test_files(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        json_file, table = tmp_path / "report.json", tmp_path / "table.md"
        call = ["check", "mgda", "mean", "-p", "weighted", "--examples", "10", "--processes", "1"]
        assert main([*call, "--json", str(json_file), "--markdown", str(table)]) == 0
        assert [f["method"] for f in json.loads(json_file.read_text())["findings"]] == ["mgda", "mean"]
        assert "| `mean` | ✓ |" in table.read_text(encoding="utf-8")
        capsys.readouterr()
        assert main([*call, "--json"]) == 0
        assert len(json.loads(capsys.readouterr().out)["findings"]) == 2
        assert main([*call, "--markdown"]) == 0
        assert capsys.readouterr().out.startswith("| Method | weighted |")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["upgrade"], "method 'upgrade' is not known"),
            (["their_methods.shortest_first"], "a function is written package.module:function"),
            (["their_methods.py:shortest_first"], "there is no module"),
            ([":shortest_first"], "a function is written package.module:function"),
            (["their_imports:f"], "importing their_imports failed: No module named 'nothing_of_this_name'"),
            (["their_error:f"], "importing their_error failed: ValueError: no"),
            (["--like", "upgrad"], "--like and --takes are about a METHOD"),
            (["mgda", "--all"], "--all checks mojd's own methods"),
            (["--json", "upgrad"], "--json takes 'upgrad' for its file"),
            (["mgda", "--k", "two"], "--k 'two' must be a number or a range such as 2-8"),
            (["famo"], "'famo' weights losses without a look at their gradients"),
            (["their_method:f"], "there is no module 'their_method' in"),
            (["their_methods:f"], "their_methods has no 'f'"),
            (["their_methods:broken"], "method must be a name or a function, got int"),
            (["mgda", "--property", "linear"], "property 'linear' is not known"),
            (["mgda", "--takes", "weights"], "--takes 'weights' is neither 'gramian' nor 'jacobian'"),
            (["mgda", "--json", "--markdown"], "can't both go to stdout"),
            (["mgda", "--json", "no/such/folder.json"], "does not exist"),
            (["mgda", "--like", "mdga"], "method 'mdga' is not known"),
        ],
    )
    def test_errors(
        self, folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
    ) -> None:
        assert main(["check", *arguments, "--processes", "1"]) == 2
        assert message in capsys.readouterr().err
