"""How kernels are compiled: entry points to machine code, cached on disk; all else is inlined there.

Left to itself, numba optimises and compiles every function together with all that it calls, before
its callers do so again: a chain of ten functions is compiled ten times. Inner functions are never
called from Python, and so they are kept as they are until an entry point takes them in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler


class _SourceLibrary(JITCodeLibrary):
    """The LLVM code of a function and of what it calls, for others to optimise and compile."""

    def finalize(self) -> None:
        """Link what the function calls, and leave it at that."""
        self._raise_if_finalized()
        for library in dict.fromkeys(self._linking_libraries):
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        self._finalized = True


class _InnerCompiler(Compiler):
    """Numba's compiler, stopped before machine code."""

    def __init__(self, typing: Any, target: Any, library: Any, *rest: Any) -> None:
        *_, flags, _ = rest
        flags.no_compile = True
        super().__init__(typing, target, _SourceLibrary(target.codegen(), "inner"), *rest)

    def compile_extra(self, function: Callable[..., Any]) -> Any:
        """Compile, and stand in for the callable that numba expects and nobody calls."""
        result = super().compile_extra(function)
        # Any built-in method that is not equal to another will do; this one takes no arguments.
        unused = [].clear
        self.state.targetctx.insert_user_function(unused, result.fndesc, [result.library])
        return result._replace(entry_point=unused)


# Reordering of sums, for speed, where no error-free transformation is at stake.
_FAST = {"reassoc", "contract", "nsz"}

# Kernels allocate nothing. Without this, numba counts references to every view of an array, atomically:
# half of the time of a small problem.
_COMMON = {"error_model": "numpy", "_nrt": False}

_INNER = {
    **_COMMON,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
    "pipeline_class": _InnerCompiler,
}

inner: Callable[..., Any] = njit(**_INNER)
fast_inner: Callable[..., Any] = njit(fastmath=_FAST, **_INNER)


def entry_point(signature: Any) -> Callable[..., Any]:
    """Compile a function for `signature` at import, or load it from the cache; it drops the GIL."""
    decorator: Callable[..., Any] = njit(signature, cache=True, nogil=True, **_COMMON)
    return decorator
