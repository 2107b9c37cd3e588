"""What an import costs, what is public, and which module may import which."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import mojd
import mojd.compare
import mojd.properties
import mojd.solvers
import mojd.weightings

PACKAGE = Path(mojd.__file__).parent
OPTIONAL = (
    "torch",
    "jax",
    "cupy",
    "osqp",
    "cvxpy",
    "qpsolvers",
    "hypothesis",
    "matplotlib",
    "typer",
    "rich",
    "numba",
    "scipy",
)

# Every module of mojd belongs to the first layer whose prefix its name has, and imports from its own layer
# and earlier ones only. `kernels` is apart: it imports nothing but itself.
LAYERS = (
    ("mojd.errors",),
    ("mojd._arrays", "mojd._terminal"),
    ("mojd._checks",),
    ("mojd.certificates", "mojd.gramian", "mojd.status"),
    ("mojd.qp",),
    ("mojd.kernels",),
    ("mojd.solvers",),
    ("mojd.weightings",),
    ("mojd.properties",),
    ("mojd.compare",),
    ("mojd.cli",),
    ("mojd.torch", "mojd.jax"),
)


def run(code: str) -> str:
    """Run code in a fresh interpreter and return what it prints."""
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=PACKAGE.parent).stdout


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_of(name: str) -> set[str]:
    """All modules of mojd that a module imports, on whatever line, but not for type checking only."""
    tree = ast.parse(SOURCES[name].read_text(encoding="utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            base = node.module or ""
            # `from mojd import _checks` imports a module, `from mojd.qp import NNQP` does not.
            submodules = {f"{base}.{alias.name}" for alias in node.names} & set(SOURCES)
            found |= submodules or {base}
    return {module for module in found if module.split(".")[0] == "mojd"}


def layer(name: str) -> int:
    for index, prefixes in enumerate(LAYERS):
        if any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes):
            return index
    raise AssertionError(f"{name} belongs to no layer: say in this test where it does")


class TestImport:
    def test_nothing_optional_is_imported(self) -> None:
        code = "import json, sys, mojd; print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
        loaded = set(json.loads(run(code)))
        assert not loaded & set(OPTIONAL)

    def test_the_kernels_are_loaded_by_the_first_call(self) -> None:
        code = """
import sys, mojd
mojd.NNQP([[1.0]], [1.0]), mojd.available_solvers(), mojd.init_normaliser(2), mojd.gramian([[1.0]])
before = "numba" in sys.modules
mojd.upgrad([[1.0]])
print(before, "numba" in sys.modules)
"""
        assert run(code).split() == ["False", "True"]

    @pytest.mark.parametrize("framework", ["torch", "jax"])
    def test_a_call_imports_no_framework(self, framework: str) -> None:
        code = (
            f"import sys, mojd; mojd.upgrad([[2.0, -1.0], [-1.0, 2.0]]); print({framework!r} in sys.modules)"
        )
        assert run(code).strip() == "False"

    def test_it_is_quick(self) -> None:
        """DESIGN: under 0.3 s beyond NumPy's own import."""
        code = """
import time, numpy
start = time.perf_counter()
import mojd
print(time.perf_counter() - start)
"""
        assert min(float(run(code)) for _ in range(3)) < 0.3

    def test_the_adapter_says_what_is_missing(self) -> None:
        code = """
import sys
sys.modules["torch"] = None
try:
    import mojd.torch
except ImportError as error:
    print(type(error).__name__, error)
"""
        assert run(code).startswith("MissingDependencyError mojd.torch needs PyTorch")

    def test_checks_are_loaded_on_demand(self) -> None:
        loaded = "'mojd.properties' in sys.modules, 'hypothesis' in sys.modules"
        code = f"import sys, mojd; print({loaded}); mojd.check, mojd.properties.conflict; print({loaded})"
        assert run(code).split("\n")[:2] == ["False False", "True False"]

    def test_recording_is_loaded_on_demand(self) -> None:
        loaded = "'mojd.compare' in sys.modules"
        code = f"import sys, mojd; before = {loaded}; mojd.record; print(before, {loaded})"
        assert run(code).split() == ["False", "True"]


