import re
from pathlib import Path
from typing import Annotated

import typer

from fithubert.cli.options import stage


def _count(text: str) -> int:
    """A number of parameters: 1500000, 1.5M, 900k."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kMG]?)", text)
    if found is None or float(found[1]) == 0:
        raise typer.BadParameter("must be a number of parameters, such as 1500000, 1.5M or 900k")
    return int(float(found[1]) * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[found[2]])


def sweep(
    trials: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Trained trials in all; default: `sweep.trials` of params.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, metavar="N", help="Processes on this machine.")] = 2,
    threads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Threads of each worker; default: its share of the cores.")
    ] = None,
    study: Annotated[str, typer.Option(help="The name of the study; an existing one is continued.")] = "default",
    storage: Annotated[
        str | None,
        typer.Option(help="The URL of a database that all machines reach; default: an SQLite file."),
    ] = None,
    max_params: Annotated[
        int | None, typer.Option(parser=_count, metavar="N", help="Parameters at most: 25M, 900k.")
    ] = None,
    max_latency_ratio: Annotated[
        float | None,
        typer.Option(min=0.0, metavar="SHARE", help="Estimated latency at most, as a share of the teacher's."),
    ] = None,
    space: Annotated[
        Path | None, typer.Option(help="YAML: choices of each key; default: `sweep.space` of params.")
    ] = None,
    warm_start: Annotated[
        bool | None,
        typer.Option(
            "--warm-start/--no-warm-start",
            help="Start every trial from layers of the teacher, or from random weights; default: as `sweep.of`.",
        ),
    ] = None,
    report: Annotated[
        str | None, typer.Option(metavar="STUDY", help="Train nothing; only write the results of STUDY.")
    ] = None,
) -> None:
    """Search shapes of a student for the Pareto front of quality against cost.

    If it was interrupted, the same command continues. On other machines, the same command with the same `--storage`
    joins the study. Trials above a limit are never trained.

    Example: `fithubert sweep --trials 20 --workers 2 --max-params 1.5M`
    """
    with stage() as (params, workspace):
        from fithubert.report.table import print_table
        from fithubert.search.space import Limits, read_space
        from fithubert.stages.sweep import REPORT, SweepOptions, report_sweep
        from fithubert.stages.sweep import sweep as run

        if report is not None:
            found = report_sweep(workspace, report, storage)
        else:
            if trials is not None:
                params = params.model_copy(update={"sweep": params.sweep.model_copy(update={"trials": trials})})
            limits = Limits(max_params, max_latency_ratio)
            shapes = None if space is None else read_space(space)
            options = SweepOptions(study, storage, workers, threads, limits, shapes, warm_start)
            found = run(params, workspace, options)
        print_table([{"trial": p.name, **{name: f"{v:.4g}" for name, v in p.values.items()}} for p in found.front])
        print(f"{len(found.front)} of {len(found.points)} trials on the front: {REPORT}/front.html, best.yaml")
