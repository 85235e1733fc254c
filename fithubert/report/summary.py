"""The content of reports/summary.json, and its models as rows of a table."""

import platform
from collections.abc import Mapping
from dataclasses import fields, replace
from importlib import metadata

from fithubert.records import (
    AblationMetrics,
    AblationSummary,
    CorpusSummary,
    CostSummary,
    JsonObject,
    Lead,
    ModelCost,
    ModelSummary,
    PrepareMetrics,
    Summary,
    SuperbMetrics,
)
from fithubert.report.gather import Metrics, ReportPlan
from fithubert.tasks import Metric, share_of_lead, task_info

#: The packages whose versions can change results.
PACKAGES = ("fithubert", "torch", "torchaudio", "numpy", "pyarrow", "scikit-learn", "dvc", "mlflow", "optuna")
_NO_SCORE = "no score in the metrics file"


def build_summary(metrics: Metrics, plan: ReportPlan) -> Summary:
    """The summary of `metrics`. What has not run is absent; what could not be scored is named under `unscored`."""
    profile = metrics.profile
    costs = {} if profile is None else profile.models
    found = [*costs, *metrics.distill, *(model for model, _ in metrics.superb)]
    names = list(dict.fromkeys([*plan.models, *plan.students, *found]))
    models = {name: _summarise_model(name, metrics, plan, costs.get(name)) for name in names}
    lead = _find_lead(models, plan)
    paper = None if profile is None else profile.paper_size
    return Summary(
        models={name: _add_kept(model, models, lead.tasks, plan) for name, model in models.items()},
        paper_size={} if paper is None else {name: CostSummary(**_cost(cost)) for name, cost in paper.models.items()},
        ablations={name: _summarise_ablation(values) for name, values in metrics.ablation.items()},
        lead=lead,
        teacher=plan.teacher,
        baseline=plan.baseline,
        tasks=plan.tasks,
        # JSON objects are written with sorted keys; tables keep this order.
        order=tuple(names),
        corpus=None if metrics.prepare is None else _summarise_corpus(metrics.prepare),
        versions=_find_versions(),
        machine=None if profile is None else profile.machine,
        seconds=metrics.seconds(plan.students),
    )


def task_columns(summary: Summary, unplanned: bool = False) -> list[tuple[str, Metric]]:
    """Every task of a summary with each of its metrics; for a task not in `TASKS`, the measured ones.

    `unplanned` adds the tasks that were measured and are not in `summary.tasks`.
    """
    measured: dict[str, tuple[str, ...]] = {}
    for model in summary.models.values():
        for task, scores in model.superb.items():
            measured.setdefault(task, tuple(scores))
    tasks = dict.fromkeys([*summary.tasks, *(measured if unplanned else ())])
    return [(task, metric) for task in tasks for metric in task_info(task, measured.get(task, ())).metrics]


def compare_rows(summary: Summary) -> list[dict[str, str | float | None]]:
    """One row for each model: name, costs, and `TASK METRIC` columns; None for what was not measured.

    Every row has the same keys in the same order, so that it prints as a table or as JSON.
    """
    columns = task_columns(summary, unplanned=True)
    rows = []
    for name, model in summary.ordered.items():
        row: dict[str, str | float | None] = {
            "model": name,
            "params": None if model.params is None else model.params.total,
            "size_ratio": model.size_ratio,
            "macs_per_second": model.macs_per_second,
            "rtf": model.rtf,
            "latency_ratio": model.latency_ratio,
        }
        row |= {f"{task} {metric.name}": model.score(task, metric.name) for task, metric in columns}
        rows.append(row | {"kept": model.kept})
    return rows


def _summarise_model(name: str, metrics: Metrics, plan: ReportPlan, cost: ModelCost | None) -> ModelSummary:
    tasks = dict.fromkeys([*plan.tasks, *(task for model, task in metrics.superb if model == name)])
    scores: dict[str, SuperbMetrics] = {
        task: metrics.superb[name, task] for task in tasks if (name, task) in metrics.superb
    }
    official = {task: score.departures for task, score in scores.items() if score.protocol == "official"}
    extracted, trained = metrics.extract.get(name), metrics.distill.get(name)
    prints = [source.fingerprint for source in (extracted, trained, cost) if source is not None]
    readout = extracted.readout if extracted is not None else None
    return ModelSummary(
        **_cost(cost),
        superb={task: score.metrics for task, score in scores.items() if score.metrics},
        unscored={task: score.reason or _NO_SCORE for task, score in scores.items() if not score.metrics},
        ci={task: score.intervals for task, score in scores.items() if score.intervals},
        chance={task: score.chance for task, score in scores.items() if score.chance},
        seeds={task: score.seeds for task, score in scores.items() if score.seeds},
        official=official or None,
        readout=readout or (trained.readout if trained is not None else None),
        init=trained.init if trained is not None else None,
        fingerprint=prints[0] if prints else None,
    )


def _cost(cost: ModelCost | None) -> JsonObject:
    """The fields of a `CostSummary`."""
    return {} if cost is None else {field.name: getattr(cost, field.name) for field in fields(CostSummary)}


def _summarise_ablation(values: AblationMetrics) -> AblationSummary:
    return AblationSummary(values.of, values.updates, values.seeds, values.variants, values.comparisons, values.profile)


def _summarise_corpus(values: PrepareMetrics) -> CorpusSummary:
    return CorpusSummary(
        values.source, values.fingerprint, values.utterances, values.hours, values.speakers, values.splits
    )


def _find_lead(models: Mapping[str, ModelSummary], plan: ReportPlan) -> Lead:
    low, high = models.get(plan.baseline), models.get(plan.teacher)
    if low is None or high is None:
        return Lead()
    both = [task for task in high.superb if task in low.superb]
    tasks = tuple(task for task in both if _leads(task, low, high))
    return Lead(tasks, tuple(task for task in both if task not in tasks))


def _leads(task: str, low: ModelSummary, high: ModelSummary) -> bool:
    """Whether `high` beats `low` in every metric of `task`, beyond the intervals of both if they have them.

    A lead within the noise would decide every mean that contains its share.
    """
    for metric in task_info(task, tuple(high.superb[task])).metrics:
        ends = []
        for model in (low, high):
            value = model.score(task, metric.name)
            if value is None:
                return False
            interval = model.interval(task, metric.name) or (value,)
            ends.append(sorted(-end if metric.lower else end for end in interval))
        if ends[0][-1] >= ends[1][0]:
            return False
    return True


def _add_kept(
    model: ModelSummary, models: Mapping[str, ModelSummary], tasks: tuple[str, ...], plan: ReportPlan
) -> ModelSummary:
    """`model` with its shares of the teacher's lead over filter banks on the `tasks` on which the teacher leads.

    A model without a score on one of them has no `kept`: means over different tasks must not be compared.
    """
    if not tasks:
        return model
    teacher, baseline = models[plan.teacher].superb, models[plan.baseline].superb
    shares = {}
    for task in tasks:
        metrics = task_info(task, tuple(teacher[task])).metrics
        share = share_of_lead(metrics, model.superb.get(task, {}), baseline[task], teacher[task])
        if share is not None:
            shares[task] = share
    mean = sum(shares.values()) / len(shares) if len(shares) == len(tasks) else None
    return replace(model, kept_by_task=shares or None, kept=mean)


def _find_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
