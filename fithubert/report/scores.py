"""The parts of the page about quality: the headline, the table of scores, and the points of the scatter charts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fithubert.records import ModelSummary, Summary, SweepMetrics
from fithubert.report.gather import ReportPlan
from fithubert.report.summary import task_columns
from fithubert.report.table import chance_of, format_count, format_score, format_share, score_name, score_note
from fithubert.tasks import Metric, Task, share_of_lead, task_info

Columns = Sequence[tuple[str, Metric]]


@dataclass(frozen=True)
class Tile:
    """One figure of the headline as a share of the teacher's; None if it was not measured."""

    title: str
    value: float | None
    note: str


@dataclass(frozen=True)
class Track:
    """One score of the headline's model; `share` is its position between filter banks (0) and teacher (1)."""

    task: Task
    metric: Metric
    text: str
    interval: str
    low: float | None
    high: float | None
    share: float | None


@dataclass(frozen=True)
class Headline:
    """The top of the page: a sentence about one model and its figures."""

    model: str
    sentence: str
    tiles: tuple[Tile, ...]
    tracks: tuple[Track, ...]


@dataclass(frozen=True)
class ScoreCell:
    """One cell of the table of scores; `share` is its position between filter banks (0) and teacher (1)."""

    text: str
    interval: str
    share: float | None
    missing: bool


@dataclass(frozen=True)
class ScoreRow:
    """One row of the table of scores. `model` is None in the row `chance`; `kept`: mean share of the lead."""

    name: str
    model: ModelSummary | None
    cells: tuple[ScoreCell, ...]
    kept: float | None


@dataclass(frozen=True)
class Quality:
    """A choice of the vertical axis of a scatter chart."""

    key: str
    label: str
    lower: bool


@dataclass(frozen=True)
class ScatterPoint:
    """`scores`: quality -> value, or value and the ends of its interval. `on_front`: of a trial of a sweep."""

    name: str
    colour: str
    costs: Mapping[str, float]
    scores: Mapping[str, tuple[float, ...]]
    on_front: bool | None = None


@dataclass(frozen=True)
class Scatter:
    """A chart of quality against cost, for the script of the page. `costs`: the choices of the horizontal axis."""

    qualities: tuple[Quality, ...]
    costs: tuple[str, ...]
    points: tuple[ScatterPoint, ...]


def model_colours(summary: Summary) -> dict[str, str]:
    """model -> the name of its colour in page.css: ink for the teacher, quiet for the baseline, else hues in order."""
    others = [name for name in summary.ordered if name not in (summary.teacher, summary.baseline)]
    colours = {name: f"hue-{index % 6}" for index, name in enumerate(others)}
    return {summary.teacher: "ink", summary.baseline: "quiet", **colours}


def build_headline(summary: Summary, plan: ReportPlan) -> Headline:
    """The headline about the first student."""
    name = plan.students[0] if plan.students else plan.teacher
    model, teacher = (summary.models.get(of, ModelSummary()) for of in (name, plan.teacher))
    if model.size_ratio is None or model.latency_ratio is None:
        sentence = f"{name} has not been measured yet."
    elif model.kept is None:
        sentence = (
            f"{name} has {format_share(model.size_ratio)} of its teacher's parameters"
            f" and takes {format_share(model.latency_ratio)} of its time."
        )
    else:
        sentence = (
            f"{name} keeps {100 * model.kept:.0f} % of its teacher's lead over filter banks, with"
            f" {format_share(model.size_ratio)} of the parameters and {format_share(model.latency_ratio)} of the time."
        )
    own, whole = (format_count(m.params.total if m.params else None) for m in (model, teacher))
    ends = model.latency_ratio_ci
    tiles = (
        Tile("Parameters", model.size_ratio, f"{own} of {whole}"),
        Tile("Multiply-accumulates", model.macs_ratio, "per second of audio"),
        Tile(
            "Latency",
            model.latency_ratio,
            f"95 % interval {100 * ends[0]:.1f} to {100 * ends[1]:.1f} %" if ends else "",
        ),
        Tile(score_name(summary), model.kept, score_note(summary)),
    )
    return Headline(name, sentence, tiles, tuple(_tracks(summary, plan, model)))


