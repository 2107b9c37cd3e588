"""The canonical problem, what a solution is, and how far it can be trusted. No solver in here.

NNQP(G, q):   min over x ≥ 0 of  ½ xᵀGx + qᵀx        KKT: x ≥ 0,  s = Gx + q ≥ 0,  xᵀs = 0
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from mojd import certificates
from mojd._arrays import (
    FLOAT64_PRECISION,
    Array,
    Precision,
    as_array,
    device_float64,
    is_array,
    is_on_device,
    is_traced,
    namespace,
    precision_of,
    restore,
    to_float64,
)
from mojd._checks import broadcast_batch, check_gramian_shape, check_rows
from mojd.errors import InvalidInputError
from mojd.status import Status

_FLOAT64 = np.dtype(np.float64)


class FlatProblem(NamedTuple):
    """A problem as solvers see it: float64 arrays G (B, K, K) and q (B, R, K)."""

    gramian: Array
    linear: Array


class NNQP:
    r"""State the problem min over x ≥ 0 of ½ xᵀGx + qᵀx, for one G and q or for batches.

    .. math:: \operatorname*{arg\,min}_{x \in \mathbb{R}^K,\; x \ge 0} \tfrac12 x^\top G x + q^\top x

    Parameters
    ----------
    gramian : array, shape (..., K, K)
        Symmetric positive semi-definite, up to rounding in its own dtype.
    linear : array, shape (..., K)
        The linear term q. Its leading axes broadcast against those of `gramian`: a `linear` of
        shape (R, K) with a `gramian` of shape (K, K) is R problems that share one Gramian, which
        solvers factor once wherever they can.

    Attributes
    ----------
    batch_shape : tuple of int
        The broadcast leading shape; () for one problem.
    size : int
        K.
    precision : Precision
        The rounding errors to expect in the Gramian, from its dtype.

    Raises
    ------
    InvalidInputError
        If the shapes do not fit.
    InvalidTypeError
        If an argument does not hold real numbers.

    Examples
    --------
    >>> import mojd
    >>> problem = mojd.NNQP([[2.0, 1.0], [1.0, 2.0]], [-3.0, 1.0])
    >>> mojd.solve(problem).x
    array([1.5, 0. ])
    """

    __slots__ = ("batch_shape", "gramian", "is_plain", "linear", "precision", "size")

    gramian: Array
    linear: Array
    batch_shape: tuple[int, ...]
    size: int
    is_plain: bool
    precision: Precision

    def __init__(self, gramian: Any, linear: Any) -> None:
        if type(gramian) is np.ndarray and type(linear) is np.ndarray and linear.ndim == 1:
            size = len(linear)
            if (
                gramian.shape == (size, size)
                and gramian.dtype is _FLOAT64
                and linear.dtype is _FLOAT64
                and size
            ):
                self.gramian, self.linear, self.batch_shape, self.size = gramian, linear, (), size
                self.precision = FLOAT64_PRECISION
                self.is_plain = gramian.flags.carray and linear.flags.carray
                return
        self.gramian = as_array(gramian, "gramian")
        check_gramian_shape(self.gramian)
        if not is_array(linear) and not isinstance(self.gramian, np.ndarray):
            linear = restore(np.asarray(linear), self.gramian)
        self.linear = as_array(linear, "linear")
        self.size = int(self.gramian.shape[-1])
        check_rows(self.linear, self.size, "linear", f"as the gramian is {self.size} x {self.size}")
        if is_on_device(self.gramian) != is_on_device(self.linear) and not self.is_traced:
            raise InvalidInputError(
                f"gramian is on {getattr(self.gramian, 'device', 'the CPU')} but linear on "
                f"{getattr(self.linear, 'device', 'the CPU')}; move them to one device"
            )
        self.batch_shape = broadcast_batch(
            tuple(self.gramian.shape[:-2]), tuple(self.linear.shape[:-1]), "gramian and linear"
        )
        self.precision = precision_of(self.gramian)
        self.is_plain = False

    @property
    def is_traced(self) -> bool:
        """Whether JAX traces one of the arrays."""
        return is_traced(self.gramian) or is_traced(self.linear)

    def __repr__(self) -> str:
        """Show the shapes, not the numbers."""
        return f"NNQP(size={self.size}, batch_shape={self.batch_shape}, {type(self.gramian).__name__})"

    def flatten(self) -> FlatProblem:
        """Return float64 arrays G (B, K, K) and q (B, R, K), NumPy's unless they are on a device.

        The trailing batch axes along which G does not vary become R.
        """
        if self.is_traced:
            xp: Any = namespace(self.gramian if is_traced(self.gramian) else self.linear)
            gramian, linear = xp.asarray(self.gramian, xp.float64), xp.asarray(self.linear, xp.float64)
        elif is_on_device(self.gramian):
            gramian, linear = device_float64(self.gramian), device_float64(self.linear)
            xp = namespace(gramian)
        else:
            gramian, linear, xp = to_float64(self.gramian), to_float64(self.linear), np
        own = (1,) * (len(self.batch_shape) - gramian.ndim + 2) + tuple(gramian.shape[:-2])
        split = len(own)
        while split and own[split - 1] == 1:
            split -= 1
        outer, inner = self.batch_shape[:split], self.batch_shape[split:]
        K = self.size
        gramian = xp.reshape(gramian, own[:split] + (K, K))
        if own[:split] != outer:
            gramian = xp.broadcast_to(gramian, outer + (K, K))
        if tuple(linear.shape[:-1]) != self.batch_shape:
            linear = xp.broadcast_to(linear, (*self.batch_shape, K))
        count = math.prod(outer)
        flat = FlatProblem(
            xp.reshape(gramian, (count, K, K)), xp.reshape(linear, (count, math.prod(inner), K))
        )
        if xp is np:
            return FlatProblem(np.ascontiguousarray(flat.gramian), np.ascontiguousarray(flat.linear))
        return flat


class Solution:
    """Hold the minimisers of an :class:`NNQP`, and certify them.

    Everything but `x`, `status` and `iterations` is computed on first use, in float64 from
    (G, q, x) and by the same formulas whichever solver found x. Nothing is copied for that: read
    what you need before you overwrite the Gramian, the linear term or `x`. Arrays have the namespace and the
    device of the problem's Gramian, floating-point ones its dtype as well, except for the
    certificates, which stay in float64. For a single problem, certificates are numbers.

    Attributes
    ----------
    x : array, shape (..., K)
        The minimisers; NaN where the status is INFEASIBLE or NONFINITE.
    status : Status, or int array of shape (...)
        One :class:`Status` per problem.
    iterations : int, or int array of shape (...)
        What the solver counts as iterations.
    """

    def __init__(self, problem: NNQP, raw_x: Array, status: Any, iterations: Any) -> None:
        self.problem = problem
        self._raw_x = raw_x
        self._status = status
        self._iterations = iterations

    def __repr__(self) -> str:
        """Show the status and the size."""
        return f"Solution(status={self.status!r}, problem={self.problem!r})"

    def _shaped(self, array: Array, tail: tuple[int, ...] = ()) -> Any:
        """Give a flat (B, R, ...) result the batch shape; a Python scalar for one problem."""
        shape = (*self.problem.batch_shape, *tail)
        if not shape and isinstance(array, np.ndarray):
            return array.item()
        return self._namespace.reshape(array, shape)

    @cached_property
    def _flat_raw(self) -> Array:
        """The solver's output as (B, R, K)."""
        flat = self.problem.flatten()
        return self._namespace.reshape(self._raw_x, flat.linear.shape)

    @cached_property
    def _flat_status(self) -> Array:
        """The statuses as an array (B, R)."""
        if isinstance(self._status, int):
            return np.full((1, 1), self._status, dtype=np.int8)
        return self._status

    @property
    def status(self) -> Any:
        """The status of each problem; a :class:`Status` if there is one problem."""
        if isinstance(self._status, int):
            return Status(self._status)
        if not self.problem.batch_shape and not self.problem.is_traced:
            return Status(int(self._namespace.reshape(self._status, ())))
        return restore(self._shaped(self._status), self.problem.gramian)

    @property
    def iterations(self) -> Any:
        """The number of iterations of each problem."""
        if isinstance(self._iterations, int):
            return self._iterations
        if not self.problem.batch_shape and not self.problem.is_traced:
            return int(self._namespace.reshape(self._iterations, ()))
        return restore(self._shaped(self._iterations), self.problem.gramian)

    @cached_property
    def _namespace(self) -> Any:
        raw = self._raw_x
        return np if isinstance(raw, np.ndarray) else namespace(raw)

    @property
    def iteration_counts(self) -> Array:
        """The numbers of iterations as an array (...) whatever their number, NumPy's unless on a device."""
        counts = self._iterations
        if isinstance(counts, int):
            counts = np.full((1, 1), counts, np.int32)
        return self._namespace.reshape(counts, self.problem.batch_shape)

    @property
    def codes(self) -> Array:
        """The statuses as an array (...) whatever their number, NumPy's unless on a device."""
        return self._namespace.reshape(self._flat_status, self.problem.batch_shape)

    @cached_property
    def x_float64(self) -> Array:
        """The minimisers as the solver left them: float64, NumPy's unless on a device."""
        if isinstance(self._status, int) and self._status == Status.OPTIMAL:
            return self._raw_x
        return self._shaped(self._solved_x, (self.problem.size,))

    @cached_property
    def _solved_x(self) -> Array:
        """The minimisers as (B, R, K), NaN where there is none."""
        codes, xp = self._flat_status, self._namespace
        unsolved = (codes == int(Status.INFEASIBLE)) | (codes == int(Status.NONFINITE))
        return xp.where(unsolved[..., None], xp.full_like(self._flat_raw, math.nan), self._flat_raw)

    @cached_property
    def x(self) -> Array:
        """The minimisers, shape (..., K)."""
        if isinstance(self._status, int) and self._status in (Status.OPTIMAL, Status.MAX_ITER):
            return self._raw_x
        return restore(self._shaped(self._solved_x, (self.problem.size,)), self.problem.gramian)

    @cached_property
    def ray(self) -> Array:
        """Directions z ≥ 0 with Gz = 0 and qᵀz < 0 where INFEASIBLE (Farkas certificate), else NaN."""
        xp = self._namespace
        infeasible = (self._flat_status == int(Status.INFEASIBLE))[..., None]
        ray = xp.where(infeasible, self._flat_raw, xp.full_like(self._flat_raw, math.nan))
        return restore(self._shaped(ray, (self.problem.size,)), self.problem.gramian)

    @cached_property
    def _equilibrated(self) -> certificates.Equilibrated:
        flat = self.problem.flatten()
        with np.errstate(all="ignore"):
            return certificates.equilibrate(self._namespace, flat.gramian, flat.linear, self._solved_x)

    @cached_property
    def _accurate_slack(self) -> Array:
        with np.errstate(all="ignore"):
            return certificates.accurate_slack(self._namespace, self._equilibrated)

    def _certificate(self, values: Array) -> Any:
        """Shape a float64 certificate without rounding it to the problem's dtype."""
        if not self.problem.batch_shape:
            return self._shaped(values)
        if isinstance(values, np.ndarray) and not isinstance(self.problem.gramian, np.ndarray):
            like = restore(np.zeros(1, dtype=np.int64), self.problem.gramian)
            return restore(self._shaped(values), like)
        return self._shaped(values)

    @cached_property
    def active(self) -> Array:
        """Where x > 0, shape (..., K): the objectives whose constraint is active."""
        return restore(self._shaped(self._solved_x > 0, (self.problem.size,)), self.problem.gramian)

    @cached_property
    def slack(self) -> Array:
        """s = Gx + q, shape (..., K), in units of G·x, computed with twice the working precision."""
        scaled = self._equilibrated
        slack = self._accurate_slack * scaled.magnitude[..., None] / scaled.scale[:, None, :]
        return restore(self._shaped(slack, (self.problem.size,)), self.problem.gramian)

    @cached_property
    def kkt_residual(self) -> Any:
        """The scale-free KKT residual ``max|min(x̂, ŝ)| / max|q̂|``, shape (...).

        Hats are the units in which every gradient has norm 1. NaN where there is no x.
        """
        with np.errstate(all="ignore"):
            return self._certificate(
                certificates.kkt_residual(self._namespace, self._equilibrated, self._accurate_slack)
            )

    @cached_property
    def gap(self) -> Any:
        """The duality gap xᵀs, shape (...), in squared units of the direction."""
        scaled = self._equilibrated
        products = self._namespace.sum(scaled.x * self._accurate_slack, axis=-1)
        return self._certificate(products * scaled.magnitude**2)

    @cached_property
    def direction_error_bound(self) -> Any:
        """A rigorous bound on ‖Jᵀ(x − x*)‖, shape (...), in units of the direction.

        See :func:`mojd.certificates.direction_error_bound`.
        """
        with np.errstate(all="ignore"):
            return self._certificate(
                certificates.direction_error_bound(self._namespace, self._equilibrated, self._accurate_slack)
            )
