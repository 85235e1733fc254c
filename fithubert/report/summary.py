"""The metrics of a workspace, the content of reports/summary.json, and its models as rows of a table."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import TypeVar

from fithubert.config.params import REFERENCES, Params
from fithubert.records import (
    AblationMetrics,
    AblationSummary,
    CacheMetrics,
    CompressMetrics,
    CorpusSummary,
    CostSummary,
    DepthGate,
    DepthMetrics,
    DistillMetrics,
    ExtractMetrics,
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
from fithubert.report.paired import Kept, compare_kept, compare_pairs, find_kept, find_lead
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
    `others`: further models that are reported if they have metrics; None: all that have. `dvc`: its stages are run by
    DVC.
    """

    models: tuple[str, ...]
    tasks: tuple[str, ...]
    students: tuple[str, ...]
    controls: tuple[str, ...] = ()
    others: tuple[str, ...] | None = None
    ablations: tuple[str, ...] = ()
    title: str = "fithubert"
    best_recipe: str | None = None
    teacher: str = "teacher"
    baseline: str = "fbank"
    dvc: bool = True

    def reports(self, model: str) -> bool:
        """Whether the metrics of `model` are reported; others are left over from earlier parameters."""
        return self.others is None or model in (*self.models, *self.students, *self.others)


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
    compress: CompressMetrics | None = None
    distill: Mapping[str, DistillMetrics] = field(default_factory=dict)
    extract: Mapping[str, ExtractMetrics] = field(default_factory=dict)
    ablation: Mapping[str, AblationMetrics] = field(default_factory=dict)
    superb: Mapping[tuple[str, str], SuperbMetrics] = field(default_factory=dict)

    def seconds(self, students: Sequence[str] = (), controls: Sequence[str] = ()) -> dict[str, float]:
        """DVC stage -> its seconds, of `superb` those of all tasks together.

        DVC has a stage of its own to extract the states of `students` and one to score `controls`.
        """
        single = ("prepare", "teacher", "cache", "profile", "depth")
        found = {stage: getattr(self, stage).seconds for stage in single if getattr(self, stage) is not None}
        found |= {f"distill@{name}": metrics.seconds for name, metrics in self.distill.items()}
        found |= {f"ablation@{name}": metrics.seconds for name, metrics in self.ablation.items()}
        for name, extracted in self.extract.items():
            found[f"{'extract_student' if name in students else 'extract'}@{name}"] = extracted.seconds
        for (model, _), score in self.superb.items():
            stage = f"{'superb_control' if model in controls else 'superb'}@{model}"
            found[stage] = found.get(stage, 0.0) + (score.seconds or 0.0)
        return found


def plan_report(params: Params) -> ReportPlan:
    """The results that these parameters ask for. Controls come right after the references, their neighbours."""
    controls = tuple(params.superb.controls)
    references = [name for name in params.superb.models if name in REFERENCES]
    students = [name for name in params.superb.models if name not in REFERENCES]
    return ReportPlan(
        models=(*references, *controls, *students),
        tasks=tuple(params.superb.tasks),
        students=tuple(params.students),
        controls=controls,
        ablations=tuple(params.ablation),
        title=params.report.title,
        best_recipe=params.report.best_recipe,
    )


def read_scores(reports_dir: Path) -> dict[str, ModelScores]:
    """model -> its scores with their resamples. Raises UserError that names a broken file."""
    return {
        name: add_resamples(found, reports_dir / "resamples" / f"{name}.npz")
        for name, found in _read_folder(reports_dir / "metrics" / "superb", ModelScores).items()
    }


def gather(reports_dir: Path, plan: ReportPlan) -> Metrics:
    """The metrics and resamples below `reports_dir` of the models that `plan` reports.

    Raises UserError that names a broken file.
    """
    folder = reports_dir / "metrics"
    distilled = _read_folder(folder / "distill", DistillMetrics)
    extracted = _read_folder(folder / "extract", ExtractMetrics)
    return Metrics(
        prepare=_read_file(folder / "prepare.json", PrepareMetrics),
        teacher=_read_file(folder / "teacher.json", TeacherMetrics),
        cache=_read_file(folder / "cache.json", CacheMetrics),
        profile=_read_file(folder / "profile.json", ProfileMetrics),
        sweep=_read_file(folder / "sweep.json", SweepMetrics),
        depth=_read_file(folder / "depth.json", DepthMetrics),
        compress=_read_file(folder / "compress.json", CompressMetrics),
        distill={name: found for name, found in distilled.items() if plan.reports(name)},
        extract={name: found for name, found in extracted.items() if plan.reports(name)},
        ablation=_read_folder(folder / "ablation", AblationMetrics),
        superb={
            (name, task): score
            for name, found in read_scores(reports_dir).items()
            if plan.reports(name)
            for task, score in found.tasks.items()
        },
    )


