"""Properties of methods: measures of their violation, strategies for examples, and checks of both.

One property a file, or one family of them; to add one, write its file and name it here.
"""

import importlib
from typing import Any

from mojd.properties._registry import Property, get_property, registered_properties

from mojd.properties.non_conflicting import conflict, conflict_of_direction  # isort: skip
from mojd.properties.linear_under_scaling import superposition_error  # isort: skip
from mojd.properties.weighted import outside_of_span  # isort: skip
from mojd.properties.invariances import (  # isort: skip
    homogeneity_error,
    permutation_error,
    row_scale_error,
)
from mojd.properties.optimal import optimality_residual  # isort: skip
from mojd.properties.stationarity import (  # isort: skip
    Stationarity,
    strong_stationarity,
    weak_stationarity,
)
from mojd.properties import priorities as priorities  # isort: skip
from mojd.properties import certified_feasibility as certified_feasibility  # isort: skip
from mojd.properties.feasibility import (  # isort: skip
    contradiction_error,
    is_feasible,
    missing_progress,
)
from mojd.properties._subject import Subject
from mojd.properties._trial import subject
from mojd.properties.checking import check, violation
from mojd.properties.findings import Counterexample, Finding
from mojd.properties.report import PropertyViolated, Report
from mojd.properties.step_audit import Guarantee, ObjectiveAudit, StepAudit, Verdict, audit_step
from mojd.properties.table import Bounds, Spec, check_table

__all__ = [
    "Bounds",
    "Counterexample",
    "Finding",
    "Guarantee",
    "ObjectiveAudit",
    "Property",
    "PropertyViolated",
    "Report",
    "Spec",
    "Stationarity",
    "StepAudit",
    "Subject",
    "Verdict",
    "audit_step",
    "check",
    "check_table",
    "conflict",
    "conflict_of_direction",
    "contradiction_error",
    "get_property",
    "homogeneity_error",
    "is_feasible",
    "missing_progress",
    "optimality_residual",
    "outside_of_span",
    "permutation_error",
    "registered_properties",
    "row_scale_error",
    "strong_stationarity",
    "subject",
    "superposition_error",
    "violation",
    "weak_stationarity",
]


def __getattr__(name: str) -> Any:
    """Load the strategies on first use: they need hypothesis."""
    if name == "strategies":
        return importlib.import_module("mojd.properties.strategies")
    raise AttributeError(f"module 'mojd.properties' has no attribute {name!r}")
