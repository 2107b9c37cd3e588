"""Methods: each maps Gramians to weights, and says which problem it solves.

To add one, write its file and name it here.
"""

from mojd.weightings._registry import Weighting, get_weighting, registered_weightings
from mojd.weightings.aggregation import aggregate
from mojd.weightings.mgda import mgda, mgda_problem
from mojd.weightings.normaliser import NormaliserState, init_normaliser, normalise
from mojd.weightings.pcd import pcd, pcd_problem
from mojd.weightings.projection import dualproj, dualproj_problem, project, project_problem
from mojd.weightings.upgrad import upgrad, upgrad_problem

__all__ = [
    "NormaliserState",
    "Weighting",
    "aggregate",
    "dualproj",
    "dualproj_problem",
    "get_weighting",
    "init_normaliser",
    "mgda",
    "mgda_problem",
    "normalise",
    "pcd",
    "pcd_problem",
    "project",
    "project_problem",
    "registered_weightings",
    "upgrad",
    "upgrad_problem",
]
