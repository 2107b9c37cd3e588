"""The JAX adapter: methods, solvers and training with several losses, as part of the caller's program."""

from mojd.errors import MissingDependencyError

try:
    import jax as _jax  # noqa: F401
except ModuleNotFoundError as error:
    raise MissingDependencyError(
        "mojd.jax needs JAX, which is not installed: pip install 'mojd[jax]'"
    ) from error

from mojd.jax.gradients import combine, gramian
from mojd.jax.registered import weighting
from mojd.jax.solutions import CertifiedWeights, JaxSolution, certified, solve
from mojd.jax.stateful import PCDState, StatefulWeighting, pcd_weighting
from mojd.jax.training import StepInfo, value_and_direction, value_and_jacobian
from mojd.jax.transformation import aggregate_gradients
from mojd.jax.weightings import (
    dualproj,
    mgda,
    pcd,
    project,
    upgrad,
)

__all__ = [
    "CertifiedWeights",
    "JaxSolution",
    "PCDState",
    "StatefulWeighting",
    "StepInfo",
    "aggregate_gradients",
    "certified",
    "combine",
    "dualproj",
    "gramian",
    "mgda",
    "pcd",
    "pcd_weighting",
    "project",
    "solve",
    "upgrad",
    "value_and_direction",
    "value_and_jacobian",
    "weighting",
]
