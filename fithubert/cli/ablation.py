from typing import Annotated

import typer

from fithubert.cli.options import stage


def ablation(name: Annotated[str, typer.Argument(help="An entry of `ablation` in params.")]) -> None:
    """Train the variants of a student with several seeds each, and compare them.

    Finished trials of the same settings and code are kept. The report shows the comparison.

    Example: `fithubert ablation time_reduction`
    """
    with stage() as (params, workspace):
        from fithubert.report.table import print_table
        from fithubert.search.ablation import comparison_rows
        from fithubert.stages.ablation import ablation as run

        print_table(comparison_rows(run(params, workspace, name)))
