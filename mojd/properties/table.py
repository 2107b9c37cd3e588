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
from mojd.properties._ranges import Range
from mojd.properties._registry import Property
from mojd.properties._search import EXAMPLES, find
from mojd.properties._subject import Subject, Takes
from mojd.properties._trial import subject
from mojd.properties.checking import choose
from mojd.properties.findings import Finding
from mojd.properties.report import Report
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


class Bounds(NamedTuple):
    """What a check may change of its properties; as for :func:`mojd.check`."""

    k: Range | None = None
    n: Range | None = None
    tolerance: float | None = None


NO_BOUNDS = Bounds()


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
        if "." in module_name or "/" in module_name:
            raise InvalidInputError(f"{spec.text}: a function is written package.module:function")
        return subject(spec.text, takes=spec.takes, like=spec.like)
    if not all(part.isidentifier() for part in (*module_name.split("."), *path.split("."))):
        raise InvalidInputError(f"{spec.text}: a function is written package.module:function")
    found = _import(module_name, spec.text)
    for part in path.split("."):
        if not hasattr(found, part):
            raise InvalidInputError(f"{spec.text}: {module_name} has no {path!r}")
        found = getattr(found, part)
    expression = f"{module_name}.{path}"
    return subject(found, takes=spec.takes, like=spec.like, name=spec.text, expression=expression)


def _import(module_name: str, text: str) -> Any:
    """Import a module, from the current folder too."""
    folder = os.getcwd()  # noqa: PTH109 (a plain string, for sys.path)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise InvalidInputError(f"{text}: there is no module {error.name!r} in {folder}") from None
        raise InvalidInputError(f"{text}: importing {module_name} failed: {error}") from error
    except (Exception, SystemExit) as error:
        # A stranger's module may fail in any way.
        failure = f"{type(error).__name__}: {error}"
        raise InvalidInputError(f"{text}: importing {module_name} failed: {failure}") from error


def _cell(spec: Spec, name: str, examples: int, bounds: Bounds) -> Finding:
    (item,) = choose(name, **bounds._asdict())
    return find(load(spec), item, examples)


def check_table(
    methods: Sequence[str | Spec],
    properties: str | Sequence[str] | None = None,
    *,
    examples: int = EXAMPLES,
    bounds: Bounds = NO_BOUNDS,
    processes: int = 1,
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
    bounds : Bounds, optional
        Other sizes and another tolerance.
    processes : int, default 1
        How many processes share the work. More than one needs a script that is guarded by
        ``if __name__ == "__main__":``, as always with multiprocessing.
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
    >>> report = check_table(["mgda", "upgrad"], "linear_under_scaling", examples=100)
    >>> [finding.mark for finding in report.findings]
    ['✗', '✓']
    """
    specs = [spec if isinstance(spec, Spec) else Spec(spec) for spec in methods]
    chosen: list[Property] = choose(properties, **bounds._asdict())
    for spec in specs:
        load(spec)
    cells = [(spec, item.name, examples, bounds) for spec in dict.fromkeys(specs) for item in chosen]
    workers = min(processes, len(cells))
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
