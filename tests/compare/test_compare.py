"""`mojd.compare`: its figures against independent ones, and every way in which a solver can fail."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import mojd.compare
from mojd.compare import Interrupted, Report, Row, compare, random_gramians
from mojd.compare.judging import direction_error
from mojd.compare.outcomes import shifted_geometric_mean
from mojd.compare.process import SolverProcess
from mojd.compare.worker import Answer, Done, Pass, Start, ray_is_valid
from mojd.errors import InvalidInputError
from mojd.solvers import _registry

# Registered on import, here and in the worker processes. `exact` stands for any sound solver.
ODD_SOLVERS = '''
import os, time
import numpy as np
from mojd.solvers import Solver, get_solver, register
from mojd.solvers._registry import RawSolution

def exact(gramian, linear, threads, precision):
    return get_solver("scipy_nnls").solve(gramian, linear, threads, precision)

def off(gramian, linear, threads, precision):
    """One per cent too long."""
    raw = exact(gramian, linear, threads, precision)
    return raw._replace(x=1.01 * raw.x)

def claim(status):
    def solve(gramian, linear, threads, precision):
        shape = linear.shape[:2]
        nothing = np.full(linear.shape, np.nan)
        return RawSolution(nothing, np.full(shape, status, np.int8), np.zeros(shape, np.int32))
    return solve

def sleeps_at_4(gramian, linear, threads, precision):
    if gramian.shape[-1] == 4:
        time.sleep(3600)
    return exact(gramian, linear, threads, precision)

def exits_at_3(gramian, linear, threads, precision):
    if gramian.shape[-1] == 3:
        os._exit(7)
    return exact(gramian, linear, threads, precision)

def raises_at_3(gramian, linear, threads, precision):
    if gramian.shape[-1] == 3:
        raise ZeroDivisionError("no pivot")
    return exact(gramian, linear, threads, precision)

def prints(gramian, linear, threads, precision):
    print("solver banner")
    return exact(gramian, linear, threads, precision)

INFEASIBLE, MAX_ITER = claim(1), claim(3)
for name, solve in [
    ("exact", exact), ("off", off), ("infeasible", INFEASIBLE), ("max_iter", MAX_ITER), ("prints", prints),
    ("sleeps_at_4", sleeps_at_4), ("exits_at_3", exits_at_3), ("raises_at_3", raises_at_3),
]:
    register(Solver(name, solve, "for a test", 1e-6))
register(Solver("absent", exact, "for a test", 1e-6, requires=("no_such_module",), extra="solvers"))
register(Solver("pairs_only", exact, "for a test", 1e-6, max_size=2))
'''

JACOBIAN = np.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
GRAMIAN = JACOBIAN @ JACOBIAN.T


@pytest.fixture(scope="module", autouse=True)
def odd_solvers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Register solvers that misbehave, for this module only."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "odd_solvers.py").write_text(ODD_SOLVERS, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setattr(_registry, "_SOLVERS", dict(_registry._SOLVERS))
        __import__("odd_solvers")
        yield
        del sys.modules["odd_solvers"]


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[SolverProcess]:
    """Collect every process that a comparison starts."""
    started: list[SolverProcess] = []
    original = SolverProcess.__init__

    def remember(self: SolverProcess, *arguments: object) -> None:
        started.append(self)
        original(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(SolverProcess, "__init__", remember)
    return started


@pytest.fixture(scope="module")
def mixed() -> Report:
    """Compare solvers of all kinds at K = 2 and 3."""
    return compare(
        random_gramians([2, 3], count=3),
        solvers=["exact", "off", "infeasible", "max_iter", "raises_at_3", "absent", "pairs_only"],
        repeats=1,
    )


def rows_of(report: Report, solver: str) -> dict[int, Row]:
    """Return a solver's rows by K."""
    return {row.size: row for row in report.rows if row.solver == solver}


def test_residual_and_direction_error_match_a_hand_calculation() -> None:
    # Preference ½ each: q = G(½, ½) = (−2, 8), x* = (1/9, 0), slack (0, 50/9), weights (11/18, 1/2).
    report = compare({"toy": GRAMIAN}, "dualproj", ["exact", "off"], repeats=0)
    exact, off = (row.outcomes[0] for row in report.rows)
    assert exact.kkt_residual < 1e-15
    assert exact.direction_error == 0
    largest = max(2 / math.sqrt(18), 8 / math.sqrt(38))
    assert off.kkt_residual == pytest.approx(0.02 / math.sqrt(18) / largest, rel=1e-9)
    direction = JACOBIAN.T @ np.array([11 / 18, 1 / 2])
    expected = np.linalg.norm(JACOBIAN[0]) * 0.01 / 9 / np.linalg.norm(direction)
    assert off.direction_error == pytest.approx(expected, rel=1e-9)
    assert (exact.reason, off.reason) == ("", "KKT residual over 1e-06")


