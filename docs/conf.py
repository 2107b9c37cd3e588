"""How Sphinx builds the documentation: MyST pages, numpydoc docstrings, and a MathJax of its own.

Nothing is fetched, neither when the pages are built nor when they are read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util import logging

import mojd
import mojd.jax
import mojd.torch
from mojd.properties import Property, registered_properties
from mojd.properties.published import TABLE_1
from mojd.solvers import registered_solvers
from mojd.weightings import Aggregator, LossWeighting, Method, registered_methods

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


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# What `make properties` found: {method: {property: {"mark": "✓", ...}}}.
RESULTS: dict[str, Any] = json.loads(
    (Path(__file__).parent / "properties" / "results.json").read_text(encoding="utf-8")
)
FOUND: dict[str, dict[str, Any]] = RESULTS["methods"]
METHODS = {method.name: method for method in registered_methods()}
GROUPS = ("jacobian descent", "general", "priorities")


def link(item: Method | Property) -> str:
    """Return a link to a page, from a page of any folder."""
    folder = "methods" if isinstance(item, Method) else "properties"
    return f"[{item.title}](../{folder}/{item.name}.md)"


def takes(method: Method) -> str:
    """Return what a method looks at."""
    if isinstance(method, Aggregator):
        return "Jacobian"
    return "losses" if isinstance(method, LossWeighting) else "Gramian"


def evidence(entry: dict[str, Any]) -> str:
    """Return what a mark rests on."""
    if "counterexample" in entry:
        return f"`{entry['counterexample']}`: {entry['violation']}"
    if "examples" in entry:
        return f"none among {entry['examples']} examples of {entry['structures']} structures"
    return str(entry["reason"])


def marks(group: str) -> str:
    """Return a table with a row per method and a column per property."""
    columns = [item for item in registered_properties() if item.group == group]
    rows = []
    for name, row in FOUND.items():
        title = link(METHODS[name])
        bold = group == "jacobian descent" and name in TABLE_1
        rows.append((f"**{title}**" if bold else title, *(row[item.name]["mark"] for item in columns)))
    return table(("Method", *(link(item) for item in columns)), rows)


def findings(item: Property) -> str:
    """Return a table of all methods and one property."""
    entries = [(METHODS[name], row[item.name]) for name, row in FOUND.items()]
    rows = [(link(method), entry["mark"], evidence(entry)) for method, entry in entries]
    return table(("Method", "", "Counterexample: violation"), rows)


def found(name: str) -> str:
    """Return a table of all properties and one method."""
    rows = []
    for item in registered_properties():
        entry = FOUND[name][item.name]
        rows.append((link(item), entry["mark"], evidence(entry)))
    return table(("Property", "", "Counterexample: violation"), rows)


# Pages write {{ solvers }} and the like; what is registered appears in them by itself.
myst_substitutions = {
    "examples": str(RESULTS["examples"]),
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
        ("Method", "What it is", "Takes", "Source"),
        [(link(method), method.summary, takes(method), method.source) for method in METHODS.values()],
    ),
    **{f"marks_{group.replace(' ', '_')}": marks(group) for group in GROUPS},
    **{f"findings_{item.name}": findings(item) for item in registered_properties()},
    **{
        f"about_{item.name}": (
            f"`{item.name}`: {item.summary}. Tolerance {item.tolerance:.0e}. Source: {item.source}."
        )
        for item in registered_properties()
    },
    **{f"found_{name}": found(name) for name in FOUND},
}


def check_complete(app: Sphinx, env: Any) -> None:
    """Warn about public names that no page describes."""
    described = env.get_domain("py").objects
    for module in (mojd, mojd.torch, mojd.jax):
        for name in module.__all__:
            if f"{module.__name__}.{name}" not in described:
                logger.warning("docs/api: %s.%s is public and on no page", module.__name__, name)


def setup(app: Sphinx) -> None:
    app.connect("env-check-consistency", check_complete)
