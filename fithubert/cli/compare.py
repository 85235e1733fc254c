import json
from pathlib import Path
from typing import Annotated

import typer

from fithubert.cli.options import no_stage, options


def compare(
    summary: Annotated[Path | None, typer.Argument(help="A summary.json; default: that of the workspace.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """Print size, speed and scores of all models as a table.

    Example: `fithubert compare --workspace demo`
    """
    with no_stage():
        from fithubert.records import load_summary
        from fithubert.report.summary import compare_rows
        from fithubert.report.table import explain_missing_shares, print_table
        from fithubert.workspace import Workspace

        workspace = Workspace(options.workspace)
        found = load_summary(summary or workspace.reports / "summary.json")
        rows = compare_rows(found)
        students = {name for name, model in found.models.items() if model.init is not None}
        if summary is None and students and not students & set(workspace.list_students()):
            note = "recorded results: their students are not in this folder; `dvc repro` trains and measures them"
            typer.echo(note, err=True)
        if as_json:
            print(json.dumps(rows, indent=2))
        else:
            print_table(rows)
            missing = explain_missing_shares(found)
            if missing is not None:
                print(missing)
