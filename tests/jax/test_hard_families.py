"""The hard families of the core in programs of JAX, compiled and mapped, with the core's own tolerances.

All members of one size go into one call: XLA compiles for every shape anew. Residuals are computed from
the returned arrays with exact sums, by code that neither JAX nor the solvers share.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

import mojd
import mojd.jax
from mojd import Status
from mojd.weightings import QuadraticWeighting, get_method
from tests.reference import bounds, certify
from tests.reference.families import FAMILIES, Floats, Sample, linear_terms

SINGLE = [name for name in FAMILIES if name.startswith("float32")]
DOUBLE = [name for name in FAMILIES if name not in SINGLE]
SIZES = (2, 3, 4, 8, 16, 32)
# Per Gramian: right-hand sides, of which there are as many for all.
TERMS = 8


class Members(NamedTuple):
    """Members of families: their names, the samples, G (B, K, K) and q (B, TERMS, K)."""

    families: list[str]
    samples: list[Sample]
    gramian: Any
    linear: Floats


@functools.cache
def members(kind: str, K: int) -> Members:
    """Draw members of all families of float64 ('double') or float32 ('single')."""
    families, samples, terms = [], [], []
    for name in SINGLE if kind == "single" else DOUBLE:
        if FAMILIES[name].min_size > K:
            continue
        for seed in range(3 if K <= 8 else 1):
            rng = np.random.default_rng(K + 1000 * seed)
            sample = FAMILIES[name].sample(K, rng)
            drawn = [q for _, q in linear_terms(sample, rng, upgrad=TERMS - 2)]
            families.append(name)
            samples.append(sample)
            terms.append(np.resize(drawn, (TERMS, K)))
    gramian = np.stack([bounds.stored_gramian(*pair) for pair in zip(families, samples, strict=True)])
    return Members(families, samples, gramian, np.stack(terms))


def check_solutions(found: Members, x: Any, status: Any, ray: Any) -> None:
    """Check residuals and rays, x (B, TERMS, K)."""
    for b, (family, sample) in enumerate(zip(found.families, found.samples, strict=True)):
        for r, q in enumerate(found.linear[b]):
            label = f"{family}, member {b}, term {r}"
            if status[b, r] == Status.INFEASIBLE:
                assert certify.is_ray(sample.gramian, q, ray[b, r]), f"{label}: no ray"
                continue
            assert status[b, r] == Status.OPTIMAL, label
            assert (x[b, r] >= 0).all(), label
            residual = certify.kkt_residual(sample.gramian, q, x[b, r])
            bound = bounds.residual_bound(family, sample.gramian, q, x[b, r])
            assert residual <= bound + rounding(sample.gramian, q, x[b, r]), label


def rounding(gramian: Floats, linear: Floats, x: Any) -> float:
    """Return the residual that rounding x to float32 leaves; in float64 that is within the bounds."""
    if x.dtype == np.float64:
        return 0.0
    norms = certify.row_norms(gramian)
    largest = np.abs(linear / norms).max()
    return float(np.finfo(x.dtype).eps * np.abs(x * norms).sum() / largest) if largest else 0.0


def solve(found: Members, solver: str, mapped: bool) -> tuple[Any, Any, Any]:
    """Solve all problems in one program, over the members at once or by `vmap`."""

    def one(gramian: Any, linear: Any) -> Any:
        return mojd.jax.solve(gramian[..., None, :, :], linear, solver=solver)

    function = jax.jit(jax.vmap(one) if mapped else one)
    solution = function(found.gramian, found.linear)
    return tuple(map(np.asarray, (solution.x, solution.status, solution.ray)))  # type: ignore[return-value]


def project(found: Members, solver: str) -> Floats:
    """Project all unit vectors, as UPGrad does: x (B, K, K)."""
    eye = np.eye(found.gramian.shape[-1])

    function = jax.jit(functools.partial(mojd.jax.project, eye, solver=solver))
    return np.asarray(function(found.gramian), np.float64) - eye


# XLA takes seconds to compile its own solver for a size.
PATHS = [
    *((solver, K) for solver in ("auto mapped", "auto") for K in SIZES),
    *(("xla mapped", K) for K in (3, 8, 32)),
]
each_path = pytest.mark.parametrize(("path", "K"), PATHS)
# What rounding leaves of G·1 where the rows cancel but for 1e-8 falls along a ray, and x is taken to be 0: in
# the batches of the core too.
CANCELLING = {("dualproj", "nearly_strongly_stationary_1e-8"): bounds.UNRESOLVED}


@pytest.mark.usefixtures("x64")
class TestDouble:
    @each_path
    def test_solve(self, path: str, K: int) -> None:
        found = members("double", K)
        check_solutions(found, *solve(found, path.split()[0], path.endswith("mapped")))

    @pytest.mark.parametrize(("solver", "K"), [*(("auto", K) for K in SIZES), ("xla", 8)])
    def test_projections(self, solver: str, K: int) -> None:
        """UPGrad's K problems, whose linear terms are columns of G."""
        found = members("double", K)
        x = project(found, solver)
        for family, sample, rows in zip(found.families, found.samples, x, strict=True):
            for i in range(K) if K <= 8 else range(0, K, 5):
                residual = certify.kkt_residual(sample.gramian, sample.gramian[i], rows[i])
                assert residual <= bounds.residual_bound(
                    family, sample.gramian, sample.gramian[i], rows[i]
                ), family

    @pytest.mark.parametrize(("solver", "K"), [*(("auto", K) for K in SIZES), ("xla", 4)])
    @pytest.mark.parametrize("name", ["upgrad", "mgda", "dualproj", "pcd"])
    def test_methods(self, name: str, solver: str, K: int) -> None:
        """By the residual of each method, which is computed in NumPy."""
        method = get_method(name)
        assert isinstance(method, QuadraticWeighting) and method.residual is not None
        found = members("double", K)
        weights = jax.jit(functools.partial(getattr(mojd.jax, name), solver=solver))(found.gramian)
        residual = method.residual(np.asarray(weights), found.gramian)
        for family, value in zip(found.families, residual, strict=True):
            assert value <= CANCELLING.get((name, family), bounds.residual_bar(family)), family


