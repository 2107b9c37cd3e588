"""The verdicts on a step: every number of the report, computed for −update as for a direction."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mojd._arrays import FloatArray
from mojd.properties.step_audit._geometry import (
    Measured,
    angle,
    combine,
    cone_distance,
    rates,
    ray_distance,
    row_space,
)
from mojd.properties.step_audit._promise import Promise
from mojd.properties.step_audit.report import Guarantee, ObjectiveAudit, StepAudit, Verdict

# Below this cosine, a wrong sign is likelier than an optimiser that turned the direction so far.
_OPPOSITE = -0.9


class Judge:
    """All numbers of one audit; `back` is −update, which is judged as a direction."""

    def __init__(self, promise: Promise, back: Measured, share: float, extra: float) -> None:
        self.promise, self.back, self.share = promise, back, share
        self.direction = promise.direction.vector
        # What rounding may make of the rates of d, and of the update.
        self.own = promise.direction.tolerance
        self.tolerance = (1 + self.own) * (1 + share) - 1 + extra
        self.space = row_space(promise.rows, promise.eps)
        self.kept_rates = rates(promise.rows, back)
        self.promised_rates = rates(promise.rows, self.direction)
        both = self.direction.length > 0 and back.length > 0
        self.cosine = float(rates(back, self.direction)) if both else math.nan

    def report(self) -> StepAudit:
        """Put the audit together."""
        promise, back, direction = self.promise, self.back, self.direction
        size, count = promise.rows.parts.shape
        weights = self.space.weights(back.unit) * back.norm
        weights = weights / np.where(promise.rows.length == 0.0, 1.0, promise.rows.norm)
        step_size = math.nan
        if direction.length != 0:
            step_size = float(
                back.parts @ direction.parts / direction.length**2 * back.scale / direction.scale
            )
        return StepAudit(
            method=promise.method,
            size=size,
            parameters=count,
            cosine=self.cosine,
            angle=angle(back, direction),
            step_size=step_size,
            outside=self.space.outside(back.unit),
            update_norm=float(back.norm),
            direction_norm=float(direction.norm),
            weights=None if promise.weights is None else tuple(promise.weights.tolist()),
            update_weights=tuple(weights.tolist()),
            tolerance=self.tolerance,
            objectives=tuple(self._objective(index) for index in range(size)),
            guarantees=(
                self._non_conflicting(),
                self._descent(),
                self._progress(),
                self._fallback(),
                self._weighted(),
                self._positive_weights(),
            ),
            notes=self._notes(),
        )

    def _objective(self, index: int) -> ObjectiveAudit:
        rows, rate, promised = self.promise.rows, self.kept_rates[index], self.promised_rates[index]
        scale, back = rows.scale[index], self.back
        change = -(rows.parts[index] @ back.parts) * scale * back.scale
        along = -promised * rows.length[index] * back.length * scale * back.scale
        rises = bool(rate < -self.tolerance)
        tau = delivered = None
        progress = self.promise.progress
        if progress is not None and progress.lengths[index] > 0:
            tau = float(progress.tau[index])
            if self.cosine > 0:
                delivered = float(rate / (self.cosine * progress.lengths[index]))
        return ObjectiveAudit(
            index=index,
            change=float(change) + 0.0,
            rate=float(rate) + 0.0,
            promised_change=float(along) + 0.0,
            promised_rate=float(promised) + 0.0,
            rises=rises,
            broken=rises and bool(promised >= -self.own),
            tau=tau,
            delivered_tau=delivered,
        )

    def _non_conflicting(self) -> Guarantee:
        return self._at_least("non-conflicting", "lowest rate", self.kept_rates, self.promised_rates)

    def _descent(self) -> Guarantee:
        """Judge the primary of PCD, otherwise the mean; d has to be sure of it by twice the tolerance."""
        if self.promise.progress is not None:
            kept, promised = self.kept_rates[0], self.promised_rates[0]
            limit, measures = self.tolerance, "rate of the primary"
        else:
            rows = self.promise.rows
            size = len(rows.length)
            mean = combine(np.full(size, 1.0 / size), rows, self.promise.eps)
            kept, promised = rates(mean.vector, self.back), rates(mean.vector, self.direction)
            limit, measures = self.tolerance + mean.tolerance, "rate of the mean"
        verdict = _verdict(promised > 2 * limit, kept > limit)
        return Guarantee("descent", verdict, measures, float(kept), float(promised), ">", limit)

    def _progress(self) -> Guarantee:
        """Compare rates with those that the constraints ask for; η adds its own rounding."""
        progress, name, measures = self.promise.progress, "progress", "lowest surplus of a secondary"
        if progress is None or len(progress.tau) == 1:
            return _never(name, measures, ">=", -2 * self.tolerance)
        needs = progress.needs[1:]
        # The cosine is η·‖d*‖ / ‖update‖. Without progress along d, nothing but a rise is asked not to be.
        asked = self.cosine * needs if self.cosine > 0 else np.zeros_like(needs)
        kept, promised = self.kept_rates[1:] - asked, self.promised_rates[1:] - needs
        return self._at_least(name, measures, kept, promised, 2.0, first=1)

    def _fallback(self) -> Guarantee:
        name, measures = "fallback", "distance from the primary's ray"
        if self.promise.progress is None:
            return _never(name, measures, "<=", self.tolerance)
        primary = self.promise.rows.unit[0]
        promised = ray_distance(primary, self.direction.unit)
        # d = 0 is on every ray, but PCD halts there, or a sum cancels.
        own = promised if self.direction.length > 0 else math.inf
        return self._within(name, measures, ray_distance(primary, self.back.unit), promised, own)

    def _weighted(self) -> Guarantee:
        kept, promised = self.space.outside(self.back.unit), self.space.outside(self.direction.unit)
        return self._within("weighted", "share outside of the row space", kept, promised)

    def _positive_weights(self) -> Guarantee:
        rows, weights = self.promise.rows, self.promise.weights
        known = weights is not None and bool((weights >= 0).all())
        promised = 0.0 if known else cone_distance(rows, self.direction.unit)
        kept = cone_distance(rows, self.back.unit)
        if known:
            # The ray of d lies in the cone, however hard the cone is to see.
            kept = min(kept, ray_distance(self.direction.unit, self.back.unit))
        return self._within("positive weights", "distance from the gradients' cone", kept, promised)

    def _at_least(
        self,
        name: str,
        measures: str,
        kept: FloatArray,
        promised: FloatArray,
        factor: float = 1.0,
        first: int = 0,
    ) -> Guarantee:
        """Judge a guarantee on all losses from `first` on: no number below 0."""
        limit = -factor * self.tolerance
        verdict = _verdict((promised >= -factor * self.own).all(), (kept >= limit).all())
        worst = int(np.argmin(kept))
        lowest = float(np.min(promised)) + 0.0
        return Guarantee(
            name, verdict, measures, float(kept[worst]) + 0.0, lowest, ">=", limit, first + worst
        )

    def _within(
        self, name: str, measures: str, kept: float, promised: float, own: float | None = None
    ) -> Guarantee:
        """Judge a guarantee that is a distance of 0."""
        is_promised = (promised if own is None else own) <= self.own
        verdict = _verdict(is_promised, kept <= self.tolerance)
        return Guarantee(name, verdict, measures, kept, promised, "<=", self.tolerance)

    def _notes(self) -> tuple[str, ...]:
        notes, rows = list(self.promise.notes), self.promise.rows
        zero = np.flatnonzero(rows.length == 0.0)
        if len(zero):
            which = ", ".join(str(index) for index in zero)
            notes.append(f"the gradient of loss {which} is 0: no step changes it to first order")
        if self.back.length == 0:
            notes.append("the update is 0: no loss rises, and none falls")
        elif self.direction.length == 0 and not self.promise.direction.cancels:
            notes.append("d is 0: the direction asks to stay where one is")
        if self.share >= 1:
            notes.append("the update is no longer than its rounding: nothing can be told from it")
        if self.cosine <= _OPPOSITE:
            notes.append(
                f"-update points away from d (cosine {self.cosine:.3g}): did you pass theta_before - "
                "theta_after? update is theta_after - theta_before"
            )
        finite = np.isfinite(self.kept_rates).all() and np.isfinite(self.promised_rates).all()
        return tuple(notes) if finite else (*notes, "there is NaN or infinity in the step: nothing is kept")


def _verdict(promised: Any, kept: Any) -> Verdict:
    if not promised:
        return Verdict.NOT_PROMISED
    return Verdict.KEPT if kept else Verdict.LOST


def _never(name: str, measures: str, comparison: str, limit: float) -> Guarantee:
    """Return the verdict on a guarantee that is none of the method's."""
    return Guarantee(name, Verdict.NOT_PROMISED, measures, math.nan, math.nan, comparison, limit)
