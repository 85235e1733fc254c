"""The content of the page and the figures: tables of scores and differences, the headline, and bars."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from fithubert.records import (
    AblationMetrics,
    Comparison,
    ModelCost,
    ModelSummary,
    PairedDifference,
    Summary,
)
from fithubert.report.paired import share_of_lead
from fithubert.report.summary import Metrics, ReportPlan, task_columns
from fithubert.report.table import format_macs, format_score, format_share
from fithubert.tasks import Metric, find_metric

#: A task with one of its metrics for each column of the tables of scores.
Columns = Sequence[tuple[str, Metric]]
#: A student that was trained for fewer updates is not judged.
_LEAST_UPDATES = 100
#: Variants are said to differ if their p value is below this.
_LEVEL = 0.05


@dataclass(frozen=True)
class Cell:
    """One score. `ends`: its 95 % interval; `share`: its position between filter banks and teacher, 0 to 1."""

    text: str
    ends: tuple[float, float] | None
    share: float | None
    missing: bool


@dataclass(frozen=True)
class ScoreRow:
    """One row of the table of scores. `model` is None in the row `chance`."""

    name: str
    model: ModelSummary | None
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Sections:
    """What page and figures show, computed once. `headline`: a sentence about the model `named`.

    `tiny`: that model was trained for too few updates to be judged.
    """

    plan: ReportPlan
    metrics: Metrics
    summary: Summary
    columns: Columns
    rows: Sequence[ScoreRow]
    named: str
    tiny: bool
    headline: str

    @property
    def colours(self) -> dict[str, str]:
        """model -> the name of its colour in page.css: ink for the teacher, quiet for the baseline, else a hue."""
        named = {self.summary.teacher: "ink", self.summary.baseline: "quiet"}
        others = [name for name in self.summary.ordered if name not in named]
        return {**named, **{name: f"hue-{index % 6}" for index, name in enumerate(others)}}

    @property
    def layer_weights(self) -> dict[str, dict[str, tuple[float, ...]]]:
        """task -> model -> the learnt weight of each of its hidden states; models with one state are left out."""
        found: dict[str, dict[str, tuple[float, ...]]] = {}
        for task in self.summary.tasks:
            for name in self.summary.ordered:
                score = self.metrics.superb.get((name, task))
                if score is not None and len(score.layer_weights) > 1:
                    found.setdefault(task, {})[name] = score.layer_weights
        return found


def build_sections(metrics: Metrics, summary: Summary, plan: ReportPlan) -> Sections:
    """The content of the page from all metrics; a stage that has not run leaves its part empty."""
    columns, named = task_columns(summary), plan.students[0] if plan.students else plan.teacher
    trained = metrics.distill.get(named)
    updates = trained.updates if trained is not None and trained.updates < _LEAST_UPDATES else None
    return Sections(
        plan=plan,
        metrics=metrics,
        summary=summary,
        columns=columns,
        rows=build_score_rows(summary, columns),
        named=named,
        tiny=updates is not None,
        headline=_describe_model(summary, named, updates),
    )


def _describe_model(summary: Summary, name: str, too_few_updates: int | None) -> str:
    """The headline about the model `name`; one that was trained for a few updates only is not judged."""
    model = summary.models.get(name, ModelSummary())
    size, time = format_share(model.size_ratio), format_share(model.latency_ratio)
    if model.size_ratio is None or model.latency_ratio is None:
        sentence = f"{name} has not been measured yet."
    elif too_few_updates is not None:
        sentence = (
            f"The budgets of this run are too small to judge: {name} was trained for {too_few_updates:,} updates."
        )
    elif model.kept is None:
        sentence = f"{name} has {size} of its teacher's parameters and takes {time} of its time."
    else:
        sentence = (
            f"{name} keeps {100 * model.kept:.0f} % of its teacher's lead over filter banks, with {size} of the"
            f" parameters and {time} of the time."
        )
    return sentence + (_compare_with_controls(summary, name) if too_few_updates is None else "")


def _compare_with_controls(summary: Summary, name: str) -> str:
    """A sentence about `name` against the best shallow control on the first task; empty without such a pair.

    The best one by its score on test, so that the comparison is the hardest one. A control that costs as much as the
    teacher is not shallow: its last state needs all of its layers.
    """
    whole = summary.models.get(summary.teacher, ModelSummary()).macs_per_second
    costs = {control: summary.models[control].macs_per_second for control in summary.controls}
    shallow = [control for control, cost in costs.items() if cost is None or whole is None or cost < whole]
    for task, metric in task_columns(summary)[:1]:
        scores = {control: summary.models[control].score(task, metric.name) for control in shallow}
        known = {control: value for control, value in scores.items() if value is not None}
        best = (min if metric.lower else max)(known, key=lambda control: known[control], default=None)
        for pair in summary.paired:
            if (pair.task, pair.metric, pair.model, pair.against) == (task, metric.name, best, name):
                # The difference is the control's less that of `name`.
                verdict = "worse" if metric.is_better(pair.difference, 0.0) else "better"
                sign = 1 if pair.difference > 0 else -1
                low, high = sorted((sign * pair.low, sign * pair.high))
                return (
                    f" Its {metric.label} is {abs(pair.difference):.1f} points {verdict} ({low:.1f} to {high:.1f}) than"
                    f" that of {best}, which needs no training."
                )
    return ""


def explain_no_share(sections: Sections) -> str:
    """Why the model of the headline has no share of the teacher's lead."""
    summary, scored = sections.summary, bool(sections.summary.models.get(sections.named, ModelSummary()).superb)
    if sections.tiny and scored:
        return "too few updates to judge"
    if summary.lead.tasks:
        return "not scored on every task" if scored else "not run"
    return "no clear lead to keep" if summary.lead.skipped else "not run"


