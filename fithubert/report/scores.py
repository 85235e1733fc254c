"""The parts of the page about quality: the headline, the table of scores, and the points of the scatter charts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fithubert.records import DistillMetrics, ModelSummary, PairedDifference, Summary, SweepMetrics
from fithubert.report.paired import share_of_lead
from fithubert.report.summary import task_columns
from fithubert.report.table import chance_of, format_count, format_score, format_share, score_name, score_note
from fithubert.tasks import Metric, Task, task_info

Columns = Sequence[tuple[str, Metric]]
#: A student that was trained for fewer updates is not judged.
_LEAST_UPDATES = 100
#: Of the corrected p value of a difference that is marked.
_LEVEL = 0.05


@dataclass(frozen=True)
class Tile:
    """One figure of the headline as a share of the teacher's. `missing`: why it is None."""

    title: str
    value: float | None
    note: str
    missing: str = "not run"


@dataclass(frozen=True)
class Cell:
    """One score. `low`, `high`: those of filter banks and teacher; `share`: its position between them, 0 to 1."""

    task: Task
    metric: Metric
    text: str
    interval: str
    low: float | None
    high: float | None
    share: float | None
    missing: bool


@dataclass(frozen=True)
class ScoreRow:
    """One row of the table of scores. `model` is None in the row `chance`; `kept`: mean share of the lead."""

    name: str
    model: ModelSummary | None
    cells: tuple[Cell, ...]
    kept: float | None


@dataclass(frozen=True)
class Difference:
    """A score less that of another model. `text` is `-` if they cannot be paired.

    `clear`: beyond noise, after the correction for many comparisons; `better`: the model of the row is the better one.
    """

    text: str = "-"
    interval: str = ""
    clear: bool = False
    better: bool = False


@dataclass(frozen=True)
class Differences:
    """All models against one, by model in the order of the columns."""

    against: str
    rows: Mapping[str, tuple[Difference, ...]]


@dataclass(frozen=True)
class Headline:
    """The top of the page: a sentence about one model and its figures."""

    model: str
    sentence: str
    tiles: tuple[Tile, ...]
    scores: tuple[Cell, ...]


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


def build_headline(summary: Summary, columns: Columns, trained: DistillMetrics | None, name: str) -> Headline:
    """The headline about the model `name`; one that was trained for a few updates only is not judged."""
    model, teacher = (summary.models.get(of, ModelSummary()) for of in (name, summary.teacher))
    tiny = trained is not None and trained.updates < _LEAST_UPDATES
    own, whole = (format_count(m.params.total if m.params else None) for m in (model, teacher))
    size, time = format_share(model.size_ratio), format_share(model.latency_ratio)
    if model.size_ratio is None or model.latency_ratio is None:
        sentence = f"{name} has not been measured yet."
    elif tiny and trained is not None:
        sentence = (
            f"The budgets of this run are too small to judge: {name} was trained for {trained.updates:,} updates."
        )
    elif model.kept is None:
        sentence = f"{name} has {size} of its teacher's parameters and takes {time} of its time."
    else:
        sentence = (
            f"{name} keeps {100 * model.kept:.0f} % of its teacher's lead over filter banks, with {size} of the"
            f" parameters and {time} of the time."
        )
    if not tiny:
        sentence += _compare_with_controls(summary, name)
    missing, ends = _why_no_score(summary, model, tiny), model.latency_ratio_ci
    latency = f"95 % interval {100 * ends[0]:.1f} to {100 * ends[1]:.1f} %" if ends else ""
    tiles = (
        Tile("Parameters", model.size_ratio, f"{own} of {whole}"),
        Tile("Multiply-accumulates", model.macs_ratio, "per second of audio"),
        Tile("Latency", model.latency_ratio, latency),
        Tile(score_name(summary), None if tiny else model.kept, score_note(summary), missing),
    )
    return Headline(name, sentence, tiles, _cells(summary, model, columns))


