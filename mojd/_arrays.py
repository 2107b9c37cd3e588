"""Arrays of any framework in, arrays of the same framework out, without importing one.

CPU arrays are viewed as NumPy arrays (no copy); arrays on a device stay there and are worked on
through their array-API namespace. A framework is looked up in :data:`sys.modules`: if the caller
has not imported it, no argument can be one of its arrays.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Coroutine, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mojd.errors import InvalidTypeError

Array = Any
FloatArray = NDArray[np.float64]

_FLOAT64, _FLOAT32 = np.dtype(np.float64), np.dtype(np.float32)
FLOATS = ("float16", "bfloat16", "float32", "float64", "longdouble", "float128")


def _torch_tensor(array: Array) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def _jax_array(array: Array) -> bool:
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(array, jax.Array)


def _cupy_array(array: Array) -> bool:
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(array, cupy.ndarray)


def is_traced(value: Any) -> bool:
    """Whether `value` is an array that JAX traces, in jit, vmap or grad: it has a shape and no numbers."""
    return _jax_array(value) and isinstance(value, sys.modules["jax"].core.Tracer)


def holds_traced(value: Any) -> bool:
    """Whether `value` is traced by JAX, or is a state or a sequence that holds something traced."""
    if isinstance(value, tuple | list):
        return any(holds_traced(part) for part in value)
    return is_traced(value)


def _jax_platform(array: Array) -> str:
    return str(next(iter(array.devices())).platform)


def is_array(value: Any) -> bool:
    """Whether `value` is an array already, as opposed to a list, a number or a data frame."""
    if isinstance(value, np.generic):
        return False
    return isinstance(value, np.ndarray) or hasattr(value, "__array_namespace__") or _torch_tensor(value)


def is_on_device(array: Array) -> bool:
    """Whether `array` lives where the CPU kernels can't see it; traced values live nowhere yet."""
    if isinstance(array, np.ndarray):
        return False
    if _torch_tensor(array):
        return bool(array.device.type != "cpu")
    if _cupy_array(array):
        return True
    if _jax_array(array):
        return is_traced(array) or _jax_platform(array) != "cpu"
    return "CPU" not in str(getattr(array, "device", "CPU")).upper()


def dtype_name(array: Array) -> str:
    """Return the name of the dtype, the same for every framework: 'float32', 'int64', ..."""
    return _name_of(type(array.dtype).__module__, array.dtype)


@functools.lru_cache(maxsize=64)
def _name_of(library: str, dtype: Any) -> str:
    # The name keeps dtypes of different libraries apart, some of which warn when they are compared.
    del library
    return str(dtype).rsplit(".", maxsplit=1)[-1]


def _from_sequence(value: Any, name: str) -> Array:
    """Turn a list, a number or a data frame into an array."""
    if value is None:
        raise InvalidTypeError(f"{name} must hold real numbers, got None")
    if isinstance(value, Iterator | Coroutine):
        advice = "await it" if isinstance(value, Coroutine) else "pass a list of what it yields"
        raise InvalidTypeError(f"{name} must hold real numbers, got a {type(value).__name__}; {advice}")
    if hasattr(value, "shape") and hasattr(value, "dtype") and not hasattr(value, "__array__"):
        raise InvalidTypeError(
            f"{name} must hold real numbers, got a {type(value).__name__} of shape {value.shape}, which has "
            "none; pass it to jax.eval_shape together with the function"
        )
    value = _stacked(value, name)
    if _torch_tensor(value):
        return value
    if "jax" in sys.modules and holds_traced(value):
        return sys.modules["jax"].numpy.asarray(value)
    try:
        return np.asarray(value)
    except ValueError as error:
        if all(is_array(part) for part in value):
            shapes = [tuple(part.shape) for part in value]
            raise InvalidTypeError(_uneven(name, shapes, "np.concatenate")) from None
        raise InvalidTypeError(f"{name} is a nested sequence of uneven lengths: {error}") from None


