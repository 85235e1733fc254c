from pathlib import Path
from typing import Annotated

import typer

from fithubert.cli.options import no_stage


def pool(
    runs: Annotated[list[Path], typer.Argument(help="Workspaces of finished runs, each with another seed.")],
    out: Annotated[Path, typer.Option(help="A new folder for the pooled metrics and their report.")],
) -> None:
    """Pool the scores of several runs over their seeds, and write a report of them.

    The runs differ in `distill.seed` and `superb.seeds` only, and may come from several machines.

    Example: `fithubert pool seed1 seed2 seed3 --out pooled`
    """
    with no_stage():
        from fithubert.stages.pool import pool as run
        from fithubert.workspace import Workspace, load_checked

        params = load_checked(runs[0] / "params.yaml")
        print(run(params, [Workspace(path) for path in runs], out).page)
