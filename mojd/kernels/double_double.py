"""Products whose rounding errors are kept, and the bits of a float."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from mojd.kernels import lanes
from mojd.kernels.compiling import inner


@intrinsic
def fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """Round a·b + c once (LLVM's fma; Python's math has none before 3.13)."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return types.float64(types.float64, types.float64, types.float64), codegen


@inner
def difference_of_products(a, b, c, d):
    """Return a·b − c·d within 1.5 ulp, without cancellation (Kahan's algorithm)."""
    cd = c * d
    return fma(a, b, -cd) - fma(c, d, -cd)


@inner
def add_product(total, error, a, b):
    """Add a·b in every lane to total + error, whose second part keeps what rounding takes from the first.

    A step of Dot2 of Ogita, Rump and Oishi (SIAM J. Sci. Comput. 26, 2005): as accurate as if the sum
    were computed in twice the working precision.
    """
    product = lanes.multiply(a, b)
    product_error = lanes.fma(a, b, lanes.subtract(lanes.splat(0.0), product))
    new = lanes.add(total, product)
    part = lanes.subtract(new, total)
    rounding = lanes.add(lanes.subtract(total, lanes.subtract(new, part)), lanes.subtract(product, part))
    return new, lanes.add(error, lanes.add(rounding, product_error))


@intrinsic
def bits_of(typingctx: Any, value: Any) -> Any:
    """Return the 64 bits of a float as an integer."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(64))

    return types.int64(types.float64), codegen


@intrinsic
def float_of(typingctx: Any, bits: Any) -> Any:
    """Return the float that has these 64 bits."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.DoubleType())

    return types.float64(types.int64), codegen
