"""The `fithubert` command: parse, call, print. A command does what the DVC stage of its name does."""

import sys
from collections.abc import Callable, Iterable

try:
    import rich  # noqa: F401  (Typer prints its help with it)
    import typer
    from typer.core import TyperCommand, TyperGroup, TyperOption
except ImportError:
    sys.exit("error: the command line needs Typer and rich: pip install fithubert[cli]")

from fithubert.cli.ablation import ablation
from fithubert.cli.cache import cache
from fithubert.cli.compare import compare
from fithubert.cli.compress import compress
from fithubert.cli.depth import depth
from fithubert.cli.distill import distill
from fithubert.cli.doctor import doctor
from fithubert.cli.export import export
from fithubert.cli.extract import extract
from fithubert.cli.features import features
from fithubert.cli.import_ import import_
from fithubert.cli.leaderboard import leaderboard
from fithubert.cli.options import move_to_front, read_options
from fithubert.cli.plan import plan
from fithubert.cli.pool import pool
from fithubert.cli.prepare import prepare
from fithubert.cli.pretrain import pretrain
from fithubert.cli.profile import profile
from fithubert.cli.report import report
from fithubert.cli.superb import superb
from fithubert.cli.sweep import sweep
from fithubert.cli.teacher import teacher
from fithubert.cli.ui import ui
from fithubert.cli.units import units
from fithubert.threads import wait_without_spinning

wait_without_spinning()

#: Heading of `fithubert --help` -> its commands in order. A command is named like its function.
COMMANDS: dict[str, tuple[Callable[..., None], ...]] = {
    "Corpus and teacher": (prepare, pretrain, teacher, cache),
    "Students": (compress, plan, distill, ablation, sweep, import_, export),
    "Your own recordings": (features, units),
    "Results": (extract, profile, superb, depth, leaderboard, report, pool, compare, ui),
    "This machine": (doctor,),
}
_EPILOG = (
    "Every command also accepts `--params FILE`, `--workspace FOLDER`, `--set KEY=VALUE` and `--debug`; "
    "see `fithubert --help`."
)


# Typer's own types of contexts and parameters are private, hence the ignored overrides.


class _Command(TyperCommand):
    """A command whose help shows no type for flags."""

    def get_params(self, ctx: typer.Context) -> list[object]:  # type: ignore[override]
        return _without_flag_types(super().get_params(ctx))


class _Group(TyperGroup):
    """The group of all commands: accepts the global options after the command too."""

    def get_params(self, ctx: typer.Context) -> list[object]:  # type: ignore[override]
        return _without_flag_types(super().get_params(ctx))

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        return super().parse_args(ctx, move_to_front(args))


def _without_flag_types(params: Iterable[object]) -> list[object]:
    listed = list(params)
    for param in listed:
        if isinstance(param, TyperOption) and param.is_flag:
            param.metavar = ""
    return listed


app = typer.Typer(
    cls=_Group,
    help="Distil HuBERT-family models into thin, deep, fast students, and measure how much quality they keep.\n\n"
    "The commands run the stages of `dvc repro` without DVC, on the same params.yaml and folders.\n\n"
    "Example: `fithubert distill fithubert --workspace demo --set distill.updates=100`",
    epilog="The options above may also follow the command.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.callback()(read_options)
for heading, commands in COMMANDS.items():
    for command in commands:
        name = command.__name__.rstrip("_")
        app.command(name, cls=_Command, rich_help_panel=heading, epilog=_EPILOG)(command)


def main() -> None:
    """Run the command line; the entry point of the console script."""
    app(prog_name="fithubert")
