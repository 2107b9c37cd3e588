"""The shim that runs kernels on the CPU needs POSIX: its memory, its signals, its locks on files."""

from __future__ import annotations

import os

collect_ignore_glob = [] if os.name == "posix" else ["test_*.py"]
