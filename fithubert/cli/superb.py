from pathlib import Path
from typing import Annotated

import typer

from fithubert.cli.options import stage, to_changes
from fithubert.errors import UserError


def superb(
    model: Annotated[
        str | None,
        typer.Argument(help="`fbank`, `teacher`, an entry of `students` or `superb.controls`, or an imported student."),
    ] = None,
    task: Annotated[
        str | None,
        typer.Argument(help="An entry of `superb.tasks` in params: pr, ks, sid ...; without it, all of them."),
    ] = None,
    everything: Annotated[
        bool,
        typer.Option("--all", help="Instead of MODEL: `superb.models` and `superb.controls`, on all tasks."),
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Tasks that run at once; default: `superb.workers` of params.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="First prepare the task's own corpus from this folder.")] = None,
    official: Annotated[bool, typer.Option("--official", help="Use SUPERB's own protocol and full budget.")] = False,
    seeds: Annotated[int | None, typer.Option(min=1, help="Train with seeds 1 to N; official: 1337.")] = None,
) -> None:
    """Score one model on one SUPERB task or on all; its hidden states are extracted first if they are missing.

    An earlier score is reused if nothing that decides it has changed. `--set` also gives details of a corpus:
    data.lexicon (pr), data.fold and data.lists (er), data.labels (sd).

    Example: `fithubert superb fithubert pr`
    """
    from fithubert.stages.superb import describe_task

    if everything == (model is not None):
        raise typer.BadParameter("name a MODEL, or give --all instead")
    if task is None and (data is not None or official):
        raise typer.BadParameter("--data and --official need a TASK: each has its own corpus and budget")
    changes = [*describe_task(task, data, official, seeds), *to_changes({"superb.workers": workers})]
    with stage(*changes) as (params, workspace):
        from fithubert.stages.extract import extract
        from fithubert.stages.prepare import prepare as prepare_corpus
        from fithubert.stages.superb import superb as run
        from fithubert.tasks import TASKS
        from fithubert.workspace import check_name

        # Before anything that takes long.
        if task is not None:
            check_name(task, list(dict.fromkeys([*TASKS, *params.superb.tasks])), "task")
        if task is not None and task not in params.superb.tasks:
            raise UserError(
                f"task {task!r}: superb.tasks of params.yaml has no {task}; it has {', '.join(params.superb.tasks)}"
            )
        if data is not None:
            prepare_corpus(params, workspace)
        models = (*params.superb.models, *params.superb.controls) if model is None else (model,)
        for name in models:
            if name in params.students:
                workspace.finished_student(name)
        for name in models:
            extract(params, workspace, "teacher" if name in params.superb.controls else name)
            for score in run(params, workspace, name, task).tasks.values():
                for departure in score.departures:
                    print(f"  not the official protocol: {departure}")
