"""How the solution of one problem ended, and what that means."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """How the solution of one problem ended.

    Examples
    --------
    >>> import mojd
    >>> mojd.Status(1).message
    'the objective falls without bound along Solution.ray: the constraints contradict each other'
    """

    OPTIMAL = 0
    INFEASIBLE = 1
    NONFINITE = 2
    MAX_ITER = 3

    @property
    def message(self) -> str:
        """What the status means and what to do about it."""
        return _MESSAGES[self]


_MESSAGES = {
    Status.OPTIMAL: "solved",
    Status.INFEASIBLE: (
        "the objective falls without bound along Solution.ray: the constraints contradict each other"
    ),
    Status.NONFINITE: "the Gramian or the linear term holds NaN or infinity: skip this step",
    Status.MAX_ITER: "the solver gave up: try solver='active_set', or loosen what you ask of this one",
}
