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
    method_of,
    registered_methods,
    registered_programmes,
    registered_weightings,
)
from mojd.weightings.aggregation import aggregate
from mojd.weightings.aligned_mtl import aligned_mtl
from mojd.weightings.auxinash import auxinash, auxinash_derivative, update_preferences
from mojd.weightings.cagrad import cagrad
from mojd.weightings.config import config
from mojd.weightings.constant import constant
from mojd.weightings.fairgrad import fairgrad
from mojd.weightings.famo import FamoState, famo, init_famo, update_famo
from mojd.weightings.graddrop import graddrop
from mojd.weightings.gradvac import GradVacState, gradvac, init_gradvac
from mojd.weightings.imtl_g import imtl_g
from mojd.weightings.krum import krum
from mojd.weightings.mean import mean
from mojd.weightings.mgda import mgda, mgda_problem
from mojd.weightings.nash_mtl import nash_mtl
from mojd.weightings.normaliser import NormaliserState, init_normaliser, normalise
from mojd.weightings.pcd import pcd, pcd_problem
from mojd.weightings.pcgrad import pcgrad
from mojd.weightings.projection import dualproj, dualproj_problem, project, project_problem
from mojd.weightings.rgw import rgw
from mojd.weightings.sum import sum  # noqa: A004
from mojd.weightings.trimmed_mean import trimmed_mean
from mojd.weightings.upgrad import upgrad, upgrad_problem
from mojd.weightings.weighted_sum import weighted_sum

__all__ = [
    "Aggregator",
    "FamoState",
    "GradVacState",
    "LossWeighting",
    "Method",
    "NormaliserState",
    "QuadraticWeighting",
    "Weighting",
    "aggregate",
    "aligned_mtl",
    "auxinash",
    "auxinash_derivative",
    "cagrad",
    "config",
    "constant",
    "dualproj",
    "dualproj_problem",
    "fairgrad",
    "famo",
    "get_method",
    "graddrop",
    "gradvac",
    "imtl_g",
    "init_famo",
    "init_gradvac",
    "init_normaliser",
    "krum",
    "mean",
    "method_of",
    "mgda",
    "mgda_problem",
    "nash_mtl",
    "normalise",
    "pcd",
    "pcd_problem",
    "pcgrad",
    "project",
    "project_problem",
    "registered_methods",
    "registered_programmes",
    "registered_weightings",
    "rgw",
    "sum",
    "trimmed_mean",
    "update_famo",
    "update_preferences",
    "upgrad",
    "upgrad_problem",
    "weighted_sum",
]
