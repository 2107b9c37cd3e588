"""Which guarantees of a direction survived the step that an optimiser made of it."""

from mojd.properties.step_audit.audit import audit_step
from mojd.properties.step_audit.report import Guarantee, ObjectiveAudit, StepAudit, Verdict

__all__ = ["Guarantee", "ObjectiveAudit", "StepAudit", "Verdict", "audit_step"]