def build_score_rows(summary: Summary, columns: Columns) -> list[ScoreRow]:
    """A row for each model, and a last one, `chance`, if some result holds it: the score without any information."""
    rows = [ScoreRow(name, model, score_cells(summary, model, columns)) for name, model in summary.ordered.items()]
    chance = []
    for task, metric in columns:
        levels = (model.chance.get(task, {}).get(metric.name) for model in summary.ordered.values())
        level = next((level for level in levels if level is not None), None)
        chance.append(Cell("-" if level is None else f"{level:.1f}", None, None, missing=level is None))
    if not all(cell.missing for cell in chance):
        rows.append(ScoreRow("chance", None, tuple(chance)))
    return rows


def score_cells(summary: Summary, model: ModelSummary, columns: Columns) -> tuple[Cell, ...]:
    """The cells of one model, one a column."""
    low, high = (summary.models.get(name, ModelSummary()) for name in (summary.baseline, summary.teacher))
    cells = []
    for task, metric in columns:
        values = [of.score(task, metric.name) for of in (model, low, high)]
        cell = Cell(format_score(model, task, metric.name), model.interval(task, metric.name), None, values[0] is None)
        if task in summary.lead.tasks and None not in values:
            cell = replace(cell, share=float(share_of_lead(metric, *(np.array(value) for value in values))))
        cells.append(cell)
    return tuple(cells)


#: The column of the share of the teacher's lead in a table of differences.
KEPT_COLUMN = ("all", Metric("kept", "kept", lower=False))


def table_differences(summary: Summary, columns: Columns) -> dict[str, dict[str, list[PairedDifference | None]]]:
    """Model that others are compared with -> model -> the paired difference in every column, None if not paired."""
    found = {(p.against, p.model, p.task, p.metric): p for p in summary.paired}
    tables: dict[str, dict[str, list[PairedDifference | None]]] = {pair.against: {} for pair in summary.paired}
    for against, table in tables.items():
        for name in summary.ordered:
            pairs = [found.get((against, name, task, metric.name)) for task, metric in columns]
            if any(pair is not None for pair in pairs):
                table[name] = pairs
    return tables


@dataclass(frozen=True)
class Bar:
    """The cost of one model as a bar: `length` relative to the longest one, and part -> its share of the cost."""

    name: str
    figure: str
    length: float
    shares: Mapping[str, float]


def cost_bars(models: Mapping[str, ModelCost], of: Literal["macs", "time"]) -> list[Bar]:
    """The multiply-accumulates or the time of every model by part."""
    longest = max((model.macs_per_second if of == "macs" else model.rtf for model in models.values()), default=0.0)
    bars = []
    for name, model in models.items():
        if of == "macs":
            cost, figure = model.macs_per_second, f"{format_macs(model.macs_per_second)}MAC/s"
            total = sum(part.macs for part in model.parts.values())
            shares = {part: counted.macs / total for part, counted in model.parts.items()} if total else {}
        else:
            cost, figure, shares = model.rtf, f"{1000 * model.rtf:.1f} ms/s", dict(model.time_shares)
        bars.append(Bar(name, figure, cost / longest, {part: share for part, share in shares.items() if share > 0}))
    return bars


@dataclass(frozen=True)
class AblationFigure:
    """One figure over variants. `key`: its name in file names. `lower`: a smaller value is better."""

    key: str
    title: str
    lower: bool
    comparison: Comparison

    @property
    def verdict(self) -> str:
        """Whether variants differ by more than seeds do, with the figures that show it."""
        of = self.comparison
        if of.p is None or of.f is None or of.seed_deviation is None:
            return "one seed, so differences cannot be separated from noise"
        probability = "< 0.001" if of.p < 0.001 else f"= {of.p:.2g}"
        noise = f"deviation between seeds {of.seed_deviation:.2g}, F = {of.f:.1f}, p {probability}"
        differ = "variants differ by more than seeds do" if of.p < _LEVEL else "no difference beyond seeds"
        return f"{differ} ({noise})"


def ablation_figures(metrics: AblationMetrics) -> list[AblationFigure]:
    """The figures of an ablation: the loss on dev, and every metric of every probed task."""
    figures = []
    for key, comparison in metrics.comparisons.items():
        if key == "dev_loss":
            figures.append(AblationFigure(key, "hint loss on dev", True, comparison))
        else:
            task, _, name = key.partition("_")
            metric = find_metric(task, name)
            figures.append(AblationFigure(key, f"{task.upper()} {metric.label}, %", metric.lower, comparison))
    return figures
