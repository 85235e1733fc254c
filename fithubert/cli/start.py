"""What comes before every command: the options of all of them, the checked parameters, the workspace."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from fithubert.errors import exit_on_user_error


@dataclass
class Options:
    """The options before the command."""

    params: Path = Path("params.yaml")
    workspace: Path = Path()
    changes: tuple[str, ...] = ()
    debug: bool = False


options = Options()


def read_options(
    params: Annotated[Path, typer.Option(help="The parameters of all stages.")] = Path("params.yaml"),
    workspace: Annotated[Path, typer.Option(help="The folder that holds data/, artifacts/ and reports/.")] = Path(),
    change: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Another value for a parameter: --set distill.updates=500."),
    ] = None,
    debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False,
) -> None:
    """Options of every command."""
    options.params, options.workspace, options.debug = params, workspace, debug
    options.changes = tuple(change or ())


@contextmanager
def stage(*changes: str) -> Iterator[tuple[Any, Any]]:
    """The checked parameters with the command's own changes, and the workspace; errors become one line."""
    with exit_on_user_error(options.debug):
        from fithubert.config.params import load_params
        from fithubert.workspace import Workspace

        yield load_params(options.params, (*changes, *options.changes)), Workspace(options.workspace)
