"""What an audit of a step found: verdicts with their numbers, as an object, as text and for JSON."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """What became of a guarantee of the direction."""

    KEPT = "kept"
    LOST = "lost"
    NOT_PROMISED = "not promised"


@dataclass(frozen=True, slots=True)
class ObjectiveAudit:
    """What a step does to one loss, to first order.

    Attributes
    ----------
    index : int
        The row of the Jacobian.
    change : float
        g·update, in units of the loss: below 0 if the loss falls.
    rate : float
        −g·update / (‖g‖·‖update‖), in [−1, 1]: above 0 if the loss falls. 0 if either is 0.
    promised_change : float
        What a step of the same length along −d would have changed.
    promised_rate : float
        g·d / (‖g‖·‖d‖). 0 if either is 0.
    rises : bool
        Whether the rate is below 0 by more than the tolerance.
    broken : bool
        Whether the loss rises though d promised that it would not.
    tau, delivered_tau : float or None
        For PCD's secondaries, the progress that was asked for, and g̃·(−update) / (η·‖g̃‖²); None for
        other losses, for a zero gradient, and where −update does not go along d at all.
    """

    index: int
    change: float
    rate: float
    promised_change: float
    promised_rate: float
    rises: bool
    broken: bool
    tau: float | None = None
    delivered_tau: float | None = None


@dataclass(frozen=True, slots=True)
class Guarantee:
    """A guarantee, what became of it, and the number behind the verdict.

    Attributes
    ----------
    name : str
        'non-conflicting', 'descent', 'progress', 'fallback', 'weighted' or 'positive weights'.
    verdict : Verdict
        'kept', 'lost' or 'not promised'.
    measures : str
        What the number is.
    value : float
        The number for the update, without a unit.
    promised_value : float
        The same number for d. NaN if the method is none that could promise it.
    comparison : str
        '>=', '>' or '<='.
    limit : float
        The guarantee is kept if the value compares so with the limit: 0 but for the tolerance.
    worst : int or None
        The objective that the value is from.
    """

    name: str
    verdict: Verdict
    measures: str
    value: float
    promised_value: float
    comparison: str
    limit: float
    worst: int | None = None

    @property
    def tolerance(self) -> float:
        """How far from 0 the limit is."""
        return abs(self.limit)

    def __str__(self) -> str:
        if math.isnan(self.promised_value):
            return f"{self.verdict:<13} {self.name:<16}"
        where = "" if self.worst is None else f", loss {self.worst}"
        value = f"{self.measures} {_short(self.value)}{where}"
        if self.verdict is Verdict.NOT_PROMISED:
            return f"{self.verdict:<13} {self.name:<16} {value}; of d {_short(self.promised_value)}"
        sign = self.comparison if self.verdict is Verdict.KEPT else f"not {self.comparison}"
        return f"{self.verdict:<13} {self.name:<16} {value} ({sign} {self.limit:.1e})"


@dataclass(frozen=True, slots=True, repr=False)
class StepAudit:
    r"""Say which guarantees of a direction d = Jᵀw survived in a true update of the parameters.

    ``print(audit)`` shows all of it as text.

    Attributes
    ----------
    method : str
        The name of the weighting, or 'given weights'.
    size, parameters : int
        K and n.
    cosine, angle : float
        Between −update and d, the angle in degrees. NaN if either is 0.
    step_size : float
        η that minimises ‖update + η·d‖. NaN if d = 0.
    outside : float
        The share of the update's norm outside of the row space of J, from 0 to 1.
    update_norm, direction_norm : float
        ‖update‖ and ‖d‖.
    weights : tuple of float or None
        w. None for methods whose direction has no weights.
    update_weights : tuple of float
        v such that Jᵀv is nearest to −update, with the least :math:`\sum_i (v_i \|g_i\|)^2` among such.
    tolerance : float
        How large a rate of the update has to be to count.
    objectives : tuple of ObjectiveAudit
        One per loss.
    guarantees : tuple of Guarantee
        All six, always in the same order.
    notes : tuple of str
        What is special about this step, in words.
    """

    method: str
    size: int
    parameters: int
    cosine: float
    angle: float
    step_size: float
    outside: float
    update_norm: float
    direction_norm: float
    weights: tuple[float, ...] | None
    update_weights: tuple[float, ...]
    tolerance: float
    objectives: tuple[ObjectiveAudit, ...]
    guarantees: tuple[Guarantee, ...]
    notes: tuple[str, ...] = ()

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """The verdict on each guarantee by its name."""
        return {guarantee.name: guarantee.verdict for guarantee in self.guarantees}

    @property
    def kept(self) -> tuple[str, ...]:
        """The names of the guarantees that were kept."""
        return tuple(g.name for g in self.guarantees if g.verdict is Verdict.KEPT)

    @property
    def lost(self) -> tuple[str, ...]:
        """The names of the guarantees that d had and the update has not."""
        return tuple(g.name for g in self.guarantees if g.verdict is Verdict.LOST)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as dictionaries, lists, numbers and strings for JSON, None for NaN.

        Returns
        -------
        dict
            The attributes, and ``kept`` and ``lost``.
        """
        content = _for_json(asdict(self)) | {"kept": list(self.kept), "lost": list(self.lost)}
        assert isinstance(content, dict)
        return content

    def __repr__(self) -> str:
        lost = ", ".join(self.lost) or "nothing"
        return f"<StepAudit of {self.method}: {self.angle:.3g}° off d, lost: {lost}>"

    def __str__(self) -> str:
        lines = [
            f"Step of {self.method}: {self.size} losses, {self.parameters} parameters",
            f"  -update against d    {_short(self.angle)}° (cosine {_short(self.cosine)})",
            f"  best step size       {_short(self.step_size)}",
            f"  outside of row space {_short(self.outside)} of the update's norm",
            "  weights of d         " + ("none" if self.weights is None else _row(self.weights)),
            f"  weights of -update   {_row(self.update_weights)}",
            "",
            "  loss      change        rate  rate of d",
            *(f"  {_objective(objective)}" for objective in self.objectives),
            "",
            *(f"  {guarantee}".rstrip() for guarantee in self.guarantees),
        ]
        if self.notes:
            lines += ["", *(f"  Note: {note}" for note in self.notes)]
        return "\n".join(lines)


def _objective(objective: ObjectiveAudit) -> str:
    text = (
        f"{objective.index:4}  {objective.change:+10.3e}  {_short(objective.rate, sign=True):>10}"
        f"  {_short(objective.promised_rate, sign=True):>9}"
    )
    if objective.tau is not None and objective.delivered_tau is not None:
        text += f"  tau {_short(objective.delivered_tau)} of {objective.tau:.4g}"
    if objective.broken:
        return text + "  rises, against the promise"
    return text + ("  rises" if objective.rises else "")


def _short(value: float, *, sign: bool = False) -> str:
    """Write a number with four digits, rounding errors in scientific notation."""
    plus = "+" if sign else ""
    if value == 0:
        return "0"
    return f"{value:{plus}.1e}" if abs(value) < 1e-4 else f"{value:{plus}.4g}"


def _row(values: tuple[float, ...], shown: int = 8) -> str:
    more = f", ... ({len(values)})" if len(values) > shown else ""
    return ", ".join(_short(value) for value in values[:shown]) + more


def _for_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _for_json(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return [_for_json(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Verdict) else value
