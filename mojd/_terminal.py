"""What commands share: a console that is wide enough, a progress bar, files that can't be written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mojd.errors import InvalidInputError, MissingDependencyError

try:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
except ModuleNotFoundError as error:
    raise MissingDependencyError(f"the mojd command needs {error.name}: pip install 'mojd[cli]'") from error

# What an option that writes a file stands for without one.
STDOUT = "-"


@contextmanager
def progress_bar() -> Iterator[Callable[[int, int, str], None]]:
    """Show a progress bar on stderr if that is a terminal."""
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("")
        yield lambda done, total, text: bar.update(task, completed=done, total=total, description=text)


def stdout_console(least_width: int) -> Console:
    """Return a console for stdout that is wide enough for every table."""
    console = Console()
    return (
        Console(width=max(console.width, least_width)) if console.is_terminal else Console(width=least_width)
    )


def check_folders(*files: Path | str | None) -> None:
    """Raise, before any work is done, if a file is to be written where it can't be."""
    for file in files:
        if file is None or file == STDOUT:
            continue
        path = Path(file)
        if not path.absolute().parent.is_dir():
            raise InvalidInputError(f"{path}: the folder {path.absolute().parent} does not exist")
        if path.is_dir():
            raise InvalidInputError(f"{path} is a folder; name a file in it")
