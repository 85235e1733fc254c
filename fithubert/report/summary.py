"""reports/summary.json: the machine-readable result of everything that has run."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from fithubert.errors import UserError
from fithubert.files import read_json
from fithubert.report.gather import Metrics, Score
from fithubert.tasks import share_of_lead, task_info

#: The packages whose versions decide results.
PACKAGES = ("fithubert", "torch", "torchaudio", "numpy", "pyarrow", "scikit-learn", "dvc", "mlflow", "optuna")


@dataclass(frozen=True)
class ReportPlan:
    """What the pipeline means to produce, so that the page can say what has not run."""

    models: tuple[str, ...]
    tasks: tuple[str, ...]
    #: The models that are distilled here.
    students: tuple[str, ...]
    ablations: tuple[str, ...] = ()
    title: str = "fithubert"
    teacher: str = "teacher"
    baseline: str = "fbank"


def build_summary(metrics: Metrics, plan: ReportPlan) -> dict[str, Any]:
    """The summary of `metrics`. What has not run is absent; what could not be scored is named under `unscored`."""
    profile = metrics.single.get("profile", {})
    names = _model_names(metrics, plan)
    models = {name: _model_entry(name, metrics, plan, profile.get("models", {}).get(name)) for name in names}
    lead = _find_lead(models, plan)
    _add_kept(models, lead["tasks"], plan)
    paper = profile.get("paper_size") or {}
    return {
        "models": models,
        "paper_size": {name: _cost_entry(cost) for name, cost in paper.get("models", {}).items()},
        "ablations": {name: _without(values, ("seconds", "trials")) for name, values in metrics.ablations.items()},
        "lead": lead,
        "teacher": plan.teacher,
        "baseline": plan.baseline,
        "tasks": list(plan.tasks),
        # JSON objects are written with sorted keys; tables keep this order.
        "order": list(models),
        "corpus": _without(metrics.single.get("prepare", {}), ("seconds", "skipped")),
        "versions": _versions(),
        "machine": profile.get("machine", {}),
        "seconds": metrics.seconds(plan.students),
    }


def load_summary(path: Path) -> dict[str, Any]:
    """The summary in `path`; raises UserError where it is missing, with the command that writes it."""
    if not path.exists():
        raise UserError(f"{path}: no such file; `fithubert report` (or `dvc repro`) writes it")
    values = read_json(path)
    if not isinstance(values, dict) or "models" not in values:
        raise UserError(f"{path}: holds no models; `fithubert report` (or `dvc repro`) writes it anew")
    return values


def compare_rows(summary: Mapping[str, Any]) -> list[dict[str, str | float | None]]:
    """One row for each model: name, costs, and `TASK METRIC` columns; None where nothing was measured.

    Every row has the same keys in the same order, so that it prints as a table or as JSON.
    """
    models = summary["models"]
    columns = _score_columns(summary)
    rows = []
    for name in summary.get("order", list(models)):
        model = models[name]
        row: dict[str, str | float | None] = {
            "model": name,
            "params": model.get("params", {}).get("total"),
            "size_ratio": model.get("size_ratio"),
            "macs_per_second": model.get("macs_per_second"),
            "rtf": model.get("rtf"),
            "latency_ratio": model.get("latency_ratio"),
        }
        for task, metric in columns:
            row[f"{task} {metric}"] = model.get("superb", {}).get(task, {}).get(metric)
        row["kept"] = model.get("kept")
        rows.append(row)
    return rows


def _score_columns(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    measured: dict[str, list[str]] = {task: [] for task in summary.get("tasks", [])}
    for model in summary["models"].values():
        for task, scores in model.get("superb", {}).items():
            known = measured.setdefault(task, [])
            known += [metric for metric in scores if metric not in known]
    columns = []
    for task, names in measured.items():
        wanted = [metric.name for metric in task_info(task, tuple(names)).metrics]
        columns += [(task, metric) for metric in wanted]
    return columns


def _model_names(metrics: Metrics, plan: ReportPlan) -> list[str]:
    """The planned models first and in their order, then whatever else was measured."""
    found = [*metrics.single.get("profile", {}).get("models", {}), *metrics.distill, *(m for m, _ in metrics.superb)]
    return list(dict.fromkeys([*plan.models, *plan.students, *found]))


def _model_entry(name: str, metrics: Metrics, plan: ReportPlan, cost: dict[str, Any] | None) -> dict[str, Any]:
    entry = _cost_entry(cost) if cost else {}
    scores: dict[str, Score] = {}
    for task in dict.fromkeys([*plan.tasks, *(t for m, t in metrics.superb if m == name)]):
        score = metrics.score(name, task)
        if score is not None:
            scores[task] = score
    entry["superb"] = {task: score.metrics for task, score in scores.items() if score.metrics}
    entry["unscored"] = {task: score.reason for task, score in scores.items() if score.reason}
    entry["ci"] = {
        task: {metric: list(ci) for metric, ci in score.intervals.items()}
        for task, score in scores.items()
        if score.intervals
    }
    # What a model that hears nothing scores: the same for every model of one corpus.
    entry["chance"] = {task: score.chance for task, score in scores.items() if score.chance}
    entry["seeds"] = {task: list(score.seeds) for task, score in scores.items() if score.seeds}
    official = {task: list(score.departures) for task, score in scores.items() if score.protocol == "official"}
    if official:
        # Task -> in what its result departs from SUPERB's protocol; tasks that are not here are scored by `mini`.
        entry["official"] = official
    features = metrics.features.get(name, {})
    trained = metrics.distill.get(name, {})
    for key in ("readout", "init", "fingerprint"):
        value = features.get(key) or trained.get(key) or (cost or {}).get(key)
        if value is not None:
            entry[key] = value
    return entry


def _cost_entry(cost: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("params", "macs_per_second", "rtf", "size_ratio", "macs_ratio", "latency_ratio", "latency_ratio_ci")
    return {key: cost[key] for key in (*keys, "peak_memory_bytes") if cost.get(key) is not None}


def _find_lead(models: Mapping[str, dict[str, Any]], plan: ReportPlan) -> dict[str, list[str]]:
    """The `tasks` on which the teacher leads filter banks, and the `skipped` ones, on which both are scored, too."""
    low, high = (models.get(name, {}) for name in (plan.baseline, plan.teacher))
    both = [task for task in high.get("superb", {}) if task in low.get("superb", {})]
    tasks = [task for task in both if _leads(task, low, high)]
    return {"tasks": tasks, "skipped": [task for task in both if task not in tasks]}


def _leads(task: str, low: Mapping[str, Any], high: Mapping[str, Any]) -> bool:
    """Whether `high` beats `low` in every metric of `task`, beyond the intervals of both where they are known.

    Shares of a lead that is no more than noise would decide every mean that they are in.
    """
    for metric in task_info(task, tuple(high["superb"][task])).metrics:
        ends = []
        for model in (low, high):
            value = model["superb"][task].get(metric.name)
            if value is None:
                return False
            interval = model.get("ci", {}).get(task, {}).get(metric.name, [value])
            ends.append(sorted(-end if metric.lower else end for end in interval))
        if ends[0][-1] >= ends[1][0]:
            return False
    return True


def _add_kept(models: dict[str, dict[str, Any]], tasks: Sequence[str], plan: ReportPlan) -> None:
    """`kept`: the mean share of the teacher's lead over filter banks, over the `tasks` on which it leads.

    A model that lacks one of them has no `kept`: means over different tasks must not be compared.
    """
    teacher = models.get(plan.teacher, {}).get("superb", {})
    baseline = models.get(plan.baseline, {}).get("superb", {})
    for model in models.values():
        shares = {}
        for task in tasks:
            metrics = task_info(task, tuple(teacher[task])).metrics
            share = share_of_lead(metrics, model["superb"].get(task, {}), baseline[task], teacher[task])
            if share is not None:
                shares[task] = share
        if shares:
            model["kept_by_task"] = shares
        if tasks and len(shares) == len(tasks):
            model["kept"] = sum(shares.values()) / len(shares)


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _without(values: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in keys}
