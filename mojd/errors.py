"""The exceptions that mojd raises.

Every one of them derives from :class:`MojdError` and from the built-in exception that a caller
would expect, so that ``except ValueError`` and ``except mojd.MojdError`` both work.
"""


class MojdError(Exception):
    """Root of every exception that mojd raises on purpose."""


class InvalidInputError(MojdError, ValueError):
    """An argument has a shape or a value that the mathematics does not allow."""


class InvalidTypeError(MojdError, TypeError):
    """An argument is not an array of real numbers."""


class NonFiniteError(InvalidInputError):
    """An argument holds NaN or infinity."""


class MissingDependencyError(MojdError, ImportError):
    """An optional package is needed and not installed."""


class SolverError(MojdError, RuntimeError):
    """A solver stopped before it reached a solution."""


class NotDifferentiableError(MojdError, NotImplementedError):
    """A derivative is asked for that is not implemented."""
