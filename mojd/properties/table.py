"""Check many methods for many properties, side by side in several processes."""

from __future__ import annotations

import functools
import importlib
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

from mojd.errors import InvalidInputError
from mojd.properties._registry import Property, get_property
from mojd.properties._subject import Subject, Takes, subject
from mojd.properties.checking import EXAMPLES, choose, find
from mojd.properties.report import Finding, Report
from mojd.weightings import LossWeighting, registered_methods

Progress = Callable[[int, int, str], None]


class Spec(NamedTuple):
    """A method by name, in words that another process understands.

    Attributes
    ----------
    text : str
        The name of one of mojd's methods, or ``package.module:function``.
    takes, like
        As for :func:`mojd.check`.
    """

    text: str
    takes: Takes | None = None
    like: str | None = None


def method_names() -> list[str]:
    """Return the names of all of mojd's methods that properties make sense for."""
    return [method.name for method in registered_methods() if not isinstance(method, LossWeighting)]


@functools.lru_cache(maxsize=64)
def load(spec: Spec) -> Subject:
    """Import a method.

    Raises
    ------
    InvalidInputError
        If there is no such method, module or function.
    """
    module_name, colon, path = spec.text.partition(":")
    if not colon:
        return subject(spec.text, like=spec.like)
    folder = os.getcwd()  # noqa: PTH109 (a plain string, for sys.path)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise InvalidInputError(f"{spec.text}: there is no module {error.name!r} in {folder}") from None
        raise
    for part in path.split("."):
        if not hasattr(found, part):
            raise InvalidInputError(f"{spec.text}: {module_name} has no {path!r}")
        found = getattr(found, part)
    expression = f"{module_name}.{path}"
    return subject(found, takes=spec.takes, like=spec.like, name=spec.text, expression=expression)


def _cell(spec: Spec, name: str, examples: int) -> Finding:
    return find(load(spec), get_property(name), examples)


def check_table(
    methods: Sequence[str | Spec],
    properties: str | Sequence[str] | None = None,
    *,
    examples: int = EXAMPLES,
    processes: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Check each method for each property.

    Parameters
    ----------
    methods : sequence of str or Spec
        Names of mojd's methods, or ``package.module:function``.
    properties : str or sequence of str, optional
        By default all.
    examples : int, default 1000
        How many Jacobians are tried per method and property.
    processes : int, optional
        How many processes share the work; by default as many as there are cores.
    progress : callable, optional
        ``progress(done, total, text)``, after each finding.

    Returns
    -------
    Report
        All findings, method by method. The result does not depend on the number of processes.

    Raises
    ------
    InvalidInputError
        If a name is not known.

    Examples
    --------
    >>> from mojd.properties import check_table
    >>> report = check_table(["mgda", "upgrad"], "linear_under_scaling", examples=100, processes=1)
    >>> [finding.mark for finding in report.findings]
    ['✗', '✓']
    """
    specs = [spec if isinstance(spec, Spec) else Spec(spec) for spec in methods]
    chosen: list[Property] = choose(properties)
    for spec in specs:
        load(spec)
    cells = [(spec, item.name, examples) for spec in dict.fromkeys(specs) for item in chosen]
    workers = min(processes or os.cpu_count() or 1, len(cells))
    findings: list[Finding] = []

    def note(finding: Finding) -> None:
        findings.append(finding)
        if progress is not None:
            progress(len(findings), len(cells), f"{finding.method}: {finding.property_name}")

    if workers <= 1:
        for cell in cells:
            note(_cell(*cell))
        return Report(tuple(findings))
    # Not forked: other libraries' threads do not survive that.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        try:
            for finding in pool.map(_cell, *zip(*cells, strict=True)):
                note(finding)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return Report(tuple(findings))
