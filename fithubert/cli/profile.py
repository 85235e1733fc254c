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

    MACs are given for a second of audio, and for the 32 utterances on which SUPERB's leaderboard counts them.

    Example: `fithubert profile --set profile.rounds=3`
    """
    with stage(needs_file=not students) as (params, workspace):
        from fithubert.stages.profile import profile as run

        done = run(params, workspace, students or ())
        for name, cost in done.models.items():
            total, latency, macs = cost.params.total, cost.latency_ratio, (done.superb_macs or {})[name]
            print(
                f"{name}: {total:,} parameters, {latency:.0%} of the teacher's latency, "
                f"{macs / 1e9:,.1f} GMAC on SUPERB's 32 utterances"
            )
