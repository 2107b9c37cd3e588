"""Which properties of a direction hold: of a true step, checked after the fact."""

from mojd.properties.audit import audit_step

__all__ = ["audit_step"]