class TestPublicNames:
    def test_all_is_what_is_defined(self) -> None:
        """Modules, and what starts with an underscore, are not for users."""
        code = """
import json, types, mojd
public = {n for n, v in vars(mojd).items() if not n.startswith("_") and not isinstance(v, types.ModuleType)}
print(json.dumps(sorted(public)))
"""
        defined = set(json.loads(run(code))) - {"TYPE_CHECKING", "Any"}
        # Loaded on first use, by __getattr__.
        assert set(mojd.__all__) == defined | {"check", "properties", "record"}

    def test_dir_lists_what_is_loaded_on_demand(self) -> None:
        code = (
            "import mojd; print({'check', 'properties', 'record', 'upgrad', '__version__'} <= set(dir(mojd)))"
        )
        assert run(code).strip() == "True"

    @pytest.mark.parametrize(
        "module",
        [mojd, mojd.solvers, mojd.weightings, mojd.properties, mojd.compare],
        ids=lambda m: m.__name__,
    )
    def test_all_is_sorted_and_exists(self, module: ModuleType) -> None:
        self.check_names(module)

    @pytest.mark.parametrize("framework", ["torch", "jax"])
    def test_names_of_the_adapters(self, framework: str) -> None:
        pytest.importorskip(framework)
        self.check_names(importlib.import_module(f"mojd.{framework}"))

    def check_names(self, module: ModuleType) -> None:
        names: list[str] = list(module.__all__)
        assert len(names) == len(set(names))
        assert names == sorted(names, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
        for name in names:
            assert getattr(module, name) is not None

    def test_names_of_the_design(self) -> None:
        wanted = [
            "NNQP",
            "Solution",
            "Status",
            "solve",
            "available_solvers",
            "project",
            "project_problem",
            "upgrad",
            "upgrad_problem",
            "dualproj",
            "dualproj_problem",
            "mgda",
            "mgda_problem",
            "pcd",
            "pcd_problem",
            "gramian",
            "aggregate",
            "init_normaliser",
            "normalise",
            "record",
            "check",
        ]
        assert set(wanted) <= set(mojd.__all__)

    def test_unknown_names(self) -> None:
        with pytest.raises(AttributeError, match="module 'mojd' has no attribute 'upgrade'"):
            mojd.upgrade  # noqa: B018

    def test_every_public_object_says_what_it_does(self) -> None:
        for name in mojd.__all__:
            thing: Any = getattr(mojd, name)
            assert thing.__doc__, name
            first = thing.__doc__.strip().splitlines()[0]
            assert first.endswith((".", ":")), name

    def test_the_types_are_shipped(self) -> None:
        assert (PACKAGE / "py.typed").exists()


class TestLayers:
    @pytest.mark.parametrize("name", [name for name in SOURCES if name != "mojd"])
    def test_imports_point_one_way(self, name: str) -> None:
        own = layer(name)
        for imported in imports_of(name):
            if imported == "mojd":
                assert own >= layer("mojd.cli"), f"{name} imports the package that imports it"
            else:
                assert layer(imported) <= own, f"{name} imports {imported}, which stands above it"

    @pytest.mark.parametrize("name", [name for name in SOURCES if name.startswith("mojd.kernels")])
    def test_kernels_import_kernels_only(self, name: str) -> None:
        assert all(imported.startswith("mojd.kernels") for imported in imports_of(name))

    def test_below_the_solvers_nothing_needs_a_kernel(self) -> None:
        below = [name for name in SOURCES if name != "mojd" and layer(name) < layer("mojd.kernels")]
        assert below
        for name in below:
            assert not any(imported.startswith("mojd.kernels") for imported in imports_of(name)), name

    def test_a_violation_would_be_seen(self) -> None:
        """The parser of this test finds imports inside functions and of whole modules."""
        assert "mojd.kernels" in imports_of("mojd.solvers._kernels")
        assert "mojd._checks" in imports_of("mojd.solvers.dispatch")
        assert layer("mojd.weightings.pcd") > layer("mojd.solvers.dispatch") > layer("mojd.qp")