class TestSingle:
    @pytest.mark.usefixtures("x64")
    @pytest.mark.parametrize(
        ("solver", "mapped", "K"),
        [
            *(("auto", True, K) for K in SIZES),
            *(("auto", False, K) for K in (3, 8)),
            ("xla", True, 3),
            ("xla", True, 16),
        ],
    )
    def test_solve(self, solver: str, mapped: bool, K: int) -> None:
        """Gramians that float32 has made indefinite, whose KKT conditions nothing meets to rounding.

        With linear terms in float64, so that the bounds are those of the core.
        """
        found = members("single", K)
        check_solutions(found, *solve(found, solver, mapped))

    @pytest.mark.parametrize(("solver", "K"), [("auto", 3), ("auto", 8), ("auto", 16), ("xla", 8)])
    def test_without_x64(self, solver: str, K: int) -> None:
        """Well-posed families that float32 can hold: as exact as its seven digits."""
        found = members("double", K)
        posed = [
            b
            for b, family in enumerate(found.families)
            if FAMILIES[family].well_posed and family not in ("random_tiny", "random_huge")
        ]
        gramian = found.gramian[posed].astype(np.float32)
        for name in ("upgrad", "mgda", "dualproj", "pcd"):
            if solver == "xla" and name != "upgrad":
                continue
            method = get_method(name)
            assert isinstance(method, QuadraticWeighting) and method.residual is not None
            weights = jax.jit(functools.partial(getattr(mojd.jax, name), solver=solver))(gramian)
            assert weights.dtype == np.float32
            assert method.residual(np.asarray(weights, float), gramian.astype(float)).max() <= 1e-6, name
