"""The weightings as functions of tensors: they are mojd's own, whichever way a call takes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import mojd
import mojd.torch
from mojd.torch._calls import is_direct
from mojd.weightings._registry import registered_weightings
from tests.torch.cases import gramian_of, jacobian, preference

# What mojd.torch has, what mojd has, and a call of either.
PAIRS: dict[str, tuple[Any, Any, Callable[[Any, Tensor], Tensor]]] = {
    "upgrad": (mojd.torch.upgrad, mojd.upgrad, lambda f, G: f(G)),
    "upgrad, preferring": (mojd.torch.upgrad, mojd.upgrad, lambda f, G: f(G, preference(G))),
    "dualproj": (mojd.torch.dualproj, mojd.dualproj, lambda f, G: f(G)),
    "dualproj, preferring": (mojd.torch.dualproj, mojd.dualproj, lambda f, G: f(G, preference(G))),
    "mgda": (mojd.torch.mgda, mojd.mgda, lambda f, G: f(G)),
    "pcd": (mojd.torch.pcd, mojd.pcd, lambda f, G: f(G)),
    "pcd, tau": (mojd.torch.pcd, mojd.pcd, lambda f, G: f(G, torch.full((G.shape[-1] - 1,), 0.4))),
    "pcd, rescaled": (
        mojd.torch.pcd,
        mojd.pcd,
        lambda f, G: f(G, tau=0.5, scales=1.0 + preference(G), rescale=True),
    ),
    "project": (mojd.torch.project, mojd.project, lambda f, G: f(torch.eye(G.shape[-1]), G)),
    "project, one": (mojd.torch.project, mojd.project, lambda f, G: f(torch.ones(G.shape[-1]), G)),
}
OTHERS = [
    method
    for method in registered_weightings()
    if not (method.is_stochastic or method.is_stateful)
    and method.name not in ("upgrad", "dualproj", "mgda", "pcd")
]


def on_tape(gramian: Tensor) -> Tensor:
    return gramian.clone().requires_grad_()


class TestSameAsMojd:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("shape", [(1, 3), (2, 4), (5, 8), (6, 3), (3, 4, 6), (2, 1, 4, 6)])
    @pytest.mark.parametrize("name", PAIRS)
    def test_on_the_short_way_and_through_the_operator(
        self, name: str, shape: tuple[int, ...], dtype: torch.dtype
    ) -> None:
        """Bit for bit: both ways end in the same function of mojd.

        But for one projected vector, which the operator takes as a row: G·u is then summed in another order.
        """
        ours, theirs, call = PAIRS[name]
        gramian = gramian_of(jacobian(*shape)).to(dtype)
        expected = call(theirs, gramian)
        direct, through = call(ours, gramian), call(ours, on_tape(gramian))
        assert through.requires_grad
        for weights in (direct, through):
            assert weights.dtype == dtype
            assert weights.shape == expected.shape
            if name == "project, one":
                rounding = 1e-12 if dtype == torch.float64 else torch.finfo(dtype).eps
                torch.testing.assert_close(weights.detach(), expected, rtol=rounding, atol=0)
            else:
                assert torch.equal(weights.detach(), expected)

    @pytest.mark.parametrize("method", OTHERS, ids=lambda method: method.name)
    def test_every_other_method(self, method: Any) -> None:
        gramian = gramian_of(jacobian(2, 5, 8))
        options = dict(method.example_options)
        expected = method.weights(gramian, **options)
        found = mojd.torch.weighting(method.name, gramian, **options)
        through = mojd.torch.weighting(method.name, on_tape(gramian), **options)
        assert torch.equal(found, expected)
        assert torch.equal(through.detach(), expected)

    @pytest.mark.parametrize("name", ["upgrad", "dualproj", "mgda", "pcd"])
    def test_by_name(self, name: str) -> None:
        gramian = gramian_of(jacobian(4, 6))
        assert torch.equal(mojd.torch.weighting(name, gramian), getattr(mojd, name)(gramian))
        assert mojd.torch.weighting(name, on_tape(gramian)).requires_grad

    def test_options_reach_the_method(self) -> None:
        gramian = gramian_of(jacobian(5, 8))
        for name, options in (
            ("cagrad", {"c": 0.2}),
            ("krum", {"n_selected": 2}),
            ("aligned_mtl", {"scale_mode": "rmse"}),
            ("nash_mtl", {"max_norm": 0.5}),
            ("config", {"pref_vector": [1.0, 2.0, 3.0, 4.0, 5.0]}),
            ("constant", {"weights": 3}),
        ):
            expected = getattr(mojd, name)(gramian, **options)
            for given in (gramian, on_tape(gramian)):
                assert torch.equal(mojd.torch.weighting(name, given, **options).detach(), expected), name

    @pytest.mark.parametrize("name", PAIRS)
    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_what_is_not_finite_propagates(self, name: str, bad: float) -> None:
        """One bad problem of a batch is NaN, and the others are what they are alone."""
        ours, _, call = PAIRS[name]
        gramian = gramian_of(jacobian(3, 4, 6))
        alone = call(ours, gramian)
        gramian[1, 2, 2] = bad
        for given in (gramian, on_tape(gramian)):
            weights = call(ours, given).detach()
            assert weights[1].isnan().all()
            assert torch.equal(weights[0], alone[0])
            assert torch.equal(weights[2], alone[2])


class TestShortWay:
    def test_taken_when_nothing_watches(self) -> None:
        gramian = gramian_of(jacobian(3, 5))
        assert is_direct(gramian, None, 0.5)
        with torch.no_grad():
            assert is_direct(on_tape(gramian))
        with torch.inference_mode():
            assert is_direct(gramian)

    def test_not_taken_on_the_tape(self) -> None:
        gramian = gramian_of(jacobian(3, 5))
        assert not is_direct(on_tape(gramian))
        assert not is_direct(gramian, torch.ones(3, requires_grad=True))

    def test_not_taken_under_transforms_and_traces(self) -> None:
        from torch.fx.experimental.proxy_tensor import make_fx

        seen: list[bool] = []

        def weights(gramian: Tensor) -> Tensor:
            seen.append(is_direct(gramian))
            return mojd.torch.upgrad(gramian)

        gramian = gramian_of(jacobian(3, 5))
        torch.func.vmap(weights)(gramian[None])
        torch.func.grad(lambda G: weights(G).sum())(gramian)
        graph = make_fx(weights)(gramian)
        assert seen == [False, False, False]
        assert torch.equal(graph(2.0 * gramian), mojd.upgrad(2.0 * gramian))
        assert "mojd.upgrad" in graph.code

    def test_no_tape_is_left_under_no_grad(self) -> None:
        with torch.no_grad():
            assert not mojd.torch.upgrad(on_tape(gramian_of(jacobian(3, 5)))).requires_grad


class TestVmap:
    @pytest.mark.parametrize("name", PAIRS)
    def test_equals_the_batch(self, name: str) -> None:
        ours, _, call = PAIRS[name]
        gramian = gramian_of(jacobian(4, 3, 5))
        assert torch.equal(torch.func.vmap(partial(call, ours))(gramian), call(ours, gramian))

    @pytest.mark.parametrize("name", PAIRS)
    def test_nested_with_an_inner_axis(self, name: str) -> None:
        ours, _, call = PAIRS[name]
        gramian = gramian_of(jacobian(4, 2, 3, 5))
        mapped = torch.func.vmap(torch.func.vmap(partial(call, ours), in_dims=2), in_dims=3)
        expected = call(ours, gramian.transpose(0, 1)).transpose(0, 1)
        moved = gramian.permute(2, 3, 1, 0)
        assert torch.equal(mapped(moved), expected)

    def test_axes_of_either_argument(self) -> None:
        """vmap's axis comes before a batch axis that only the other argument has."""
        gramian, u = gramian_of(jacobian(3, 4, 6)), jacobian(5, 3, 4).abs()
        expected = torch.stack([mojd.upgrad(gramian, row) for row in u])
        assert torch.equal(torch.func.vmap(mojd.torch.upgrad, (None, 0))(gramian, u), expected)
        both = torch.func.vmap(mojd.torch.upgrad, (0, 1))(gramian, u)
        assert torch.equal(both, torch.stack([mojd.upgrad(gramian[i], u[:, i]) for i in range(3)]))
        batched = torch.func.vmap(mojd.torch.upgrad, (0, None))(gramian[:, None], u[:, 0])
        rows = torch.stack([mojd.upgrad(gramian[i], u[:, 0]) for i in range(3)])
        assert torch.equal(batched, rows)

    def test_rows_that_share_a_gramian(self) -> None:
        gramian, rows = gramian_of(jacobian(4, 6)), jacobian(5, 4)
        mapped = torch.func.vmap(mojd.torch.project, (0, None))(rows, gramian)
        torch.testing.assert_close(mapped, mojd.project(rows, gramian), rtol=1e-14, atol=0)

    def test_tau_and_scales(self) -> None:
        gramian = gramian_of(jacobian(3, 5))
        tau, scales = torch.tensor([0.1, 0.5, 0.9]), jacobian(3, 3).abs()
        mapped = torch.func.vmap(lambda t, s: mojd.torch.pcd(gramian, t, scales=s))(tau, scales)
        rows = [mojd.pcd(gramian, float(t), scales=s) for t, s in zip(tau, scales, strict=True)]
        torch.testing.assert_close(mapped, torch.stack(rows), rtol=1e-14, atol=0)

    @pytest.mark.parametrize("method", OTHERS, ids=lambda method: method.name)
    def test_every_other_method(self, method: Any) -> None:
        gramian = gramian_of(jacobian(3, 5, 8))
        options = dict(method.example_options)
        mapped = torch.func.vmap(lambda G: mojd.torch.weighting(method.name, G, **options))(gramian)
        assert torch.equal(mapped, method.weights(gramian, **options))