def _tracks(summary: Summary, plan: ReportPlan, model: ModelSummary) -> list[Track]:
    low, high = (summary.models.get(name, ModelSummary()) for name in (plan.baseline, plan.teacher))
    return [
        Track(
            task=task_info(task),
            metric=metric,
            text=format_score(model, task, metric.name),
            interval=_format_interval(model.interval(task, metric.name)),
            low=low.score(task, metric.name),
            high=high.score(task, metric.name),
            share=_share(summary, model, task, metric),
        )
        for task, metric in task_columns(summary)
    ]


def build_score_rows(summary: Summary, columns: Columns) -> list[ScoreRow]:
    """A row for each model, and a last one, `chance`, if some result holds it."""
    rows = []
    for name, model in summary.ordered.items():
        cells = [
            ScoreCell(
                text=format_score(model, task, metric.name),
                interval=_format_interval(model.interval(task, metric.name)).replace(" to ", "\N{EN DASH}"),
                share=_share(summary, model, task, metric),
                missing=model.score(task, metric.name) is None,
            )
            for task, metric in columns
        ]
        rows.append(ScoreRow(name, model, tuple(cells), model.kept))
    levels = [chance_of(summary, task, metric.name) for task, metric in columns]
    if any(level is not None for level in levels):
        cells = [ScoreCell("-" if v is None else f"{v:.1f}", "", None, missing=v is None) for v in levels]
        rows.append(ScoreRow("chance", None, tuple(cells), None))
    return rows


def scatter_models(summary: Summary, columns: Columns) -> Scatter:
    """Quality against cost of every model whose cost was measured."""
    models = {name: model for name, model in summary.ordered.items() if model.macs_per_second is not None}
    qualities = [
        Quality(f"{task} {metric.name}", f"{task_info(task).title}: {metric.label}, %", metric.lower)
        for task, metric in columns
        if any(model.score(task, metric.name) is not None for model in models.values())
    ]
    if any(model.kept is not None for model in models.values()):
        qualities.insert(0, Quality("kept", f"{score_name(summary)}, %", lower=False))
    colours = model_colours(summary)
    points = []
    for name, model in models.items():
        scores: dict[str, tuple[float, ...]] = {}
        for task, metric in columns:
            value = model.score(task, metric.name)
            if value is not None:
                scores[f"{task} {metric.name}"] = (value, *(model.interval(task, metric.name) or ()))
        if model.kept is not None:
            scores["kept"] = (100 * model.kept,)
        costs = {
            "params": float(model.params.total if model.params else 0),
            "macs": model.macs_per_second or 0.0,
            "time": 1000 * (model.rtf or 0.0),
        }
        points.append(ScatterPoint(name, f"var(--{colours[name]})", costs, scores))
    return Scatter(tuple(qualities), ("params", "macs", "time"), tuple(points))


def scatter_trials(sweep: SweepMetrics) -> Scatter:
    """Quality against cost of every finished trial; those off the front are drawn without their names."""
    qualities = tuple(Quality(quality, *sweep.labels[quality]) for quality in sweep.qualities)
    points = tuple(
        ScatterPoint(
            name=point.name,
            colour="var(--accent)" if point.on_front else "var(--quiet)",
            costs={
                "macs": point.metrics["macs_per_second"],
                "params": point.metrics["params"],
                "ratio": 100 * point.metrics["latency_ratio"],
            },
            scores={quality: (point.values[quality],) for quality in sweep.qualities},
            on_front=point.on_front,
        )
        for point in sweep.finished
    )
    return Scatter(qualities, ("macs", "params", "ratio"), points)


def _share(summary: Summary, model: ModelSummary, task: str, metric: Metric) -> float | None:
    """The position of a score between filter banks and teacher, cut to 0..1; None without a clear lead."""
    if task not in summary.lead.tasks:
        return None
    low, high = (summary.models[name].superb for name in (summary.baseline, summary.teacher))
    share = share_of_lead([metric], model.superb.get(task, {}), low[task], high[task])
    return None if share is None else min(max(share, 0.0), 1.0)


def _format_interval(interval: tuple[float, float] | None) -> str:
    """`35.5 to 38.2`; empty for None."""
    return "" if interval is None else f"{interval[0]:.1f} to {interval[1]:.1f}"
