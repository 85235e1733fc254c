"""The metrics of a workspace, the content of reports/summary.json, and its models as rows of a table."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib import metadata
from pathlib import Path
from typing import TypeVar

from fithubert.config.params import REFERENCES, Params
from fithubert.records import (
    AblationMetrics,
    AblationSummary,
    CacheMetrics,
    CorpusSummary,
    CostSummary,
    DepthGate,
    DepthMetrics,
    DistillMetrics,
    ExtractMetrics,
    ModelCost,
    ModelScores,
    ModelSummary,
    PrepareMetrics,
    ProfileMetrics,
    Record,
    Summary,
    SuperbMetrics,
    SweepMetrics,
    TeacherMetrics,
    add_resamples,
)
from fithubert.report.paired import compare_pairs, find_kept, find_lead
from fithubert.tasks import Metric, task_info

Kind = TypeVar("Kind", bound=Record)

#: The packages whose versions can change results.
PACKAGES = ("fithubert", "torch", "torchaudio", "numpy", "pyarrow", "scikit-learn", "dvc", "mlflow", "optuna")
#: The control that the depth gate compares the teacher with: its first states, before its third layer.
CUT_TEACHER = "teacher_cut2"
_NO_SCORE = "no score in the metrics file"


@dataclass(frozen=True)
class ReportPlan:
    """The results that the pipeline is to produce, so that the page can name what has not run.

    `students`: the models that are distilled in this workspace. `controls`: those that are states of the teacher.
    `dvc`: its stages are run by DVC.
    """

    models: tuple[str, ...]
    tasks: tuple[str, ...]
    students: tuple[str, ...]
    controls: tuple[str, ...] = ()
    ablations: tuple[str, ...] = ()
    title: str = "fithubert"
    teacher: str = "teacher"
    baseline: str = "fbank"
    dvc: bool = True


@dataclass(frozen=True)
class Metrics:
    """The metrics of all stages. A stage that has not run is None, or has no key in its mapping.

    `superb`: (model, task) -> its score.
    """

    prepare: PrepareMetrics | None = None
    teacher: TeacherMetrics | None = None
    cache: CacheMetrics | None = None
    profile: ProfileMetrics | None = None
    sweep: SweepMetrics | None = None
    depth: DepthMetrics | None = None
    distill: Mapping[str, DistillMetrics] = field(default_factory=dict)
    extract: Mapping[str, ExtractMetrics] = field(default_factory=dict)
    ablation: Mapping[str, AblationMetrics] = field(default_factory=dict)
    superb: Mapping[tuple[str, str], SuperbMetrics] = field(default_factory=dict)

    def seconds(self, students: Sequence[str] = (), controls: Sequence[str] = ()) -> dict[str, float]:
        """DVC stage -> its seconds, of `superb` those of all tasks together.

        DVC has a stage of its own to extract the states of `students` and one to score `controls`.
        """
        single: dict[str, PrepareMetrics | TeacherMetrics | CacheMetrics | ProfileMetrics | DepthMetrics | None] = {
            "prepare": self.prepare,
            "teacher": self.teacher,
            "cache": self.cache,
            "profile": self.profile,
            "depth": self.depth,
        }
        found = {stage: metrics.seconds for stage, metrics in single.items() if metrics is not None}
        found |= {f"distill@{name}": metrics.seconds for name, metrics in self.distill.items()}
        for name, extracted in self.extract.items():
            stage = "extract_student" if name in students else "extract"
            found[f"{stage}@{name}"] = extracted.seconds
        found |= {f"ablation@{name}": metrics.seconds for name, metrics in self.ablation.items()}
        for (model, _), score in self.superb.items():
            stage = f"{'superb_control' if model in controls else 'superb'}@{model}"
            found[stage] = found.get(stage, 0.0) + (score.seconds or 0.0)
        return found


def plan_report(params: Params) -> ReportPlan:
    """The results that these parameters ask for."""
    return ReportPlan(
        order_models(params.superb.models, tuple(params.superb.controls)),
        tuple(params.superb.tasks),
        tuple(params.students),
        tuple(params.superb.controls),
        tuple(params.ablation),
        params.report.title,
    )


def order_models(models: Sequence[str], controls: Sequence[str]) -> tuple[str, ...]:
    """The rows of the tables: the controls come right after the references, which are their neighbours."""
    references = [name for name in models if name in REFERENCES]
    return (*references, *controls, *(name for name in models if name not in REFERENCES))


def gather(reports_dir: Path) -> Metrics:
    """All metrics and resamples below `reports_dir`. Raises UserError that names a broken file."""
    metrics_dir = reports_dir / "metrics"
    scores = {
        name: add_resamples(found, reports_dir / "resamples" / f"{name}.npz")
        for name, found in _read_folder(metrics_dir / "superb", ModelScores).items()
    }
    return Metrics(
        prepare=_read_file(metrics_dir / "prepare.json", PrepareMetrics),
        teacher=_read_file(metrics_dir / "teacher.json", TeacherMetrics),
        cache=_read_file(metrics_dir / "cache.json", CacheMetrics),
        profile=_read_file(metrics_dir / "profile.json", ProfileMetrics),
        sweep=_read_file(metrics_dir / "sweep.json", SweepMetrics),
        distill=_read_folder(metrics_dir / "distill", DistillMetrics),
        extract=_read_folder(metrics_dir / "extract", ExtractMetrics),
        ablation=_read_folder(metrics_dir / "ablation", AblationMetrics),
        depth=_read_file(metrics_dir / "depth.json", DepthMetrics),
        superb={(name, task): score for name, found in scores.items() for task, score in found.tasks.items()},
    )


def _read_file(path: Path, kind: type[Kind]) -> Kind | None:
    return kind.read(path) if path.exists() else None


def _read_folder(folder: Path, kind: type[Kind]) -> dict[str, Kind]:
    return {path.stem: kind.read(path) for path in sorted(folder.glob("*.json"))}


def build_summary(metrics: Metrics, plan: ReportPlan) -> Summary:
    """The summary of `metrics`. What has not run is absent; what could not be scored is named under `unscored`."""
    profile = metrics.profile
    costs = {} if profile is None else profile.models
    found = [*costs, *metrics.distill, *(model for model, _ in metrics.superb)]
    names = list(dict.fromkeys([*plan.models, *plan.students, *found]))
    models = {name: _summarise_model(name, metrics, plan, costs.get(name)) for name in names}
    lead = find_lead(metrics.superb, plan.teacher, plan.baseline)
    kept = find_kept(metrics.superb, lead, names, plan.teacher, plan.baseline)
    paper = None if profile is None else profile.paper_size
    return Summary(
        models={
            name: replace(model, kept_by_task=kept[name].by_task or None, kept=kept[name].value)
            for name, model in models.items()
        },
        paper_size={} if paper is None else {name: _narrow(CostSummary, cost) for name, cost in paper.models.items()},
        ablations={name: _narrow(AblationSummary, values) for name, values in metrics.ablation.items()},
        controls=tuple(name for name in plan.controls if any(model == name for model, _ in metrics.superb)),
        depth_gate=find_depth_gate(metrics, plan),
        paired=compare_pairs(metrics.superb, [plan.teacher, *plan.students[:1]]),
        kept={
            name: share.interval
            for name, share in kept.items()
            if share.interval is not None and name not in (plan.teacher, plan.baseline)
        },
        lead=lead,
        teacher=plan.teacher,
        baseline=plan.baseline,
        tasks=plan.tasks,
        # JSON objects are written with sorted keys; tables keep this order.
        order=tuple(names),
        corpus=None if metrics.prepare is None else _narrow(CorpusSummary, metrics.prepare),
        versions=_find_versions(),
        machine=None if profile is None else profile.machine,
        seconds=metrics.seconds(plan.students, plan.controls),
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
        **({} if cost is None else vars(_narrow(CostSummary, cost))),
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


def _narrow(kind: type[Kind], record: Record) -> Kind:
    """The fields of `record` that `kind` has, as a `kind`."""
    return kind(**{of.name: getattr(record, of.name) for of in fields(kind)})  # type: ignore[arg-type]


def find_depth_gate(metrics: Metrics, plan: ReportPlan) -> DepthGate | None:
    """The depth gate of the teacher; None without the scores of phone recognition that it compares."""
    whole, first = (metrics.superb.get((name, "pr")) for name in (plan.teacher, CUT_TEACHER))
    if whole is None or first is None or "per" not in whole.metrics or "per" not in first.metrics:
        return None
    per_all, per_first = whole.metrics["per"], first.metrics["per"]
    return DepthGate(per_first - per_all, per_all, per_first, metrics.depth.best_layer if metrics.depth else None)


def _find_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
