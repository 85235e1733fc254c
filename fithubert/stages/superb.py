"""One model on one task, from its frozen features."""

import json
from dataclasses import replace
from pathlib import Path

from fithubert.config.params import Params
from fithubert.config.superb import official_budgets
from fithubert.errors import UserError
from fithubert.files import read_json
from fithubert.records import SuperbMetrics
from fithubert.stages import tracked_stage
from fithubert.store import Expected
from fithubert.store.read import FeatureStore
from fithubert.superb.learners import RunOptions
from fithubert.superb.official import corpus_settings, describe_corpus, list_corpus_departures
from fithubert.superb.run import run_task
from fithubert.tasks import TASKS, find_metric
from fithubert.training.progress import progress_line
from fithubert.workspace import Workspace, check_name


def superb(params: Params, workspace: Workspace, model: str, task: str) -> SuperbMetrics:
    """Score `model` on `task` and write the metrics; a corpus without the labels gives a reason instead of scores."""
    check_name(task, list(params.superb.tasks), "task")
    with tracked_stage(params, workspace, "superb", model, task):
        return _score(params, workspace, model, task)


def _score(params: Params, workspace: Workspace, model: str, task: str) -> SuperbMetrics:
    manifest = workspace.load_manifest()
    store = FeatureStore.open(workspace.extracted(model), Expected(corpus=manifest.fingerprint))
    official = params.superb.protocol == "official"
    if official:
        _check_prepared(params, workspace)
    options = RunOptions(params.superb.device, params.superb.memory_gb * 1e9, progress_line(f"{model} on {task}"))
    quirks = params.superb.quirks if official else None
    result = run_task(task, store, manifest, params.superb.tasks[task], params.superb.seeds, quirks, options)
    departures = list_corpus_departures(task, params.data, params.superb.quirks) if official else ()
    metrics = replace(
        result, model=model, departures=(*result.departures, *departures), corpus=describe_corpus(params.data)
    )
    metrics.write(workspace.metrics(f"superb@{model}-{task}"))
    return metrics


def describe_scores(metrics: SuperbMetrics) -> str:
    """One line: `teacher pr: PER 46.60 [44.90, 48.40]`, or the reason why there are no scores."""
    scores = ", ".join(describe_score(metrics, name) for name in metrics.metrics)
    return f"{metrics.model} {metrics.task}: {scores or metrics.reason}"


def describe_score(metrics: SuperbMetrics, name: str) -> str:
    """A metric with its 95 % interval and, for several seeds, their standard deviation."""
    low, high = metrics.intervals[name]
    seeds = f", {metrics.seed_deviation[name]:.2f} over seeds" if len(metrics.seeds) > 1 else ""
    plain = name.removesuffix("_test_selected")
    label = find_metric(metrics.task, plain).label + (" selected on test" if plain != name else "")
    return f"{label} {metrics.metrics[name]:.2f} [{low:.2f}, {high:.2f}{seeds}]"


def describe_task(task: str, data: Path | None, official: bool, seeds: int | None = None) -> list[str]:
    """Changes of the parameters: the task's own corpus in `data`, SUPERB's settings if the run is `official`, and the
    seeds 1 to `seeds`."""
    if task not in TASKS:
        return []
    changes = []
    if data is not None:
        changes.append(f"data={json.dumps(corpus_settings(task, str(data), official))}")
    if official:
        budget = official_budgets()[task].model_dump(mode="json")
        changes += ["superb.protocol=official", "superb.seeds=[1337]", f"superb.tasks.{task}={json.dumps(budget)}"]
    if seeds is not None:
        changes.append(f"superb.seeds={list(range(1, seeds + 1))}")
    return changes


def _check_prepared(params: Params, workspace: Workspace) -> None:
    """Raise UserError if the workspace holds another corpus than `params` names: a result must name its own."""
    path = workspace.metrics("prepare")
    prepared = read_json(path).get("source") if path.is_file() else None
    if prepared not in (None, params.data.source):
        raise UserError(
            f"{workspace.data}: was prepared from {prepared} but data.source is {params.data.source}; an official "
            "result names its corpus, so give the same `data` to superb (--data DIR prepares it)"
        )
