"""Commands that show what was measured."""

import json
from pathlib import Path
from typing import Annotated

import typer

from fithubert.cli.start import options, stage
from fithubert.errors import exit_on_user_error


def report() -> None:
    """Write reports/summary.json, the table and the page from everything measured so far."""
    with stage() as (params, workspace):
        from fithubert.stages.report import report as run

        print(run(params, workspace).page)


def compare(
    summary: Annotated[Path | None, typer.Argument(help="A summary.json; else that of the workspace.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """Print the models side by side: size, speed, scores."""
    with exit_on_user_error(options.debug):
        from fithubert.report.summary import compare_rows, load_summary
        from fithubert.report.terminal import print_table

        rows = compare_rows(load_summary(summary or options.workspace / "reports" / "summary.json"))
        if as_json:
            print(json.dumps(rows, indent=2))
        else:
            print_table(rows)


def ui(
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port on 127.0.0.1; else the first free one from 5000 up.")
    ] = None,
) -> None:
    """Run MLflow's server on 127.0.0.1 until Ctrl-C, and print the addresses of the runs and of their comparison.

    Nothing leaves this machine. With MLFLOW_TRACKING_URI at a server elsewhere, only prints the addresses there.
    """
    with exit_on_user_error(options.debug):
        from fithubert.tracking.ui import serve_ui

        serve_ui(options.workspace, port)
