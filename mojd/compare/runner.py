"""Run every solver on every group of Gramians: interleaved, one thread each, never over the limit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from mojd.compare.judging import Attempt, judge
from mojd.compare.outcomes import UNAVAILABLE, Row
from mojd.compare.problems import Group
from mojd.compare.process import ProcessEndedError, SolverProcess
from mojd.compare.worker import Answer, Pass, Start
from mojd.solvers import Solver, get_solver
from mojd.weightings import QuadraticWeighting

# Called with the number of cells done, the number of all cells, and what is running.
Progress = Callable[[int, int, str], None]

# Importing a solver and compiling its kernels for the first time isn't charged to any cell.
START_LIMIT_S = 120.0

# A cell is timed again only while it has used less than this share of its limit: what is slow
# needs no repeats to be measured well.
REPEAT_SHARE = 0.2

TIME_LIMIT = "time limit"


class _Seat:
    """Hold one solver during a run: its process, and why it has none."""

    def __init__(
        self, solver: Solver, method: QuadraticWeighting, tolerance: float, time_limit: float
    ) -> None:
        module = getattr(solver.solve, "__module__", "mojd.solvers")
        self.solver = solver
        self._method = method
        self._start = Start(solver.name, module, method.name, tolerance)
        self._time_limit = time_limit
        self._process: SolverProcess | None = None
        # The last K, and a time that no call at that K undercut.
        self._pace: tuple[int, float] | None = None
        self._excuse = ""
        if not solver.is_available():
            self._excuse = f"{UNAVAILABLE}: {solver.missing()}"

    def takes(self, group: Group) -> bool:
        """Whether the solver is made for problems of this size."""
        size = self._method.problem(group.gramians[0]).size
        return self.solver.max_size is None or size <= self.solver.max_size

    def open(self) -> None:
        """Start the process without waiting for it."""
        if self._process is None and not self._excuse:
            self._process = SolverProcess(self._start)

    def wait_until_ready(self, until: float) -> None:
        """Wait for a process that was just started to answer."""
        if self._process is None:
            return
        try:
            message = self._process.receive(until - time.monotonic())
            self._excuse = message.error
        except TimeoutError:
            self._excuse = f"did not start within {START_LIMIT_S:g} s"
        except ProcessEndedError as ended:
            self._excuse = str(ended)
        if self._excuse:
            self.close()

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def attempt(self, group: Group) -> Attempt:
        """Solve a group for the first time."""
        attempt = Attempt(self.solver.name)
        if self._pace is not None and self._is_hopeless(group):
            attempt.stopped = f"untried: slow at K = {self._pace[0]}"
            return attempt
        if self._process is None and not self._excuse:
            self.open()
            self.wait_until_ready(time.monotonic() + START_LIMIT_S)
        if self._excuse:
            attempt.stopped = self._excuse
            return attempt
        self._run(group, attempt, list(range(len(group.gramians))), certify=True)
        seconds = [1e-6 * answer.microseconds for answer in attempt.answers.values() if not answer.error]
        if seconds or attempt.stopped.startswith(TIME_LIMIT):
            self._pace = group.size, min(seconds, default=self._time_limit)
        return attempt

    def _is_hopeless(self, group: Group) -> bool:
        """Whether not even time that grows linearly with K would leave a single call within the limit."""
        assert self._pace is not None
        size, seconds = self._pace
        return group.size > size and seconds * group.size / size >= self._time_limit

    def time_again(self, group: Group, attempt: Attempt) -> None:
        """Time another pass over what was answered, if the cell is still cheap."""
        if self._process is not None and attempt.answers and attempt.used < REPEAT_SHARE * self._time_limit:
            answered = [index for index, answer in attempt.answers.items() if not answer.error]
            self._run(group, attempt, answered, certify=False)

    def _run(self, group: Group, attempt: Attempt, indices: list[int], certify: bool) -> None:
        """Send one pass and collect its messages until it is done, or over the limit."""
        assert self._process is not None
        began = time.monotonic()
        left = self._time_limit - attempt.used
        stopped = ""
        self._process.send(Pass([group.gramians[index] for index in indices], certify, left))
        try:
            while isinstance(message := self._process.receive(began + left - time.monotonic()), Answer):
                index = indices[message.index]
                if certify:
                    attempt.answers[index] = message
                elif not message.error:
                    attempt.times.setdefault(index, []).append(message.microseconds)
        except TimeoutError:
            self.close()
        except ProcessEndedError as ended:
            self.close()
            stopped = str(ended)
        attempt.used += time.monotonic() - began
        if certify and len(attempt.answers) < len(indices):
            attempt.stopped = stopped or f"{TIME_LIMIT} of {self._time_limit:g} s"


def _start(seats: Sequence[_Seat]) -> None:
    """Start all processes and wait for them."""
    # After an installation, this compiles mojd's kernels, so that not several processes do at once.
    get_solver("active_set").prepare()
    for seat in seats:
        seat.open()
    ready_by = time.monotonic() + START_LIMIT_S
    for seat in seats:
        seat.wait_until_ready(ready_by)


def run(
    groups: Sequence[Group],
    method: QuadraticWeighting,
    solvers: Sequence[Solver],
    *,
    tolerance: float,
    time_limit: float,
    repeats: int,
    progress: Progress | None = None,
) -> Iterator[list[Row]]:
    """Compare solvers, one group at a time.

    Parameters
    ----------
    groups : sequence of Group
        The Gramians, smallest K first: a solver is not tried at a K for which its time at the one
        before, grown linearly, is over the limit.
    method : QuadraticWeighting
        The weighting whose problems are solved.
    solvers : sequence of Solver
        Installed or not.
    tolerance : float
        The largest scale-free KKT residual that counts as solved.
    time_limit : float
        Seconds per solver and group. A call that is still running then is killed with its process.
    repeats : int
        How many timing passes follow the one whose solutions are judged. In each, all solvers take
        turns, so that a slow spell of the machine meets all of them.
    progress : callable, optional
        Called before each step with the cells done, all cells, and a description.

    Yields
    ------
    list of Row
        The rows of one group.
    """
    seats = [_Seat(solver, method, tolerance, time_limit) for solver in solvers]
    cells = sum(seat.takes(group) for group in groups for seat in seats)
    done = 0

    def report(text: str) -> None:
        if progress is not None:
            progress(done, cells, text)

    try:
        report("starting the solvers")
        _start(seats)
        for group in groups:
            running = []
            for seat in (seat for seat in seats if seat.takes(group)):
                report(f"{group.name}: {seat.solver.name}")
                running.append((seat, seat.attempt(group)))
                done += 1
            if not running:
                continue
            for turn in range(repeats):
                report(f"{group.name}: timing {turn + 1}/{repeats}")
                for seat, attempt in running[turn % len(running) :] + running[: turn % len(running)]:
                    seat.time_again(group, attempt)
            yield judge(group, [attempt for _, attempt in running], tolerance)
        report("done")
    finally:
        for seat in seats:
            seat.close()
