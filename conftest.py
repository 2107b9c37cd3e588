"""Examples in Markdown run as tests: every ``python`` block of README.md and docs/, top to bottom.

A block with prompts (``>>>``) is a doctest, one without is run as it is; the blocks of a page share
their names. An HTML comment, ``<!-- skip: next -->``, spares the block that follows.
"""

from __future__ import annotations

from doctest import ELLIPSIS, NORMALIZE_WHITESPACE
from importlib.util import find_spec

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

# What imports CuPy, which the environment for development does without.
collect_ignore = [] if find_spec("cupy") else ["mojd/solvers/_cuda/libraries.py"]

pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(doctest_optionflags=ELLIPSIS | NORMALIZE_WHITESPACE), SkipParser()],
    patterns=["*.md"],
).pytest()
