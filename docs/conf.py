"""How Sphinx builds the documentation: MyST pages, numpydoc docstrings, and a MathJax of its own.

Nothing is fetched, neither when the pages are built nor when they are read.
"""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx
from sphinx.util import logging

import mojd
from mojd.solvers import registered_solvers
from mojd.weightings import registered_weightings

logger = logging.getLogger(__name__)

project = "mojd"
author = copyright = "The mojd developers"
version = release = mojd.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",
    "numpydoc",
    "myst_parser",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"mojd {release}"

# A role that leads nowhere is an error. Signatures are shown without their annotations, since the
# docstrings say more about an array than its type does.
nitpicky = True
autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath", "substitution"]
myst_heading_anchors = 3


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# Pages write {{ solvers }} and {{ methods }}; what is registered appears in them by itself.
myst_substitutions = {
    "solvers": table(
        ("Solver", "What it is", "Extra", "KKT residual", "Largest K"),
        [
            (
                f"`{s.name}`",
                s.summary,
                f"`{s.extra}`" if s.extra else "",
                f"{s.kkt_tolerance:.0e}",
                str(s.max_size or ""),
            )
            for s in registered_solvers()
        ],
    ),
    "methods": table(
        ("Method", "What it is", "Source"),
        [(f"{{func}}`mojd.{w.name}`", w.summary, w.source) for w in registered_weightings()],
    ),
}


def check_complete(app: Sphinx, env: Any) -> None:
    """Warn about public names that no page describes."""
    described = env.get_domain("py").objects
    for name in mojd.__all__:
        if f"mojd.{name}" not in described:
            logger.warning("docs/api: mojd.%s is public and on no page", name)


def setup(app: Sphinx) -> None:
    app.connect("env-check-consistency", check_complete)