def _stacked(value: Any, name: str) -> Any:
    """Stack tensors of PyTorch in nested lists and tuples; leave anything else as it is."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(value, list | tuple):
        return value
    parts = [_stacked(part, name) if isinstance(part, list | tuple) else part for part in value]
    tensors = [part for part in parts if isinstance(part, torch.Tensor)]
    if not tensors:
        return value
    # Numbers take the dtype of the tensors beside them, as in torch's own arithmetic.
    first = tensors[0]
    dtype = first.dtype if first.is_floating_point() else None
    try:
        parts = [
            part
            if isinstance(part, torch.Tensor)
            else torch.as_tensor(part, dtype=dtype, device=first.device)
            for part in parts
        ]
        shapes = [tuple(part.shape) for part in parts]
        if len(set(shapes)) == 1:
            return torch.stack(parts)
    except (RuntimeError, TypeError, ValueError) as error:
        raise InvalidTypeError(f"{name} is a sequence of tensors that can't be stacked: {error}") from None
    raise InvalidTypeError(_uneven(name, shapes, "torch.cat"))


def _uneven(name: str, shapes: list[tuple[int, ...]], join: str) -> str:
    shown = ", ".join(map(str, shapes[:4])) + (", ..." if len(shapes) > 4 else "")
    return (
        f"{name} is a sequence of arrays of the uneven shapes {shown}; if they are the parts of one vector, "
        f"such as parameters, join them: {join}([part.reshape(-1) for part in {name}])"
    )


def as_array(value: Any, name: str) -> Array:
    """Return `value` if it is an array of real numbers; turn lists and the like into one.

    Lists and tuples of PyTorch tensors become a tensor, everything else an array of NumPy.

    Raises
    ------
    InvalidTypeError
        If it holds anything else.
    """
    if not is_array(value):
        value = _from_sequence(value, name)
    if isinstance(value, np.ma.MaskedArray):
        raise InvalidTypeError(
            f"{name} is a masked array of shape {value.shape}: there is no weight for a gradient that is "
            "partly unknown; fill it first, or leave the objective out"
        )
    if isinstance(value, np.ndarray) and not value.dtype.isnative:
        value = value.astype(value.dtype.newbyteorder("="))
    kind = dtype_name(value)
    if kind not in FLOATS and not kind.startswith(("int", "uint")):
        shape = tuple(value.shape)
        raise InvalidTypeError(
            f"{name} must hold real numbers, got dtype {kind} (shape {shape}, {type(value).__name__}); "
            "convert it to a floating-point array"
        )
    return value


def to_numpy(array: Array) -> NDArray[Any]:
    """View a CPU array as a NumPy array, in its own dtype where NumPy has it."""
    if isinstance(array, np.ndarray):
        return np.asarray(array)
    if _torch_tensor(array):
        array = array.detach().resolve_conj().resolve_neg()
        if dtype_name(array) == "bfloat16":
            array = array.double()
        return np.asarray(array.numpy())
    if is_traced(array):
        raise InvalidTypeError(
            f"a traced JAX value of shape {tuple(array.shape)} has no numbers yet, and this needs them: "
            "call it outside of jit, vmap and grad"
        )
    if _jax_array(array):
        return np.asarray(array)
    return np.from_dlpack(array)


def to_float64(array: Array) -> FloatArray:
    """View or convert a CPU array as a C-contiguous float64 NumPy array."""
    return np.asarray(to_numpy(array), dtype=np.float64, order="C")


def to_host(array: Array) -> FloatArray:
    """Bring an array of any library, on whatever device, to the CPU, in float64."""
    if is_on_device(array):
        if _torch_tensor(array):
            array = array.detach().cpu()
        elif _cupy_array(array):
            array = array.get()
        else:
            array = np.asarray(array)
    return to_float64(array)


def plain_values(array: Array) -> tuple[FloatArray, Precision] | None:
    """Return what kernels can take of a NumPy array or PyTorch CPU tensor, without many questions.

    That is a C-contiguous array in float64, and what the dtype that it came in says about its precision;
    or None if it is anything but an ordinary array in single or double precision.
    """
    if type(array) is not np.ndarray:
        torch = sys.modules.get("torch")
        if torch is None or type(array) is not torch.Tensor or array.device.type != "cpu":
            return None
        if array.dtype not in (torch.float64, torch.float32) or array.is_neg() or array.is_sparse:
            return None
        array = array.detach().numpy()
    if not array.flags.c_contiguous:
        return None
    if array.dtype is _FLOAT64:
        return array, FLOAT64_PRECISION
    if array.dtype is _FLOAT32:
        return array.astype(np.float64), _PRECISIONS["float32"]
    return None


def device_float64(array: Array) -> Array:
    """Convert an array to float64 where it is, through its own namespace."""
    xp = namespace(array)
    return xp.astype(array, xp.float64)


def device_of(array: Array) -> Any:
    """Return the device on which to make arrays beside `array`; None for traced values, which have none."""
    return None if is_traced(array) else array.device


def namespace(array: Array) -> Any:
    """Return the array-API namespace of `array`."""
    from array_api_compat import array_namespace

    return array_namespace(array)


def restore(result: Array, like: Array) -> Array:
    """Return `result` (NumPy, or already on the device) as an array such as `like`.

    Floating-point results take the dtype of `like` if that is floating-point too; booleans and
    integers keep theirs.
    """
    kind = dtype_name(like)
    is_float = dtype_name(result).startswith("float")
    target = kind if is_float and kind in FLOATS else None
    if not isinstance(result, np.ndarray):
        xp = namespace(result)
        return result if target is None else xp.astype(result, like.dtype)
    if isinstance(like, np.ndarray):
        return result if target is None else result.astype(like.dtype, copy=False)
    if _torch_tensor(like):
        tensor = sys.modules["torch"].from_numpy(np.ascontiguousarray(result))
        return tensor if target is None else tensor.to(like.dtype)
    if _jax_array(like):
        jax = sys.modules["jax"]
        dtype = None if target is None else like.dtype
        return jax.device_put(jax.numpy.asarray(result, dtype=dtype), next(iter(like.devices())))
    xp = namespace(like)
    converted = xp.asarray(result)
    return converted if target is None else xp.astype(converted, like.dtype)


class Precision(NamedTuple):
    """How exact the caller's numbers are, from the dtype in which they came.

    Attributes
    ----------
    tolerance : float
        How far from symmetric, and from |G_ij| ≤ √(G_ii·G_jj), a Gramian may be, relatively.
    tiny : float
        The smallest square that the dtype resolves.
    """

    tolerance: float
    tiny: float


FLOAT64_PRECISION = Precision(2.0**-26, 0.0)
_PRECISIONS = {
    "float32": Precision(2.0**-11.5, 2.0**-126),
    "float16": Precision(2.0**-5, 2.0**-14),
    "bfloat16": Precision(2.0**-3.5, 2.0**-126),
}


def precision_of(array: Array) -> Precision:
    """Return what the dtype of `array` says about its rounding errors: tolerance = √ε."""
    return _PRECISIONS.get(dtype_name(array), FLOAT64_PRECISION)
