"""The JAX adapter: methods and solvers as part of the caller's program."""

from mojd.errors import MissingDependencyError

try:
    import jax as _jax  # noqa: F401
except ModuleNotFoundError as error:
    raise MissingDependencyError(
        "mojd.jax needs JAX, which is not installed: pip install 'mojd[jax]'"
    ) from error

from mojd.jax.registered import weighting
from mojd.jax.solutions import CertifiedWeights, JaxSolution, certified, solve
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
    "certified",
    "dualproj",
    "mgda",
    "pcd",
    "project",
    "solve",
    "upgrad",
    "weighting",
]
