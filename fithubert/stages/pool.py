"""Several runs of the pipeline with different seeds as one: their scores pooled, and a report of them."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fithubert.config.params import Params
from fithubert.errors import UserError
from fithubert.files import atomic_directory
from fithubert.records import write_resamples
from fithubert.report.page import ReportFiles, write_report
from fithubert.report.summary import plan_report, read_scores
from fithubert.superb.pool import pool_scores
from fithubert.workspace import Workspace

#: What a folder of pooled results holds.
_CONTENTS = ("metrics", "resamples", "figures", "summary.json", "table.md", "index.html")


def pool(params: Params, runs: Sequence[Workspace], out: Path) -> ReportFiles:
    """Pool the scores of `runs` and write a report in `out`; all other metrics are those of the first run.

    Models and tasks that a run lacks are left out and named. Raises UserError if the runs differ in corpus or protocol
    or share a seed, and if `out` holds anything else.
    """
    scores = [read_scores(run.reports) for run in runs]
    common = [name for name in scores[0] if all(name in run for run in scores)]
    left_out = sorted({name for run in scores for name in run} - set(common))
    if not common:
        raise UserError("the runs have no scored model in common; run `fithubert superb MODEL` in each")
    if left_out:
        print(f"not in every run, so left out: {', '.join(left_out)}")
    with atomic_directory(out, _CONTENTS) as folder:
        metrics = folder / "metrics"
        shutil.copytree(runs[0].reports / "metrics", metrics, ignore=shutil.ignore_patterns("superb"))
        for name in common:
            pooled = pool_scores([run[name] for run in scores])
            pooled.write(metrics / "superb" / f"{name}.json")
            write_resamples(pooled, folder / "resamples" / f"{name}.npz")
        write_report(folder, replace(plan_report(params), dvc=False))
    return ReportFiles.of(out)
