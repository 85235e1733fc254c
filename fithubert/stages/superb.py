"""One model on one task, from its frozen features."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fithubert.config.data import DataParams, IemocapData, LibriSpeechData
from fithubert.config.params import Params
from fithubert.config.superb import OfficialQuirks, official_budgets
from fithubert.errors import UserError
from fithubert.files import read_json, write_json
from fithubert.models.runtime import choose_device
from fithubert.stages import tracked_stage
from fithubert.store.format import Expected
from fithubert.store.read import FeatureStore
from fithubert.superb.chance import chance_levels
from fithubert.superb.official import SOX_GAIN_DB
from fithubert.superb.protocol import NotScorable, Resources
from fithubert.superb.run import run_task
from fithubert.tasks import TASKS
from fithubert.workspace import Workspace, check_name

#: Stored crops of a long recording: an epoch hears one of them.
_CROPS = 8


def superb(params: Params, workspace: Workspace, model: str, task: str) -> dict[str, Any]:
    """Score `model` on `task` and write the metrics; a corpus without the labels gives a reason instead of scores."""
    check_name(task, list(params.superb.tasks), "task")
    with tracked_stage(params, workspace, "superb", model, task):
        return _score(params, workspace, model, task)


def _score(params: Params, workspace: Workspace, model: str, task: str) -> dict[str, Any]:
    manifest = workspace.load_manifest()
    store = FeatureStore.open(workspace.extracted(model), Expected(corpus=manifest.fingerprint))
    official = params.superb.protocol == "official"
    if official:
        _check_prepared(params, workspace)
    result = run_task(
        task,
        store,
        manifest,
        params.superb.tasks[task],
        params.superb.seeds,
        quirks=params.superb.quirks if official else None,
        resources=Resources(choose_device(params.superb.device), params.superb.memory_gb * 1e9),
    )
    if isinstance(result, NotScorable):
        metrics: dict[str, Any] = {"task": task, "model": model, "metrics": {}, "reason": result.reason}
    else:
        values = asdict(result)
        scores = values.pop("metrics")
        if official:
            values["departures"] = (
                *result.departures,
                *list_corpus_departures(task, params.data, params.superb.quirks),
            )
        metrics = {
            **values,
            "model": model,
            "corpus": _describe_corpus(params),
            "metrics": {name: score["value"] for name, score in scores.items()},
            "intervals": {name: [score["low"], score["high"]] for name, score in scores.items()},
            "seed_deviation": {name: score["seed_deviation"] for name, score in scores.items()},
            "chance": chance_levels(task, manifest),
        }
    write_json(workspace.metrics(f"superb@{model}-{task}"), metrics)
    return metrics


def describe_scores(metrics: dict[str, Any]) -> str:
    """One line: `teacher pr: per 46.60 [44.90, 48.40]`, or the reason why there are no scores."""
    scores = ", ".join(describe_score(metrics, name) for name in metrics["metrics"])
    return f"{metrics['model']} {metrics['task']}: {scores or metrics['reason']}"


def describe_score(metrics: dict[str, Any], name: str) -> str:
    """A metric with its 95 % interval and, of several seeds, their standard deviation."""
    low, high = metrics["intervals"][name]
    seeds = f", {metrics['seed_deviation'][name]:.2f} over seeds" if len(metrics["seeds"]) > 1 else ""
    return f"{name} {metrics['metrics'][name]:.2f} [{low:.2f}, {high:.2f}{seeds}]"


def describe_task(task: str, data: Path | None, official: bool, seeds: int | None = None) -> list[str]:
    """Changes of the parameters: the task's own corpus in `data`, SUPERB's settings where the run is `official`, and
    the seeds 1 to `seeds`."""
    if task not in TASKS:
        return []
    changes = []
    if data is not None:
        corpus: dict[str, Any] = {"source": TASKS[task].corpus, "path": str(data)}
        if TASKS[task].corpus == "voxceleb1":
            corpus |= {"task": task, "crops": _CROPS if official else 0}
            corpus |= {"trim_silence": True} if official and task == "asv" else {}
        if official and "sox_gain" in TASKS[task].quirks:
            corpus["gain_db"] = SOX_GAIN_DB
        changes.append(f"data={json.dumps(corpus)}")
    if official:
        budget = official_budgets()[task].model_dump(mode="json")
        changes += ["superb.protocol=official", "superb.seeds=[1337]", f"superb.tasks.{task}={json.dumps(budget)}"]
    if seeds is not None:
        changes.append(f"superb.seeds={list(range(1, seeds + 1))}")
    return changes


def list_corpus_departures(task: str, data: DataParams, quirks: OfficialQuirks) -> tuple[str, ...]:
    """In what the corpus is not the one that the leaderboard scores `task` on."""
    if data.source != TASKS[task].corpus:
        return (f"corpus {data.source} instead of {TASKS[task].corpus}",)
    departures = []
    if isinstance(data, LibriSpeechData):
        given = {"train": data.train, "dev": data.dev, "test": data.test}
        official = {"train": ("train-clean-100",), "dev": ("dev-clean",), "test": ("test-clean",)}
        departures += [f"{split} {'+'.join(given[split])}" for split in official if given[split] != official[split]]
    if isinstance(data, IemocapData) and data.lists is None and quirks.er_split_order:
        departures.append("dev is not drawn in the order of s3prl's lists (data.lists)")
    return tuple(departures)


def _check_prepared(params: Params, workspace: Workspace) -> None:
    """Raise UserError where the workspace holds another corpus than `params` says: a result must name its own."""
    path = workspace.metrics("prepare")
    prepared = read_json(path).get("source") if path.is_file() else None
    if prepared not in (None, params.data.source):
        raise UserError(
            f"{workspace.data}: was prepared from {prepared} and data.source is {params.data.source}; an official "
            "result names its corpus, so give the same `data` to superb (--data DIR prepares it)"
        )


def _describe_corpus(params: Params) -> str:
    """The source, and of IEMOCAP the fold: its five are averaged."""
    data = params.data
    return f"{data.source}/{data.fold}" if isinstance(data, IemocapData) else data.source
