"""The file format of recorded Gramians, and how an array of any library gets into it.

An npz file. Besides the format's version it holds one array per name, shape (N, K(K+1)/2): the
upper triangles, row by row, of N Gramians, which halves the file. Gramians of one name that differ
in K are told apart as ``name@K``.
"""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mojd.errors import InvalidInputError, InvalidTypeError

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
Store: TypeAlias = dict[tuple[str, int], list[FloatArray]]

FORMAT_KEY = "mojd_format"
FORMAT_VERSION = 1

# Rounding makes bfloat16 Gramians asymmetric by 1 %; a square Jacobian passed by mistake is off by far more.
_ASYMMETRY = 0.05


def to_numpy(gramian: Any) -> FloatArray:
    """Bring an array of any library to host memory, as a view if it can, without importing that library."""
    try:
        if hasattr(gramian, "detach"):  # PyTorch: off the tape and off the device
            gramian = gramian.detach().cpu()
            if "bfloat16" in str(gramian.dtype):  # NumPy has no such dtype; float32 holds it exactly
                gramian = gramian.float()
        elif hasattr(gramian, "__cuda_array_interface__") and hasattr(gramian, "get"):
            gramian = gramian.get()  # CuPy refuses an implicit transfer
        if hasattr(gramian, "__dlpack__") and not hasattr(gramian, "__array__"):
            gramian = np.from_dlpack(gramian)
        array = np.asarray(gramian)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        reason = str(error).partition("\n")[0]
        raise InvalidTypeError(
            "gramian: pass a dense array of real numbers, outside of jit, vmap and grad; "
            f"a {type(gramian).__name__} cannot become a NumPy array: {reason}"
        ) from error
    return _as_floats(array, "gramian")


def _as_floats(array: npt.NDArray[Any], argument: str) -> FloatArray:
    """Keep float16, float32 and float64, in the machine's byte order, and convert the other real dtypes."""
    dtype = array.dtype.newbyteorder("=")
    if dtype.name == "bfloat16":
        return array.astype(np.float32)
    if dtype.kind not in "fiu":
        raise InvalidTypeError(
            f"{argument}: must hold real numbers, got dtype {dtype} and shape {array.shape}"
        )
    if dtype.kind == "f" and dtype.itemsize <= 8:
        return array.astype(dtype, copy=False)
    return array.astype(np.float64)


def pack(gramian: FloatArray) -> tuple[FloatArray, int]:
    """Return a copy of the upper triangle of one Gramian, row by row, and its K."""
    if gramian.ndim != 2 or gramian.shape[0] != gramian.shape[1] or gramian.shape[0] == 0:
        raise InvalidInputError(
            f"gramian: must be one square matrix of shape (K, K) with K >= 1, got shape {gramian.shape}; "
            "of a Jacobian J (K, n) record J @ J.T, and of a batch record one matrix a call"
        )
    with np.errstate(invalid="ignore", over="ignore"):
        asymmetry = np.abs(gramian - gramian.T)
        if asymmetry.max() > _ASYMMETRY * np.abs(gramian).max():
            i, j = (int(index) for index in np.unravel_index(np.argmax(asymmetry), gramian.shape))
            raise InvalidInputError(
                f"gramian: shape {gramian.shape} is not symmetric: [{i}, {j}] is {gramian[i, j]:.6g} and "
                f"[{j}, {i}] is {gramian[j, i]:.6g}; of a Jacobian J (K, n) record J @ J.T"
            )
    size = gramian.shape[0]
    return gramian[np.triu_indices(size)], size


def _unpack(triangles: FloatArray, size: int) -> FloatArray:
    """Return symmetric (N, K, K) matrices with the given upper triangles (N, K(K+1)/2)."""
    rows, columns = np.triu_indices(size)
    gramians = np.empty((len(triangles), size, size), dtype=triangles.dtype)
    gramians[:, rows, columns] = triangles
    gramians[:, columns, rows] = triangles
    return gramians


def write(path: Path, store: Store, process: int) -> None:
    """Write a recording so that ``path`` is at every moment either the old file or the new one."""
    if not store or os.getpid() != process:  # a forked data-loading worker must not write its copy
        return
    names = [name for name, _ in store]
    temporary = path.with_name(f".{path.name}.{process}.tmp")
    try:
        # np.savez would do the same but for arrays named like its own arguments ("file").
        with zipfile.ZipFile(temporary, "w", allowZip64=True) as archive:
            _write_member(archive, FORMAT_KEY, np.array(FORMAT_VERSION))
            for (name, size), triangles in store.items():
                key = name if names.count(name) == 1 else f"{name}@{size}"
                _write_member(archive, key, np.stack(triangles))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_member(archive: zipfile.ZipFile, key: str, array: npt.NDArray[Any]) -> None:
    with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array(member, array, allow_pickle=False)


def read(file: IO[bytes], label: str) -> dict[str, FloatArray]:
    """Read either kind of npz file; ``label`` is what messages call it."""
    if not zipfile.is_zipfile(file):
        raise InvalidInputError(f"{label}: not an npz file; write one with mojd.record or numpy.savez")
    file.seek(0)
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (ValueError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise InvalidInputError(
            f"{label}: cannot be read as an npz file of plain arrays ({error})"
        ) from error
    version = arrays.pop(FORMAT_KEY, None)
    if not arrays:
        raise InvalidInputError(f"{label}: holds no arrays")
    return _plain(arrays, label) if version is None else _recorded(arrays, int(version), label)


def _recorded(arrays: Mapping[str, npt.NDArray[Any]], version: int, label: str) -> dict[str, FloatArray]:
    if version != FORMAT_VERSION:
        raise InvalidInputError(
            f"{label}: recorded in format {version}, and this mojd reads format {FORMAT_VERSION}; update mojd"
        )
    gramians = {}
    for key, array in arrays.items():
        packed = array.shape[1] if array.ndim == 2 else 0
        size = (math.isqrt(8 * packed + 1) - 1) // 2
        if size == 0 or size * (size + 1) // 2 != packed:
            raise InvalidInputError(f"{label}: {key!r} has shape {array.shape}, not that of packed triangles")
        gramians[key] = _unpack(_as_floats(array, f"{label}: {key!r}"), size)
    return gramians


def _plain(arrays: Mapping[str, npt.NDArray[Any]], label: str) -> dict[str, FloatArray]:
    gramians = {}
    for key, array in arrays.items():
        if array.ndim not in (2, 3) or array.shape[-1] != array.shape[-2] or array.size == 0:
            raise InvalidInputError(
                f"{label}: {key!r} has shape {array.shape}; a Gramian has shape (K, K), and a stack of N of "
                "them (N, K, K)"
            )
        floats = _as_floats(array, f"{label}: {key!r}")
        gramians[key] = floats if floats.ndim == 3 else floats[np.newaxis]
    return gramians
