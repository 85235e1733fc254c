from typing import Annotated

import typer

from fithubert.cli.options import stage


def profile(
    students: Annotated[
        list[str] | None,
        typer.Argument(help="Students of the workspace, imported ones too; default: all `students` in params."),
    ] = None,
) -> None:
    """Measure parameters, MACs, latency and memory of the teacher and the students, timed in turn.

    Example: `fithubert profile --set profile.rounds=3`
    """
    with stage(needs_file=not students) as (params, workspace):
        from fithubert.stages.profile import profile as run

        for name, cost in run(params, workspace, students or ()).models.items():
            total, latency = cost.params.total, cost.latency_ratio
            print(f"{name}: {total:,} parameters, {latency:.0%} of the teacher's latency")
