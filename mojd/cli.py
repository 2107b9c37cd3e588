"""The `mojd` command; its extra, ``cli``, is only needed once it runs."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import mojd
from mojd.errors import MissingDependencyError, MojdError

if TYPE_CHECKING:
    import typer


def build_app() -> typer.Typer:
    """Build the application.

    Returns
    -------
    typer.Typer
        The application, with all commands.

    Raises
    ------
    MissingDependencyError
        If typer or rich isn't installed.
    """
    try:
        import typer
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"the mojd command needs {error.name}: pip install 'mojd[cli]'"
        ) from error
    from mojd.compare.command import COMPARE_HELP, compare_command, solvers_command
    from mojd.properties.command import CHECK_HELP, check_command

    app = typer.Typer(
        help="Exact and fast weights for training with several losses.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )

    def print_version(wanted: bool) -> None:
        if wanted:
            typer.echo(f"mojd {mojd.__version__}")
            raise typer.Exit

    version_option = typer.Option(
        False, "--version", is_eager=True, callback=print_version, help="Show the version and exit."
    )

    @app.callback()
    def options(version: bool = version_option) -> None:
        """Take the options that come before a command."""

    app.command("compare", help=COMPARE_HELP)(compare_command)
    app.command("check", help=CHECK_HELP)(check_command)
    app.command("solvers")(solvers_command)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the `mojd` command.

    Parameters
    ----------
    arguments : sequence of str, optional
        What follows ``mojd``; by default what the process was started with.

    Returns
    -------
    int
        The exit status: 0, 1 if a property that was claimed fails, 2 for input that can't be used, or
        130 if interrupted.

    Examples
    --------
    >>> main(["compare", "--method", "sum"])
    2
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        # Where an encoding lacks µ or ‖, a question mark will do; an exception would not.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        build_app()(_complete_files(given), prog_name="mojd")
    except MojdError as error:
        print(f"mojd: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mojd: interrupted", file=sys.stderr)
        return 130
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    return 0


def _complete_files(arguments: Sequence[str]) -> list[str]:
    """Let options that write a file stand without one, which the command-line library has no notion of."""
    completed: list[str] = []
    for place, argument in enumerate(arguments):
        completed.append(argument)
        following = arguments[place + 1 : place + 2]
        alone = not following or (following[0].startswith("-") and following[0] != "-")
        if argument in ("--json", "--markdown") and alone:
            completed.append("-")
    return completed