@pytest.mark.parametrize(
    ("method", "weights"),
    [
        ("upgrad", (10 / 9, 15 / 19)),
        ("dualproj", (11 / 18, 1 / 2)),
        ("mgda", (3 / 5, 2 / 5)),
        ("pcd", (1.0, 22 / 38 + 0.02)),
    ],
)
def test_directions_are_those_of_the_method(method: str, weights: tuple[float, float]) -> None:
    start = Start("exact", "odd_solvers", method, 1e-6)
    process = SolverProcess(start)
    assert process.receive(60) == Done()
    process.send(Pass([GRAMIAN], certify=True, seconds=60))
    answer = process.receive(60)
    process.kill()
    assert isinstance(answer, Answer)
    assert answer.weights == pytest.approx(np.array(weights), rel=1e-12)


def test_rows_and_summary_follow_from_the_outcomes(mixed: Report) -> None:
    assert [(row.group, row.size, row.problems) for row in mixed.rows if row.solver == "exact"] == [
        ("K = 2", 2, 3),
        ("K = 3", 3, 3),
    ]
    exact, partial = rows_of(mixed, "exact"), rows_of(mixed, "raises_at_3")
    for row in exact.values():
        assert row.median_us == np.median([outcome.microseconds for outcome in row.outcomes])
        assert row.worst_kkt_residual == max(outcome.kkt_residual for outcome in row.outcomes)
        assert row.success_rate == 1
    pairs = [row for row in mixed.rows if row.size == 2]
    fastest = min(row.median_us for row in pairs if row.solved == row.problems)
    assert exact[2].ratio == exact[2].median_us / fastest
    summary = {entry.solver: entry for entry in mixed.summary()}
    times = [o.microseconds for o in partial[2].outcomes] + 3 * [1e6 * mojd.compare.TIME_LIMIT_S]
    expected = np.exp(np.mean(np.log(np.array(times) + 10))) - 10
    assert summary["raises_at_3"].shifted_geometric_mean_us == pytest.approx(expected)
    best = min(
        entry.shifted_geometric_mean_us
        for entry in mixed.summary()
        if entry.solver not in ("pairs_only", "absent")
    )
    assert summary["raises_at_3"].ratio == pytest.approx(expected / best)
    assert mixed.summary()[0].solver == "exact"


def test_failures_keep_their_reasons(mixed: Report) -> None:
    assert (
        rows_of(mixed, "off")[2].failures == ((3, "KKT residual over 1e-06"),)
        or rows_of(mixed, "off")[2].solved
    )
    assert rows_of(mixed, "infeasible")[3].failures == ((3, "INFEASIBLE, but others solved it"),)
    assert rows_of(mixed, "max_iter")[3].failures == ((3, "MAX_ITER"),)
    assert rows_of(mixed, "raises_at_3")[2].failures == ()
    assert rows_of(mixed, "raises_at_3")[3].failures == ((3, "ZeroDivisionError: no pivot"),)
    assert rows_of(mixed, "absent")[3].failures == ((3, "cannot run here: pip install 'mojd[solvers]'"),)
    assert list(rows_of(mixed, "pairs_only")) == [2]
    for solver in ("infeasible", "max_iter", "absent"):
        row = rows_of(mixed, solver)[3]
        assert row.solved == 0
        assert math.isnan(row.median_us)
        assert math.isnan(row.ratio)


def test_table_shows_everything_in_100_columns(mixed: Report) -> None:
    table = mixed.table()
    for shown in (
        "1e-06",
        "INFEASIBLE, but",
        "MAX_ITER",
        "ZeroDivisionError",
        "mojd[solvers]",
        "K = 3: 3 Gramians",
        "takes 3 of the 6",
        "shift 10 µs",
    ):
        assert shown in table
    assert max(len(line) for line in table.splitlines()) <= 100
    assert "\x1b" not in table
    assert "…" not in table
    # What isn't installed is said once, not once per group.
    assert table.count("absent") == 1


