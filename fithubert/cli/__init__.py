"""The `fithubert` command: parse, call, print. Every command does what the DVC stage of its name does."""

import sys
from collections.abc import Callable

try:
    import rich  # noqa: F401  (Typer prints its help with it)
    import typer
except ImportError:
    sys.exit("error: the command line needs Typer and rich: pip install fithubert[cli]")

from fithubert.cli import corpora, results, scores, setup, students, sweeps, teachers, use
from fithubert.cli.start import read_options

#: Every command by its name, in the order and under the headings of `fithubert --help`.
COMMANDS: dict[str, dict[str, Callable[..., None]]] = {
    "Corpus and teacher": {
        "prepare": corpora.prepare,
        "pretrain": teachers.pretrain,
        "teacher": teachers.teacher,
        "cache": teachers.cache,
    },
    "Students": {
        "plan": students.plan,
        "distill": students.distill,
        "ablation": students.ablation,
        "sweep": sweeps.sweep,
        "import": students.import_checkpoint,
        "export": students.export,
    },
    "Your own recordings": {
        "features": use.features,
        "units": use.units,
    },
    "Results": {
        "profile": scores.profile,
        "superb": scores.superb,
        "leaderboard": scores.leaderboard,
        "report": results.report,
        "compare": results.compare,
        "ui": results.ui,
    },
    "This machine": {
        "doctor": setup.doctor,
    },
}

app = typer.Typer(
    help="Distil HuBERT-family models into thin, deep, fast students, and measure what is left of the teacher.\n\n"
    "Without DVC these commands do what the stages of `dvc repro` do, on the same params.yaml and folders.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.callback()(read_options)
for heading, commands in COMMANDS.items():
    for name, command in commands.items():
        app.command(name, rich_help_panel=heading)(command)


def main() -> None:
    """Entry point of the console script."""
    app()
