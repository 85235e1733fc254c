"""Everything that the page and the figures show, computed once per report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fithubert.records import (
    AblationMetrics,
    CacheMetrics,
    Comparison,
    CostSummary,
    DepthMetrics,
    DistillMetrics,
    ModelCost,
    PrepareMetrics,
    ProfileMetrics,
    Summary,
    SweepMetrics,
    TeacherMetrics,
)
from fithubert.report.scores import (
    Columns,
    Differences,
    Headline,
    ScoreRow,
    build_differences,
    build_headline,
    build_score_rows,
    model_colours,
)
from fithubert.report.summary import Metrics, ReportPlan, task_columns
from fithubert.report.table import format_macs
from fithubert.tasks import Task, find_metric, task_info

#: A figure over variants is said to differ if its p value is below this.
_LEVEL = 0.05
#: Part of a model -> its title on the page.
PART_TITLES = {
    "front_end": "Front end",
    "projection": "Projection",
    "positional_conv": "Positional convolution",
    "time_reduction": "Time reduction",
    "transformer": "Transformer",
    "readout": "Read-out head",
    "other": "Rest",
}
#: Published shape -> what its paper and SUPERB state.
PUBLISHED = {
    "hubert_base": "94.7M, 7.42 GMAC/s (SUPERB)",
    "fithubert": "22.49M with 0.46M that never run; 23.8 % of the size, 35.9 % of the time (Lee et al. 2022)",
    "distilhubert": "23.49M (SUPERB)",
}


@dataclass(frozen=True)
class BarPart:
    """A part of a model in its bar: its share of the model's cost, and its width relative to the longest bar."""

    part: str
    title: str
    share: float
    width: float


@dataclass(frozen=True)
class Bar:
    """The cost of one model, by part."""

    name: str
    figure: str
    parts: tuple[BarPart, ...]


@dataclass(frozen=True)
class TrainedStudent:
    """A planned student and its training; None if it has not been trained."""

    name: str
    metrics: DistillMetrics | None
    facts: tuple[str, ...]


@dataclass(frozen=True)
class AblationFigure:
    """One figure over variants, with half the width of its 95 % interval. `key`: its name in file names."""

    key: str
    title: str
    lower: bool
    means: Mapping[str, float]
    half_width: float | None
    verdict: str


@dataclass(frozen=True)
class Ablation:
    """A planned ablation and what it measured; `metrics` is None if it has not run."""

    name: str
    title: str
    metrics: AblationMetrics | None
    figures: tuple[AblationFigure, ...]


@dataclass(frozen=True)
class LayerWeights:
    """model -> the learnt weight of each of its hidden states on `task`; models with one state are left out."""

    task: Task
    weights: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Sections:
    """The content of the page, in its order."""

    plan: ReportPlan
    summary: Summary
    colours: Mapping[str, str]
    headline: Headline
    columns: Columns
    scores: Sequence[ScoreRow]
    differences: Sequence[Differences]
    profile: ProfileMetrics | None
    costs: Mapping[str, ModelCost | None]
    bars: Sequence[Bar]
    times: Sequence[Bar]
    paper: Sequence[tuple[str, CostSummary, str]]
    paper_bars: Sequence[Bar]
    paper_times: Sequence[Bar]
    trainings: Sequence[TrainedStudent]
    ablations: Sequence[Ablation]
    sweep: SweepMetrics | None
    layer_weights: Sequence[LayerWeights]
    teacher: TeacherMetrics | None
    depth: DepthMetrics | None
    corpus: PrepareMetrics | None
    cache: CacheMetrics | None


