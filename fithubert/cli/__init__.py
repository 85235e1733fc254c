"""The `fithubert` command: parse, call, print. A command does what the DVC stage of its name does."""

import sys
from importlib import import_module

try:
    import rich  # noqa: F401  (Typer prints its help with it)
    import typer
    from typer.core import TyperCommand, TyperGroup, TyperOption
except ImportError:
    sys.exit("error: the command line needs Typer and rich: pip install fithubert[cli]")

from fithubert.cli.options import move_to_front, read_options
from fithubert.workers import wait_without_spinning

wait_without_spinning()

#: Heading of `fithubert --help` -> its commands in order. A command is named like its file and its function.
COMMANDS = {
    "Corpus and teacher": ("init", "prepare", "pretrain", "teacher", "cache"),
    "Students": ("compress", "plan", "distill", "ablation", "sweep", "import_", "export"),
    "Your own recordings": ("features", "units"),
    "Results": ("extract", "profile", "superb", "depth", "leaderboard", "report", "pool", "compare", "ui"),
    "This machine": ("doctor",),
}
_EPILOG = (
    "Every command also accepts `--debug`, and one that reads parameters or a workspace `--params FILE`, "
    "`--set KEY=VALUE` and `--workspace FOLDER`; see `fithubert --help`."
)


# Typer's own types of contexts and parameters are private, hence the ignored overrides.


class _WithoutFlagTypes:
    """The help shows no type for flags."""

    def get_params(self, ctx: typer.Context) -> list[object]:
        params = list(super().get_params(ctx))  # type: ignore[misc]
        for param in params:
            if isinstance(param, TyperOption) and param.is_flag:
                param.metavar = ""
        return params


class _Command(_WithoutFlagTypes, TyperCommand):  # type: ignore[misc]
    """A command."""


class _Group(_WithoutFlagTypes, TyperGroup):  # type: ignore[misc]
    """The group of all commands: accepts the global options after the command too."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        return super().parse_args(ctx, move_to_front(args))


app = typer.Typer(
    cls=_Group,
    help="Distil HuBERT-family models into thin, deep, fast students, and measure how much quality they keep.\n\n"
    "The commands run the stages of `dvc repro` without DVC, on the same params.yaml and folders. `fithubert init` "
    "writes a params.yaml; `fithubert compress` needs none.\n\n"
    "Example: `fithubert distill fithubert --workspace trial --set distill.updates=100`",
    epilog="The options above may also follow the command.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.callback()(read_options)
for heading, commands in COMMANDS.items():
    for name in commands:
        command = getattr(import_module(f"fithubert.cli.{name}"), name)
        app.command(name.rstrip("_"), cls=_Command, rich_help_panel=heading, epilog=_EPILOG)(command)


def main() -> None:
    """Run the command line; the entry point of the console script."""
    app(prog_name="fithubert")
