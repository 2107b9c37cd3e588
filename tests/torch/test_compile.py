"""torch.compile, export and opcheck: what PyTorch asks of an operator."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

import mojd
import mojd.torch
from mojd.weightings._registry import registered_weightings
from tests.torch.cases import CASES, gramian_of, jacobian, preference

NAMES = [m.name for m in registered_weightings() if not (m.is_stochastic or m.is_stateful)]
OPTIONS: dict[str, dict[str, Any]] = {m.name: dict(m.example_options) for m in registered_weightings()}


@pytest.fixture(autouse=True)
def forget_compiled_code() -> Iterator[None]:
    """Each test compiles from scratch: PyTorch gives up on code that it has compiled too often."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    everything: dict[str, Any] = {"backend": "aot_eager", "fullgraph": True} | options
    result: Callable[..., Any] = torch.compile(function, **everything)
    return result


def leaf(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return gramian_of(jacobian(*shape)).to(dtype).requires_grad_()


def arguments() -> list[tuple[str, tuple[Any, ...]]]:
    G = gramian_of(jacobian(4, 6))
    u = preference(G)
    tau, scales = torch.full((3,), 0.3, dtype=G.dtype), 1.0 + u
    return [
        ("upgrad", (G,)),
        ("upgrad", (leaf(4, 6), u.clone().requires_grad_())),
        ("upgrad", (leaf(2, 4, 6, dtype=torch.float32), u.expand(3, 1, 4))),
        ("dualproj", (leaf(4, 6),)),
        ("dualproj", (leaf(3, 4, 6), u.clone().requires_grad_())),
        ("mgda", (leaf(2, 4, 6),)),
        ("pcd", (leaf(4, 6),)),
        ("pcd", (leaf(2, 4, 6), None, None, 0.4, True)),
        ("pcd", (leaf(4, 6), tau.requires_grad_(), scales.requires_grad_(), 0.0, True)),
        ("project", (torch.eye(4, dtype=G.dtype, requires_grad=True), leaf(4, 6))),
        ("project", (jacobian(2, 1, 5, 4), leaf(3, 4, 6))),
    ]


class TestOpcheck:
    @pytest.mark.parametrize(("name", "given"), arguments())
    def test_differentiable(self, name: str, given: tuple[Any, ...]) -> None:
        opcheck(getattr(torch.ops.mojd, name).default, given)

    @pytest.mark.parametrize(("name", "given"), arguments())
    def test_derivatives(self, name: str, given: tuple[Any, ...]) -> None:
        detached = [a.detach() if isinstance(a, Tensor) else a for a in given]
        operator = getattr(torch.ops.mojd, name).default
        grad = torch.ones_like(operator(*detached))
        opcheck(getattr(torch.ops.mojd, f"{name}_backward").default, (grad, *detached))

    @pytest.mark.parametrize("name", [n for n in NAMES if n not in ("upgrad", "dualproj", "mgda", "pcd")])
    def test_others(self, name: str) -> None:
        operator = getattr(torch.ops.mojd, name).default
        given = (torch.linspace(1.0, 2.0, 5),) if name == "constant" else ()
        for G in (gramian_of(jacobian(5, 8)), gramian_of(jacobian(2, 5, 8)).float()):
            opcheck(operator, (G, *given))


class TestCompile:
    @pytest.mark.parametrize("backend", ["eager", "aot_eager"])
    @pytest.mark.parametrize("name", CASES)
    def test_weights_and_gradients(self, name: str, backend: str) -> None:
        def loss(J: Tensor) -> Tensor:
            return (CASES[name](J @ J.mT) * 2.0).sin().sum()

        J = jacobian(2, 4, 7).requires_grad_()
        expected = loss(J)
        found = compiled(loss, backend=backend)(J)
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)
        gradients = [torch.autograd.grad(value, J)[0] for value in (found, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-13)

    @pytest.mark.parametrize("name", NAMES)
    def test_every_pure_method(self, name: str) -> None:
        G = gramian_of(jacobian(5, 8))
        weights = compiled(lambda G: 2.0 * mojd.torch.weighting(name, G, **OPTIONS[name]))
        assert torch.equal(weights(G), 2.0 * getattr(mojd, name)(G, **OPTIONS[name]))

    def test_options(self) -> None:
        G = gramian_of(jacobian(5, 8))
        given = compiled(lambda G: mojd.torch.weighting("aligned_mtl", G, scale_mode="median"))(G)
        assert torch.equal(given, mojd.aligned_mtl(G, scale_mode="median"))
        u = preference(G)
        given = compiled(lambda G, u: mojd.torch.weighting("config", G, pref_vector=u))(G, u)
        assert torch.equal(given, mojd.config(G, u))

    def test_dynamic_shapes(self) -> None:
        """One graph for every K and every batch."""
        count = 0

        def counting(graph: Any, inputs: Any) -> Any:
            nonlocal count
            count += 1
            return graph.forward

        def weights(J: Tensor) -> tuple[Tensor, ...]:
            G = J @ J.mT
            return mojd.torch.upgrad(G), mojd.torch.mgda(G), mojd.torch.pcd(G, 0.1), mojd.torch.dualproj(G)

        function = compiled(weights, backend=counting, dynamic=True)
        for shape in ((2, 3, 7), (4, 5, 9), (3, 11, 6)):
            J = jacobian(*shape)
            for found, expected in zip(function(J), weights(J), strict=True):
                assert torch.equal(found, expected)
        assert count == 1

    def test_dynamic_shapes_backwards(self) -> None:
        function = compiled(lambda J: mojd.torch.upgrad(J @ J.mT).sin().sum(), dynamic=True)
        for size in (3, 5, 8):
            J = jacobian(size, 9).requires_grad_()
            gradients = [
                torch.autograd.grad(value, J)[0]
                for value in (function(J), mojd.torch.upgrad(J @ J.mT).sin().sum())
            ]
            torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-13)

    def test_a_threshold_that_changes(self) -> None:
        G = gramian_of(jacobian(4, 6))
        weights = compiled(lambda G, tau: mojd.torch.pcd(G, tau))
        for tau in (0.1, 0.2, 0.35):
            assert torch.equal(weights(G, tau), mojd.pcd(G, tau))
        varying = torch.tensor(0.3, dtype=G.dtype)
        torch.testing.assert_close(weights(G, varying), mojd.pcd(G, 0.3), rtol=1e-13, atol=0)

    @pytest.mark.slow
    @pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
    # What PyTorch itself does on the way.
    @pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
    def test_inductor(self) -> None:
        """The whole way, through a C++ compiler."""

        def loss(J: Tensor) -> Tensor:
            G = J @ J.mT
            return (mojd.torch.upgrad(G) @ G).square().sum()

        J = jacobian(4, 7).requires_grad_()
        found, expected = compiled(loss, backend="inductor")(J), loss(J)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
        gradients = [torch.autograd.grad(value, J)[0] for value in (found, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)

    def test_vmap_inside(self) -> None:
        G = gramian_of(jacobian(3, 4, 6))
        assert torch.equal(compiled(torch.func.vmap(mojd.torch.upgrad))(G), mojd.upgrad(G))

    def test_export(self) -> None:
        class Weights(torch.nn.Module):
            def forward(self, gramian: Tensor) -> Tensor:
                return mojd.torch.upgrad(gramian)

        G = gramian_of(jacobian(4, 6))
        program = torch.export.export(Weights(), (G,))
        assert torch.equal(program.module()(2.0 * G), mojd.upgrad(2.0 * G))
        assert "mojd.upgrad" in str(program.graph)


class TestShapesOfFakes:
    @pytest.mark.parametrize(
        ("name", "call"),
        [
            ("gramian", lambda G: mojd.torch.upgrad(G[:, :2])),
            ("pref_vector", lambda G: mojd.torch.upgrad(G, torch.ones(3, device="meta"))),
            ("tau", lambda G: mojd.torch.pcd(G, torch.ones(4, device="meta"))),
            ("scales", lambda G: mojd.torch.pcd(G, scales=torch.ones(3, device="meta"))),
            ("U", lambda G: mojd.torch.project(torch.ones(2, 3, device="meta"), G)),
            ("pref_vector", lambda G: mojd.torch.weighting("config", G, pref_vector=torch.ones(2))),
        ],
    )
    def test_errors_are_those_of_mojd(self, name: str, call: Any) -> None:
        """On the meta device, that is before anything is computed, and while a graph is traced."""
        message = rf"{name} must have shape"
        meta = torch.empty(4, 4, device="meta", requires_grad=True)
        with pytest.raises(mojd.InvalidInputError, match=message):
            call(meta)
        with pytest.raises(Exception, match=message):
            compiled(lambda G: call(G.to("meta")))(torch.eye(4))

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64])
    @pytest.mark.parametrize("name", NAMES)
    def test_shapes_and_dtypes(self, name: str, dtype: torch.dtype) -> None:
        G = torch.eye(5, dtype=dtype).expand(2, 5, 5).contiguous()
        options = OPTIONS[name]
        real = mojd.torch.weighting(name, G, **options)
        from torch._subclasses.fake_tensor import FakeTensorMode

        with FakeTensorMode() as mode:
            fake = mojd.torch.weighting(name, mode.from_tensor(G), **options)
        assert (fake.shape, fake.dtype, fake.stride()) == (real.shape, real.dtype, real.stride())
