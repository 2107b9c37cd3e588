"""Hold a solver's process from the outside: send it work, wait no longer than allowed, end it."""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from mojd.compare.worker import Answer, Done, Pass, Start

# Read by the numerical libraries when they are loaded.
ONE_THREAD = dict.fromkeys(
    (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "BLIS_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
        "NUMEXPR_NUM_THREADS",
        "NUMBA_NUM_THREADS",
        "RAYON_NUM_THREADS",
    ),
    "1",
)


class ProcessEndedError(Exception):
    """The process of a solver ended by itself; the message says how."""


class SolverProcess:
    """Run :func:`mojd.compare.worker.main` in a process of its own.

    It is a plain subprocess and not one of `multiprocessing`, whose children run the caller's script
    again and so fail in scripts without a main guard.

    Parameters
    ----------
    start : Start
        What it is asked first; it answers with :class:`Done` when it is ready.
    """

    def __init__(self, start: Start) -> None:
        command = [sys.executable, "-P", "-c", "from mojd.compare.worker import main; main()"]
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by kill)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **ONE_THREAD, "PYTHONPATH": path},
        )
        self._messages: queue.SimpleQueue[Answer | Done | None] = queue.SimpleQueue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self.send(start)

    def send(self, message: Start | Pass) -> None:
        """Send a request. That the process has ended is for `receive` to notice."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            pickle.dump(message, self._process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
            self._process.stdin.flush()

    def receive(self, seconds: float) -> Answer | Done:
        """Wait for the next message.

        Parameters
        ----------
        seconds : float
            How long.

        Returns
        -------
        Answer or Done
            The message.

        Raises
        ------
        TimeoutError
            If none comes in time.
        ProcessEndedError
            If the process has ended.
        """
        try:
            message = self._messages.get(timeout=max(seconds, 0.0))
        except queue.Empty:
            raise TimeoutError from None
        if message is None:
            raise ProcessEndedError(self._epitaph())
        return message

    def kill(self) -> None:
        """End the process at once and free what it held."""
        self._process.kill()
        self._process.wait()
        self._listener.join()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            assert stream is not None
            with contextlib.suppress(OSError):
                stream.close()

    def _listen(self) -> None:
        """Move messages from the process into the queue, and None when it ends."""
        assert self._process.stdout is not None
        with contextlib.suppress(EOFError, OSError, pickle.UnpicklingError):
            while True:
                self._messages.put(pickle.load(self._process.stdout))
        self._messages.put(None)

    def _epitaph(self) -> str:
        """Say how the process ended."""
        code = self._process.wait()
        if code < 0:
            return f"crashed: {signal.Signals(-code).name}"
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"ended with code {code}: {lines[-1]}" if lines else f"ended with code {code}"
