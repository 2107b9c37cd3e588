"""Solving inside of JAX programs: everything here imports JAX, and is imported when it is first needed."""

import jax

from mojd.errors import MissingDependencyError

# As in the extra of pyproject.toml. Older versions can't say what differs from device to device (lax.pcast).
if jax.__version_info__ < (0, 9):
    raise MissingDependencyError(
        f"mojd needs JAX 0.9 or newer inside of JAX programs, and this is {jax.__version__}: "
        "pip install --upgrade 'mojd[jax]'"
    )