class TestErrors:
    @pytest.mark.parametrize("taped", [False, True])
    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda G: mojd.torch.upgrad(G[:, :2]), r"gramian must have shape \(..., K, K\).*mojd.aggregate"),
            (lambda G: mojd.torch.upgrad(G, torch.ones(4)), r"pref_vector must have shape \(..., 3\)"),
            (lambda G: mojd.torch.upgrad(G, [1.0, -1.0, 0.0]), "pref_vector .*negative entry -1.0 at index"),
            (lambda G: mojd.torch.dualproj(-G), "negative diagonal entry"),
            (lambda G: mojd.torch.mgda(G[0]), "gramian must have shape"),
            (lambda G: mojd.torch.pcd(G, 1.5), r"tau must lie in \[0, 1\], got 1.5"),
            (lambda G: mojd.torch.pcd(G, torch.ones(3)), r"tau must have shape \(..., 2\)"),
            (lambda G: mojd.torch.pcd(G, scales=-torch.ones(3)), "scales .*negative entry"),
            (lambda G: mojd.torch.project(torch.ones(2), G), r"U must have shape \(..., 3\)"),
            (lambda G: mojd.torch.project(torch.ones(2, 1, 3), G.expand(3, 3, 3)), "do not broadcast"),
            (lambda G: mojd.torch.weighting("cagrad", G, c=-1.0), "c must"),
        ],
    )
    def test_are_those_of_mojd(self, call: Any, message: str, taped: bool) -> None:
        gramian = gramian_of(jacobian(3, 5))
        with pytest.raises(mojd.InvalidInputError, match=message):
            call(on_tape(gramian) if taped else gramian)

    def test_lists_and_arrays(self) -> None:
        for call in (mojd.torch.upgrad, mojd.torch.dualproj, mojd.torch.mgda, mojd.torch.pcd):
            with pytest.raises(mojd.InvalidTypeError, match=r"gramian must be a torch.Tensor, got list"):
                call([[1.0]])  # type: ignore[arg-type]
        with pytest.raises(mojd.InvalidTypeError, match=r"U must be a torch.Tensor, got ndarray"):
            mojd.torch.project(torch.eye(2).numpy(), torch.eye(2))  # type: ignore[arg-type]

    def test_names_of_methods(self) -> None:
        gramian = torch.eye(3)
        with pytest.raises(mojd.InvalidInputError, match="did you mean 'cagrad'"):
            mojd.torch.weighting("cagard", gramian)
        for name in ("pcgrad", "gradvac"):
            with pytest.raises(mojd.InvalidInputError, match="random numbers or keeps a state"):
                mojd.torch.weighting(name, gramian)
        with pytest.raises(mojd.InvalidInputError, match="does not go from a Gramian to weights"):
            mojd.torch.weighting("trimmed_mean", gramian)

    def test_names_of_options(self) -> None:
        with pytest.raises(mojd.InvalidTypeError, match=r"n_byzantin is no option of krum.*n_byzantine"):
            mojd.torch.weighting("krum", torch.eye(4), n_byzantin=1)
        with pytest.raises(mojd.InvalidTypeError, match="constant needs weights="):
            mojd.torch.weighting("constant", on_tape(torch.eye(3)))


