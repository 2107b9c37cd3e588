"""Hypothesis' strategies, or an error that says how to install them."""

from mojd.errors import MissingDependencyError

try:
    from hypothesis import strategies as st
except ModuleNotFoundError as error:
    raise MissingDependencyError(
        "the checks of properties need hypothesis: pip install 'mojd[check]'"
    ) from error

__all__ = ["st"]
