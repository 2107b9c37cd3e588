"""Recording Gramians inside a training loop, and reading them back.

Names say what a Gramian is for: one that starts with ``pcd-`` (:data:`PCD_PREFIX`) has the primary
objective of a PCD problem in row 0; all others hold objectives of equal standing.
"""

from __future__ import annotations

import importlib.resources
import os
import warnings
import weakref
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from mojd.compare._recording_format import FORMAT_KEY, FloatArray, Store, pack, read, to_numpy, write
from mojd.errors import InvalidInputError

__all__ = ["PCD_PREFIX", "Recorder", "load_gramians", "record", "recorded_gramians"]

PCD_PREFIX = "pcd-"


class Recorder:
    """Collect Gramians call by call and write them to one file; made by ``mojd.record``.

    The file is written by :meth:`close`, on leaving a ``with`` block (also when the block raises),
    or at the latest when the recorder is garbage-collected or the interpreter exits. A recorder
    that was given nothing writes nothing, so that an early crash leaves an older file alone.
    """

    def __init__(self, path: str | os.PathLike[str], *, every: int = 1, limit: int | None = 1000) -> None:
        """Check the arguments now rather than after hours of training; see ``mojd.record``."""
        target = Path(path).absolute()
        if not target.parent.is_dir():
            raise InvalidInputError(f"path: the folder {target.parent} does not exist; create it first")
        if target.is_dir():
            raise InvalidInputError(f"path: {target} is a folder; name a file, such as {target / 'run.npz'}")
        self._path = target
        self._every = _positive_integer(every, "every")
        self._limit = None if limit is None else _positive_integer(limit, "limit")
        self._calls: dict[str, int] = {}
        self._kept: dict[str, int] = {}
        self._store: Store = {}
        self._finalizer = weakref.finalize(self, write, target, self._store, os.getpid())

    def __call__(self, gramian: Any, name: str = "gramian") -> None:
        """Append a copy of one Gramian.

        Parameters
        ----------
        gramian : array, shape (K, K)
            Real and symmetric, from any array library and on any device. Its floating dtype is
            kept up to float64 (bfloat16 becomes float32, integers float64). NaN and infinity are
            recorded as they are. Only the upper triangle is kept.
        name : str
            What the Gramian is stored under. Start it with ``pcd-`` if row 0 is the primary
            objective of a PCD problem.

        Raises
        ------
        InvalidInputError
            If the recorder is closed, the name is empty or holds ``@`` or a slash, or ``gramian``
            is not square or far from symmetric.
        InvalidTypeError
            If ``gramian`` is not an array of real numbers, or has no values yet (a traced array).

        Notes
        -----
        A call that ``every`` or ``limit`` skips touches neither the array nor its device.
        """
        if self.closed:
            raise InvalidInputError(
                f"recorder: {self._path} is closed; make a new one with mojd.record(path)"
            )
        _check_name(name)
        calls = self._calls.get(name, 0)
        self._calls[name] = calls + 1
        if calls % self._every != 0:
            return
        kept = self._kept.get(name, 0)
        if self._limit is not None and kept >= self._limit:
            if kept == self._limit:
                self._kept[name] = kept + 1
                warnings.warn(
                    f"mojd.record: {name!r} has reached limit={self._limit}; later Gramians of that name "
                    "are not recorded. Raise limit, or record fewer with every=n.",
                    stacklevel=2,
                )
            return
        triangle, size = pack(to_numpy(gramian))
        self._store.setdefault((name, size), []).append(triangle)
        self._kept[name] = kept + 1

    @property
    def closed(self) -> bool:
        """Whether the file has been written and nothing more can be recorded."""
        return not self._finalizer.alive

    def close(self) -> None:
        """Write the file at once and atomically; do nothing if that has been done.

        Raises
        ------
        OSError
            If the file cannot be written. An older file of that name is then still whole, the
            recorder stays open, and ``close`` may be called again.
        """
        if not self.closed:
            write(self._path, self._store, os.getpid())
            self._finalizer.detach()

    def __enter__(self) -> Recorder:
        """Return the recorder itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what there is, whether or not the block raised."""
        self.close()

    def __repr__(self) -> str:
        """Say where the Gramians go and how many there are."""
        count = sum(len(triangles) for triangles in self._store.values())
        return f"<mojd Recorder: {count} Gramians for {self._path}{', closed' if self.closed else ''}>"


def record(path: str | os.PathLike[str], *, every: int = 1, limit: int | None = 1000) -> Recorder:
    """Open a recorder of Gramians for use in a training loop.

    Parameters
    ----------
    path : path-like
        The npz file to write. Its folder must exist; an older file is replaced when the recorder
        closes.
    every : int
        Keep the first of every so many calls, counted for each name by itself.
    limit : int or None
        Keep at most so many Gramians of each name, warn once, and ignore the rest; ``None`` for no
        limit. All are held in memory until the recorder closes: 4·K·(K+1) bytes each in float64.

    Returns
    -------
    Recorder
        Call it with a Gramian and, if you like, a name. Close it, or use it in a ``with`` block.

    Raises
    ------
    InvalidInputError
        If the folder does not exist, or ``every`` or ``limit`` is not a positive integer.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> from mojd.compare.recording import load_gramians, record
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "run.npz"
    >>> J = np.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    >>> with record(path, every=10) as recorder:
    ...     for step in range(30):
    ...         recorder(J @ J.T, name="toy")
    >>> load_gramians(path)["toy"].shape
    (3, 2, 2)
    """
    return Recorder(path, every=every, limit=limit)


def load_gramians(path: str | os.PathLike[str]) -> dict[str, FloatArray]:
    """Read Gramians from a recording or from an npz file of your own.

    Parameters
    ----------
    path : path-like
        A file written by ``mojd.record``, or any npz file whose arrays all have shape (K, K) or
        (N, K, K), such as ``np.savez(path, mine=G)`` writes.

    Returns
    -------
    dict of str to array, shape (N, K, K)
        In the order of the file. Whether they are symmetric, finite and positive semidefinite is
        left to what uses them.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    InvalidInputError
        If it is not an npz file, holds no arrays or an array of another shape, or was written in a
        format that this version of mojd does not know.
    InvalidTypeError
        If an array does not hold real numbers.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> from mojd.compare.recording import load_gramians
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "mine.npz"
    >>> np.savez(path, mine=np.eye(3))
    >>> load_gramians(path)["mine"].shape
    (1, 3, 3)
    """
    with Path(path).open("rb") as file:
        return read(file, os.fspath(path))


def recorded_gramians() -> dict[str, FloatArray]:
    """Read the Gramians that come with mojd, recorded from the training of small networks.

    Returns
    -------
    dict of str to float64 array, shape (N, K, K)
        For PCD where the name starts with ``pcd-`` (row 0 is the primary objective), else for
        UPGrad, DualProj and MGDA. ``benchmarks/record_gramians.py`` made them and says how.

    Examples
    --------
    >>> from mojd.compare.recording import recorded_gramians
    >>> recorded_gramians()["digits-mlp-256-late"].shape
    (1, 256, 256)
    """
    resource = importlib.resources.files("mojd.compare").joinpath("recorded.npz")
    with resource.open("rb") as file:
        return read(file, resource.name)


def _positive_integer(value: int, argument: str) -> int:
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise InvalidInputError(f"{argument}: must be a positive integer, got {value!r}")
    return int(value)


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not name or any(sign in name for sign in "@/\\") or name == FORMAT_KEY:
        raise InvalidInputError(
            f"name: must be a non-empty string without '@' and slashes, and not {FORMAT_KEY!r}; got {name!r}"
        )