def _compare_with_controls(summary: Summary, name: str) -> str:
    """A sentence about `name` against the best of the controls on the first task; empty without such a pair.

    The best one by its score on test, so that the comparison is the hardest one.
    """
    for task, metric in task_columns(summary)[:1]:
        scores = {c: summary.models[c].score(task, metric.name) for c in summary.controls}
        known = {control: value for control, value in scores.items() if value is not None}
        if not known:
            return ""
        best = (min if metric.lower else max)(known, key=lambda control: known[control])
        for pair in summary.paired:
            if (pair.task, pair.metric, pair.model, pair.against) == (task, metric.name, best, name):
                points = -pair.difference if metric.lower else pair.difference
                low, high = sorted((-pair.low, -pair.high) if metric.lower else (pair.low, pair.high))
                verdict = "worse" if points > 0 else "better"
                ends = (low, high) if points > 0 else (-high, -low)
                return (
                    f" Its {metric.label} is {abs(points):.1f} points {verdict} ({ends[0]:.1f} to {ends[1]:.1f}) than"
                    f" that of {best}, which needs no training."
                )
    return ""


def _why_no_score(summary: Summary, model: ModelSummary, tiny: bool) -> str:
    """Why a model has no share of the teacher's lead."""
    if tiny and model.superb:
        return "too few updates to judge"
    if summary.lead.tasks:
        return "not scored on every task" if model.superb else "not run"
    return "no clear lead to keep" if summary.lead.skipped else "not run"


def build_score_rows(summary: Summary, columns: Columns) -> list[ScoreRow]:
    """A row for each model, and a last one, `chance`, if some result holds it."""
    rows = [ScoreRow(name, m, _cells(summary, m, columns), m.kept) for name, m in summary.ordered.items()]
    levels = [chance_of(summary, task, metric.name) for task, metric in columns]
    if any(level is not None for level in levels):
        texts = ["-" if level is None else f"{level:.1f}" for level in levels]
        blank = _cells(summary, ModelSummary(), columns)
        cells = [replace(cell, text=text, missing=text == "-") for cell, text in zip(blank, texts, strict=True)]
        rows.append(ScoreRow("chance", None, tuple(cells), None))
    return rows


def build_differences(summary: Summary, columns: Columns) -> list[Differences]:
    """A table of paired differences for each model that others are compared with."""
    found = {(p.against, p.model, p.task, p.metric): p for p in summary.paired}
    tables = []
    for against in dict.fromkeys(pair.against for pair in summary.paired):
        rows = {}
        for name in summary.ordered:
            pairs = [(metric, found.get((against, name, task, metric.name))) for task, metric in columns]
            if any(pair is not None for _, pair in pairs):
                rows[name] = tuple(_describe_difference(metric, pair) for metric, pair in pairs)
        tables.append(Differences(against, rows))
    return tables


def _describe_difference(metric: Metric, pair: PairedDifference | None) -> Difference:
    if pair is None:
        return Difference()
    return Difference(
        f"{pair.difference:+.1f}",
        f"{pair.low:.1f} to {pair.high:.1f}",
        clear=pair.p_holm < _LEVEL,
        better=metric.is_better(pair.difference, 0.0),
    )


def _cells(summary: Summary, model: ModelSummary, columns: Columns) -> tuple[Cell, ...]:
    low, high = (summary.models.get(name, ModelSummary()) for name in (summary.baseline, summary.teacher))
    cells = []
    for task, metric in columns:
        ends, share = model.interval(task, metric.name), None
        values = [of.score(task, metric.name) for of in (model, low, high)]
        if task in summary.lead.tasks and None not in values:
            share = float(share_of_lead(metric, *(np.array(value) for value in values)))
        cells.append(
            Cell(
                task=task_info(task),
                metric=metric,
                text=format_score(model, task, metric.name),
                interval="" if ends is None else f"{ends[0]:.1f} to {ends[1]:.1f}",
                low=low.score(task, metric.name),
                high=high.score(task, metric.name),
                share=share,
                missing=model.score(task, metric.name) is None,
            )
        )
    return tuple(cells)


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
            name=sweep.title(point),
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
