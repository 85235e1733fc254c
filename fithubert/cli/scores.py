"""Commands that measure a model."""

from pathlib import Path
from typing import Annotated

import typer

from fithubert.cli.start import options, stage
from fithubert.errors import exit_on_user_error


def profile() -> None:
    """Measure parameters, MACs, latency and memory of the teacher and every student, timed in turn."""
    with stage() as (params, workspace):
        from fithubert.stages.profile import profile as run

        for name, cost in run(params, workspace)["models"].items():
            print(
                f"{name}: {cost['params']['total']:,} parameters, {cost['latency_ratio']:.2f} of the teacher's latency"
            )


def superb(
    model: Annotated[str, typer.Argument(help="`fbank`, `teacher`, or an entry of `students` in params.")],
    task: Annotated[str, typer.Argument(help="An entry of `superb.tasks` in params: pr, ks, sid ...")],
    data: Annotated[Path | None, typer.Option(help="Prepare the task's own corpus from here first.")] = None,
    official: Annotated[bool, typer.Option("--official", help="By SUPERB's own protocol, not on a budget.")] = False,
    seeds: Annotated[int | None, typer.Option(min=1, help="Train with seeds 1 to N (official: 1337).")] = None,
) -> None:
    """Score one model on one SUPERB task; its features are extracted first where they are not there.

    `--set` says more of a corpus: data.lexicon (pr), data.fold and data.lists (er), data.labels (sd).
    """
    from fithubert.stages.superb import describe_score, describe_task

    with stage(*describe_task(task, data, official, seeds)) as (params, workspace):
        from fithubert.stages.extract import extract
        from fithubert.stages.prepare import prepare as prepare_corpus
        from fithubert.stages.superb import superb as run
        from fithubert.workspace import check_name

        # Before anything that takes long.
        check_name(task, list(params.superb.tasks), "task")
        if data is not None:
            prepare_corpus(params, workspace)
        extract(params, workspace, model)
        done = run(params, workspace, model, task)
        scores = ", ".join(describe_score(done, name) for name in done["metrics"])
        print(f"{model} on {task}: {scores or done['reason']}")
        for departure in done.get("departures", ()):
            print(f"  not the official protocol: {departure}")


def leaderboard(
    model: Annotated[str, typer.Argument(help="A model that was scored on all ten tasks by the official protocol.")],
    workspaces: Annotated[list[Path], typer.Argument(help="The folders in which: one a corpus, for ER one a fold.")],
) -> None:
    """Print superb_s and the overall score of one model, as the leaderboard and the compression papers have them."""
    with exit_on_user_error(options.debug):
        from fithubert.stages.leaderboard import leaderboard as run

        scored = run(model, workspaces)
        for task, metrics in scored.metrics.items():
            print(f"{task}: {', '.join(f'{name} {value:.2f}' for name, value in metrics.items())}")
        print(f"superb_s {scored.superb_s:.0f}, overall {scored.overall:.1f}")