def _read_file(path: Path, kind: type[Kind]) -> Kind | None:
    return kind.read(path) if path.exists() else None


def _read_folder(folder: Path, kind: type[Kind]) -> dict[str, Kind]:
    return {path.stem: kind.read(path) for path in sorted(folder.glob("*.json"))}


def build_summary(metrics: Metrics, plan: ReportPlan) -> Summary:
    """The summary of `metrics`. What has not run is absent; what could not be scored is named under `unscored`."""
    costs = {} if metrics.profile is None else metrics.profile.models
    scored = {model for model, _ in metrics.superb}
    names = tuple(
        dict.fromkeys([*plan.models, *plan.students, *costs, *metrics.distill, *(m for m, _ in metrics.superb)])
    )
    lead = find_lead(metrics.superb, plan.teacher, plan.baseline)
    kept = {name: find_kept(metrics.superb, lead, name, plan.teacher, plan.baseline) for name in names}
    paper = metrics.profile.paper_size if metrics.profile is not None else None
    ends = (plan.teacher, plan.baseline)
    # Every model is compared with the teacher, the first student and the recommended one.
    against = [plan.teacher, *plan.students[:1], *filter(None, [plan.best_recipe])]
    return Summary(
        models={name: _summarise_model(name, metrics, plan, kept[name]) for name in names},
        paper_size={} if paper is None else {name: _narrow(CostSummary, cost) for name, cost in paper.models.items()},
        ablations={name: _narrow(AblationSummary, values) for name, values in metrics.ablation.items()},
        controls=tuple(name for name in plan.controls if name in scored),
        depth_gate=_find_depth_gate(metrics, plan),
        paired=(*compare_pairs(metrics.superb, against), *compare_kept(kept, against)),
        kept={name: of.interval for name, of in kept.items() if of.interval is not None and name not in ends},
        lead=lead,
        best_recipe=plan.best_recipe,
        teacher=plan.teacher,
        baseline=plan.baseline,
        tasks=plan.tasks,
        # JSON objects are written with sorted keys; tables keep this order.
        order=names,
        corpus=None if metrics.prepare is None else _narrow(CorpusSummary, metrics.prepare),
        versions=_find_versions(),
        machine=None if metrics.profile is None else metrics.profile.machine,
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


def _summarise_model(name: str, metrics: Metrics, plan: ReportPlan, kept: Kept) -> ModelSummary:
    cost = None if metrics.profile is None else metrics.profile.models.get(name)
    tasks = dict.fromkeys([*plan.tasks, *(task for model, task in metrics.superb if model == name)])
    scores = {task: metrics.superb[name, task] for task in tasks if (name, task) in metrics.superb}
    extracted, trained = metrics.extract.get(name), metrics.distill.get(name)
    prints = [source.fingerprint for source in (extracted, trained, cost) if source is not None]
    readouts = [source.readout for source in (extracted, trained) if source is not None and source.readout]
    return ModelSummary(
        **({} if cost is None else vars(_narrow(CostSummary, cost))),
        superb={task: score.metrics for task, score in scores.items() if score.metrics},
        unscored={task: score.reason or _NO_SCORE for task, score in scores.items() if not score.metrics},
        ci={task: score.intervals for task, score in scores.items() if score.intervals},
        chance={task: score.chance for task, score in scores.items() if score.chance},
        seeds={task: score.seeds for task, score in scores.items() if score.seeds},
        official={task: score.departures for task, score in scores.items() if score.protocol == "official"} or None,
        readout=readouts[0] if readouts else None,
        init=trained.init if trained is not None else None,
        fingerprint=prints[0] if prints else None,
        kept_by_task=kept.by_task or None,
        kept=kept.value,
    )


def _narrow(kind: type[Kind], record: Record) -> Kind:
    """The fields of `record` that `kind` has, as a `kind`."""
    return kind(**{of.name: getattr(record, of.name) for of in fields(kind)})  # type: ignore[arg-type]


def _find_depth_gate(metrics: Metrics, plan: ReportPlan) -> DepthGate | None:
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
