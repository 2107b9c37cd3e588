"""Solving inside of JAX programs: everything here imports JAX, and is imported when it is first needed."""

import jax

from mojd.errors import MissingDependencyError

# As in the extra of pyproject.toml. Older versions lack a context for float64, and more that is used here.
if jax.__version_info__ < (0, 8):
    raise MissingDependencyError(
        f"mojd needs JAX 0.8 or newer inside of JAX programs, and this is {jax.__version__}: "
        "pip install --upgrade 'mojd[jax]'"
    )