def test_json_has_every_figure_and_no_nan(mixed: Report) -> None:
    content = json.loads(mixed.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert set(content) == {
        "method",
        "tolerance",
        "time_limit_s",
        "shift_us",
        "interrupted",
        "machine",
        "summary",
        "rows",
    }
    shared = {
        "solver",
        "problems",
        "solved",
        "success_rate",
        "worst_kkt_residual",
        "worst_direction_error",
        "median_us",
        "failures",
        "ratio",
    }
    assert all(set(entry) == shared | {"shifted_geometric_mean_us"} for entry in content["summary"])
    assert all(set(row) == shared | {"group", "size", "outcomes"} for row in content["rows"])
    first = content["rows"][0]["outcomes"][0]
    assert set(first) == {"gramian", "microseconds", "kkt_residual", "direction_error", "reason"}
    assert first["gramian"] == "random-k2[0]"
    assert content["rows"][0]["median_us"] == mixed.rows[0].median_us


def test_plot_is_a_png(mixed: Report, tmp_path: Path) -> None:
    mixed.plot(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_plot_of_a_run_in_which_nothing_was_solved(tmp_path: Path) -> None:
    compare(random_gramians([2], count=1), solvers=["absent"]).plot(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 0


def test_a_call_over_the_limit_is_killed(processes: list[SolverProcess]) -> None:
    # The solver sleeps for an hour: without the kill this test would not end.
    report = compare(
        random_gramians([2, 4, 5], count=2), solvers=["sleeps_at_4", "exact"], time_limit=2.0, repeats=1
    )
    rows = rows_of(report, "sleeps_at_4")
    assert rows[2].solved == 2
    assert rows[4].failures == ((2, "time limit of 2 s"),)
    assert rows[5].failures == ((2, "untried: slow at K = 4"),)
    assert all(row.solved == 2 for row in rows_of(report, "exact").values())
    assert all(process._process.poll() is not None for process in processes)


def test_a_crash_fails_its_cell_only() -> None:
    report = compare(random_gramians([2, 3, 4], count=2), solvers=["exits_at_3", "exact"], repeats=1)
    rows = rows_of(report, "exits_at_3")
    assert rows[3].failures == ((2, "ended with code 7"),)
    assert rows[2].solved == rows[4].solved == 2
    assert all(row.solved == 2 for row in rows_of(report, "exact").values())


def test_what_a_solver_prints_does_not_disturb() -> None:
    assert compare({"toy": GRAMIAN}, solvers=["prints"], repeats=1).rows[0].solved == 1


def test_a_proven_infeasible_problem_counts_as_solved() -> None:
    # Exactly anti-parallel secondaries can't both be improved.
    jacobian = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    report = compare({"pcd-opposed": jacobian @ jacobian.T}, "pcd", ["active_set", "infeasible", "max_iter"])
    assert [row.solved for row in report.rows] == [1, 1, 0]
    alone = compare({"pcd-opposed": jacobian @ jacobian.T}, "pcd", ["infeasible"])
    assert alone.rows[0].failures == ((1, "INFEASIBLE, without proof"),)


def test_pcd_takes_its_own_recordings_and_the_others_take_the_rest() -> None:
    gramians = {"pcd-pair": GRAMIAN, "losses": np.eye(2)}
    for method, name in (("pcd", "pcd-pair"), ("mgda", "losses")):
        report = compare(gramians, method, ["exact"], by="name", repeats=0)
        assert [row.group for row in report.rows] == [name]
    assert compare({"pcd-pair": GRAMIAN}, "upgrad", ["exact"], repeats=0).rows[0].solved == 1


def test_interruption_keeps_what_was_finished(processes: list[SolverProcess]) -> None:
    def stop_at_3(_done: int, _total: int, text: str) -> None:
        if text.startswith("K = 3"):
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as caught:
        compare(random_gramians([2, 3], count=1), solvers=["exact"], repeats=0, progress=stop_at_3)
    report = caught.value.report
    assert report.interrupted
    assert [row.size for row in report.rows] == [2]
    assert "Interrupted" in report.table()
    assert all(process._process.poll() is not None for process in processes)


def test_progress_counts_up_to_all_cells() -> None:
    seen: list[tuple[int, int]] = []
    compare(
        random_gramians([2, 3], count=1),
        solvers=["exact", "pairs_only"],
        repeats=0,
        progress=lambda done, total, _: seen.append((done, total)),
    )
    assert seen[0] == (0, 3)
    assert seen[-1] == (3, 3)


def test_scripts_need_no_main_guard(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""\
        from mojd.compare import compare, random_gramians
        print(compare(random_gramians([2], count=1), solvers=["closed_form"], repeats=0).rows[0].solved)
        """),
        encoding="utf-8",
    )
    path = {"PYTHONPATH": ":".join(entry for entry in sys.path if entry)}
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, env=path)
    assert result.stdout == "1\n"


def test_import_needs_none_of_the_optional_packages() -> None:
    code = (
        "import sys, mojd.compare; sys.exit(bool({'rich', 'typer', 'matplotlib', 'osqp'} & set(sys.modules)))"
    )
    path = {"PYTHONPATH": ":".join(entry for entry in sys.path if entry)}
    assert subprocess.run([sys.executable, "-c", code], env=path).returncode == 0


@pytest.mark.parametrize(
    ("ray", "valid"),
    [
        ([1.0, 1.0], True),
        ([1.0, 1.0 + 1e-9], True),
        ([1.0, 0.9], False),  # not in the null space
        ([-1.0, -1.0], False),
        ([math.nan, 1.0], False),
        ([0.0, 0.0], False),
    ],
)
def test_rays_are_checked(ray: list[float], valid: bool) -> None:
    gramian, linear = np.array([[1.0, -1.0], [-1.0, 1.0]]), np.array([-1.0, 0.0])
    assert ray_is_valid(gramian, linear, np.array(ray), 1e-6) is valid
    assert not ray_is_valid(gramian, -linear, np.array(ray), 1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "sum"}, "method='sum' is not known; choose one of: .*upgrad"),
        ({"solvers": ["gurobi"]}, "solver='gurobi' is not known; choose from: "),
        ({"gramians": {}}, "gramians is empty"),
        ({"gramians": {"mine": np.ones((2, 3))}}, r"gramians\['mine'\] has shape \(2, 3\)"),
        ({"gramians": {"mine": "text"}}, r"gramians\['mine'\] is not an array of real numbers"),
        (
            {"gramians": {"mine": [[1.0, 5.0], [2.0, 1.0]]}},
            r"gramian mine\[0\] of shape \(2, 2\) is not symm",
        ),
        (
            {"gramians": {"mine": [[1.0]]}, "method": "pcd"},
            r"gramian mine\[0\] is not for pcd: .*no secondary",
        ),
        ({"gramians": {"mine": [[1.0, math.nan], [math.nan, 1.0]]}}, r"gramian mine\[0\] holds NaN"),
        ({"tolerance": 0.0}, "tolerance=0.0 must be greater than 0"),
        ({"time_limit": math.nan}, "time_limit=nan must be greater than 0"),
        ({"repeats": -1}, "repeats=-1 must not be negative"),
        ({"by": "size"}, "by='size' is not known"),
        (
            {"solvers": ["pairs_only"], "gramians": {"mine": np.eye(3)}},
            "none of the solvers pairs_only takes",
        ),
    ],
)
def test_bad_input_is_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        compare(**{"gramians": {"toy": GRAMIAN}, **arguments})  # type: ignore[arg-type]


def test_random_gramians_are_reproducible_and_independent_of_the_other_sizes() -> None:
    alone, together = random_gramians([3], count=2), random_gramians([2, 3], count=2)
    np.testing.assert_array_equal(alone["random-k3"], together["random-k3"])
    assert not np.array_equal(alone["random-k3"], random_gramians([3], count=2, seed=1)["random-k3"])
    for sizes, count in (([0], 1), ([2], 0)):
        with pytest.raises(InvalidInputError, match="at least 1"):
            random_gramians(sizes, count=count)


def test_direction_error_at_directions_of_length_zero() -> None:
    opposed = np.array([[1.0, -1.0], [-1.0, 1.0]])
    reference = np.array([1.0, 1.0])
    assert direction_error(opposed, reference, reference) == 0
    # d* = 0: the error is relative to the rounding of its terms, so it is huge but finite.
    assert 1e6 < direction_error(opposed, np.array([1.0, 0.0]), reference) < math.inf
    # Weights that differ along a null direction of G give the same direction.
    assert direction_error(opposed, np.array([3.0, 2.0]), np.array([2.0, 1.0])) == 0
    assert direction_error(np.zeros((1, 1)), np.ones(1), np.zeros(1)) == 0
    assert math.isnan(direction_error(opposed, None, reference))


def test_shifted_geometric_mean() -> None:
    assert shifted_geometric_mean([10.0, 70.0], 10.0) == pytest.approx(30)
    assert shifted_geometric_mean([0.0, 0.0]) == pytest.approx(0)
