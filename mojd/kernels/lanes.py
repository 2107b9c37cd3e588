"""Eight float64 numbers in one SIMD register, as a numba type.

Small factorisations leave vector units idle: their loops are short and of every length. Eight
problems side by side, one in each lane, turn every scalar operation into one vector operation.
Arrays of lanes are flat float64 arrays; entry i holds elements 8·i to 8·i + 7. LLVM maps a vector
to one 512-bit register, two of 256 or four of 128, whatever the machine has.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

WIDTH = 8
_VECTOR = ir.VectorType(ir.DoubleType(), WIDTH)


class LanesType(types.Type):
    """The type of eight float64 lanes."""

    def __init__(self) -> None:
        super().__init__(name="Lanes")


LANES = LanesType()


@register_model(LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _VECTOR)


def _pointer(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    element = builder.gep(data, [builder.mul(index, ir.Constant(index.type, WIDTH))])
    return builder.bitcast(element, _VECTOR.as_pointer())


@intrinsic
def load(typing: Any, array: Any, index: Any) -> Any:
    """Return entry `index` of an array of lanes."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_pointer(context, builder, signature.args[0], *arguments), align=8)

    return LANES(array, types.intp), codegen


@intrinsic
def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """Write entry `index` of an array of lanes."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, index, value = arguments
        builder.store(value, _pointer(context, builder, signature.args[0], array, index), align=8)
        return context.get_dummy_value()

    return types.void(array, types.intp, LANES), codegen


def _copies(builder: Any, value: Any) -> Any:
    empty = ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(empty, value, ir.Constant(ir.IntType(32), 0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [0] * WIDTH)
    return builder.shuffle_vector(first, empty, mask)


@intrinsic
def splat(typing: Any, value: Any) -> Any:
    """Return eight copies of a number."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _copies(builder, arguments[0])

    return LANES(types.float64), codegen


@intrinsic
def spread(typing: Any, array: Any, index: Any) -> Any:
    """Return eight copies of element `index` ≥ 0 of a flat array.

    Plain indexing would ask of every index whether it is negative.
    """

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, index = arguments
        data = context.make_array(signature.args[0])(context, builder, array).data
        element = builder.load(builder.gep(data, [index]))
        return _copies(builder, element)

    return LANES(array, types.intp), codegen


def _operation(name: str, count: int, build: Any, text: str) -> Any:
    """Make an intrinsic of `count` vectors out of what builds its instruction."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return build(builder, *arguments)

    def binary(typing: Any, a: Any, b: Any) -> Any:
        return LANES(LANES, LANES), codegen

    def ternary(typing: Any, a: Any, b: Any, c: Any) -> Any:
        return LANES(LANES, LANES, LANES), codegen

    typed: Any = binary if count == 2 else ternary
    typed.__name__, typed.__doc__ = name, text
    return intrinsic(typed)


def _call(name: str, count: int) -> Any:
    """Build a call of LLVM's vector intrinsic `name`."""

    def build(builder: Any, *arguments: Any) -> Any:
        kind = ir.FunctionType(_VECTOR, [_VECTOR] * count)
        function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{WIDTH}f64")
        return builder.call(function, arguments)

    return build


def _negated_fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    return _call("fma", 3)(builder, builder.fneg(a), b, c)


def _reciprocal_above(builder: Any, pivot: Any, limit: Any) -> Any:
    one, zero = (ir.Constant(_VECTOR, [value] * WIDTH) for value in (1.0, 0.0))
    return builder.select(builder.fcmp_ordered(">", pivot, limit), builder.fdiv(one, pivot), zero)


add = _operation("add", 2, lambda builder, a, b: builder.fadd(a, b), "Return a + b.")
subtract = _operation("subtract", 2, lambda builder, a, b: builder.fsub(a, b), "Return a − b.")
multiply = _operation("multiply", 2, lambda builder, a, b: builder.fmul(a, b), "Return a·b.")
reciprocal_above = _operation(
    "reciprocal_above", 2, _reciprocal_above, "Return 1/a where a > b, and 0 elsewhere."
)
maximum = _operation("maximum", 2, _call("maxnum", 2), "Return the greater; the number if one is NaN.")
fma = _operation("fma", 3, _call("fma", 3), "Return a·b + c, rounded once.")
negated_fma = _operation("negated_fma", 3, _negated_fma, "Return c − a·b, rounded once.")