def build_sections(metrics: Metrics, summary: Summary, plan: ReportPlan) -> Sections:
    """The content of the page from all metrics; a stage that has not run leaves its part empty."""
    columns = task_columns(summary)
    student = plan.students[0] if plan.students else plan.teacher
    students = dict.fromkeys([*plan.students, *metrics.distill])
    profiled = {} if metrics.profile is None else metrics.profile.models
    paper = metrics.profile.paper_size if metrics.profile is not None else None
    published = {} if paper is None else paper.models
    return Sections(
        plan=plan,
        summary=summary,
        colours=model_colours(summary),
        headline=build_headline(summary, columns, metrics.distill.get(student), student),
        columns=columns,
        scores=build_score_rows(summary, columns),
        differences=build_differences(summary, columns),
        profile=metrics.profile,
        costs={name: profiled.get(name) for name in summary.ordered},
        bars=_bars(profiled, "macs"),
        times=_bars(profiled, "time"),
        paper=[(name, cost, PUBLISHED.get(name, "")) for name, cost in summary.paper_size.items()],
        paper_bars=_bars(published, "macs"),
        paper_times=_bars(published, "time"),
        trainings=[_describe_training(name, metrics.distill.get(name)) for name in students],
        ablations=[
            _describe_ablation(name, metrics.ablation.get(name))
            for name in dict.fromkeys([*plan.ablations, *metrics.ablation])
        ],
        sweep=metrics.sweep,
        layer_weights=_layer_weights(metrics, summary),
        teacher=metrics.teacher,
        depth=metrics.depth,
        corpus=metrics.prepare,
        cache=metrics.cache,
    )


def _bars(models: Mapping[str, ModelCost], of: Literal["macs", "time"]) -> list[Bar]:
    """The multiply-accumulates or the time of every model by part; the longest bar has a width of 1."""
    costs = {name: model.macs_per_second if of == "macs" else model.rtf for name, model in models.items()}
    longest = max(costs.values(), default=0.0)
    bars = []
    for name, model in models.items():
        shares = dict(model.time_shares)
        if of == "macs":
            total = sum(part.macs for part in model.parts.values())
            shares = {part: cost.macs / total for part, cost in model.parts.items()} if total else {}
        parts = [
            BarPart(part, PART_TITLES.get(part, part), share, share * costs[name] / longest)
            for part, share in shares.items()
            if share > 0
        ]
        figure = f"{format_macs(costs[name])}MAC/s" if of == "macs" else f"{1000 * costs[name]:.1f} ms/s"
        bars.append(Bar(name, figure, tuple(parts)))
    return bars


def _describe_training(name: str, metrics: DistillMetrics | None) -> TrainedStudent:
    if metrics is None:
        return TrainedStudent(name, None, ())
    facts = [
        f"best at update {metrics.best_update:,} of {metrics.updates:,}",
        f"dev loss {metrics.best_dev_loss:.4g}",
        f"{metrics.audio_hours:.1f} h of audio",
    ]
    if metrics.end == "early_stop":
        facts.append("stopped early")
    return TrainedStudent(name, metrics, tuple(facts))


def _describe_ablation(name: str, metrics: AblationMetrics | None) -> Ablation:
    title = name.replace("_", " ").capitalize()
    if metrics is None:
        return Ablation(name, title, None, ())
    figures = []
    for key, comparison in metrics.comparisons.items():
        task, _, metric_name = key.partition("_")
        metric = None if key == "dev_loss" else find_metric(task, metric_name)
        figures.append(
            AblationFigure(
                key=key,
                title="hint loss on dev" if metric is None else f"{task.upper()} {metric.label}, %",
                lower=metric is None or metric.lower,
                means={variant: comparison.means[variant] for variant in metrics.order},
                half_width=comparison.half_width,
                verdict=_judge(comparison),
            )
        )
    return Ablation(name, title, metrics, tuple(figures))


def _judge(comparison: Comparison) -> str:
    """Whether variants differ by more than seeds do, with the figures that show it."""
    if comparison.p is None or comparison.f is None or comparison.seed_deviation is None:
        return "one seed, so differences cannot be separated from noise"
    probability = "< 0.001" if comparison.p < 0.001 else f"= {comparison.p:.2g}"
    noise = f"deviation between seeds {comparison.seed_deviation:.2g}, F = {comparison.f:.1f}, p {probability}"
    if comparison.p < _LEVEL:
        return f"variants differ by more than seeds do ({noise})"
    return f"no difference beyond seeds ({noise})"


def _layer_weights(metrics: Metrics, summary: Summary) -> list[LayerWeights]:
    found = []
    for task in summary.tasks:
        scores = {name: metrics.superb.get((name, task)) for name in summary.ordered}
        weights = {n: s.layer_weights for n, s in scores.items() if s is not None and len(s.layer_weights) > 1}
        if weights:
            found.append(LayerWeights(task_info(task), weights))
    return found
