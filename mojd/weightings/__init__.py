"""Methods: each maps Gramians to weights, and says which problem it solves.

To add one, write its file and name it here.
"""

from mojd.weightings._registry import (
    Aggregator,
    LossWeighting,
    Method,
    QuadraticWeighting,
    Weighting,
    get_method,
    registered_methods,
    registered_programmes,
    registered_weightings,
)
from mojd.weightings.aggregation import aggregate
from mojd.weightings.auxinash import auxinash, auxinash_derivative, update_preferences
from mojd.weightings.fairgrad import fairgrad
from mojd.weightings.mgda import mgda, mgda_problem
from mojd.weightings.nash_mtl import nash_mtl
from mojd.weightings.normaliser import NormaliserState, init_normaliser, normalise
from mojd.weightings.pcd import pcd, pcd_problem
from mojd.weightings.projection import dualproj, dualproj_problem, project, project_problem
from mojd.weightings.upgrad import upgrad, upgrad_problem

__all__ = [
    "Aggregator",
    "LossWeighting",
    "Method",
    "NormaliserState",
    "QuadraticWeighting",
    "Weighting",
    "aggregate",
    "auxinash",
    "auxinash_derivative",
    "dualproj",
    "dualproj_problem",
    "fairgrad",
    "get_method",
    "init_normaliser",
    "mgda",
    "mgda_problem",
    "nash_mtl",
    "normalise",
    "pcd",
    "pcd_problem",
    "project",
    "project_problem",
    "registered_methods",
    "registered_programmes",
    "registered_weightings",
    "update_preferences",
    "upgrad",
    "upgrad_problem",
]