class TestRegistration:
    def test_every_pure_method_has_an_operator(self) -> None:
        for method in registered_weightings():
            has_one = hasattr(torch.ops.mojd, method.name)
            assert has_one == (not (method.is_stochastic or method.is_stateful)), method.name

    def test_a_method_that_is_registered_late(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from mojd.weightings import _registry

        def tripled(gramian: Any, *, factor: float = 3.0, nonfinite: str = "raise") -> Any:
            del nonfinite
            return gramian.diagonal(dim1=-2, dim2=-1) * factor

        method = _registry.Weighting(name="tripled", title="", summary="", source="", weights=tripled)
        # Its annotations are strings, and mean what they mean there.
        monkeypatch.setitem(_registry._METHODS, "tripled", method)
        gramian = on_tape(gramian_of(jacobian(3, 5)))
        found = mojd.torch.weighting("tripled", gramian, factor=2.0)
        assert torch.equal(found.detach(), 2.0 * gramian.detach().diagonal())
        assert hasattr(torch.ops.mojd, "tripled")

    def test_an_option_that_no_schema_can_hold(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from mojd.weightings import _registry

        def odd(gramian: Any, *, table: dict[str, int], nonfinite: str = "raise") -> Any:
            return gramian

        method = _registry.Weighting(name="odd", title="", summary="", source="", weights=odd)
        monkeypatch.setitem(_registry._METHODS, "odd", method)
        with pytest.raises(mojd.InvalidTypeError, match="option table is annotated with dict"):
            mojd.torch.weighting("odd", torch.eye(2))
