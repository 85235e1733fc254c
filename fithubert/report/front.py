"""A sweep's front as a page that needs no network, and as figures."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fithubert.config.sweep import COSTS
from fithubert.report.png import HUES, QUIET, blank_figure, save_png
from fithubert.report.svg import Line, line_chart
from fithubert.report.templates import render


@dataclass(frozen=True)
class FrontPoint:
    """A trained trial; `values` is empty where it was stopped early. `curve`: (update, dev loss of the last head)."""

    name: str
    on_front: bool
    choices: Mapping[str, Any]
    values: Mapping[str, float]
    metrics: Mapping[str, float]
    curve: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class FrontReport:
    """A study: the names of its `choices` in order, and by objective its label on axes and whether less is better.

    `importance`: objective -> choice -> share of what it decides.
    """

    study: str
    objectives: tuple[str, ...]
    choices: tuple[str, ...]
    points: tuple[FrontPoint, ...]
    labels: Mapping[str, tuple[str, bool]]
    importance: Mapping[str, Mapping[str, float]]

    @property
    def finished(self) -> list[FrontPoint]:
        """The trials that were not stopped early."""
        return [point for point in self.points if point.values]

    @property
    def front(self) -> list[FrontPoint]:
        """The trials on the front, the cheapest first."""
        cost = self.costs[0] if self.costs else self.objectives[0]
        return sorted((p for p in self.finished if p.on_front), key=lambda point: point.values[cost])

    @property
    def costs(self) -> list[str]:
        """The objectives that are costs."""
        return [o for o in self.objectives if o in COSTS]

    @property
    def qualities(self) -> list[str]:
        """The other objectives."""
        return [o for o in self.objectives if o not in self.costs]


def read_front(values: Mapping[str, Any]) -> FrontReport:
    """The study in reports/metrics/sweep.json, which holds the fields of a `FrontReport`."""
    points = [
        FrontPoint(**{**point, "curve": tuple((int(update), loss) for update, loss in point["curve"])})
        for point in values["points"]
    ]
    labels = {objective: (str(label), bool(less)) for objective, (label, less) in values["labels"].items()}
    return FrontReport(
        values["study"],
        tuple(values["objectives"]),
        tuple(values["choices"]),
        tuple(points),
        labels,
        values["importance"],
    )


def render_front(report: FrontReport) -> str:
    """The page: quality against cost to explore, every trial, the curves; raises UserError without Jinja2."""
    return render("front.html.j2", report=report, scatter=front_scatter(report), curves=_curves(report))


def plot_front(axes: Any, report: FrontReport) -> None:
    """The first quality against the first cost, every trial and the front."""
    quality, cost = report.qualities[0], report.costs[0]
    for on_front, colour, name in ((False, QUIET, "trial"), (True, HUES[0], "front")):
        chosen = [point for point in report.finished if point.on_front == on_front]
        axes.scatter([p.values[cost] for p in chosen], [p.values[quality] for p in chosen], c=colour, label=name)
    front = sorted((p.values[cost], p.values[quality]) for p in report.front)
    axes.step(*zip(*front, strict=True), where="post", color=HUES[0], ls=":")
    axes.set_xlabel(report.labels[cost][0])
    axes.xaxis.set_major_formatter(lambda x, _: f"{100 * x:g} %" if cost == "latency_ratio" else f"{x / 1e6:g} M")
    label, less = report.labels[quality]
    axes.set_ylabel(label + ("\n(less is better, axis reversed)" if less else ""))
    if less:
        axes.invert_yaxis()
    axes.set_title(f"study {report.study}", loc="left", fontsize=10)
    axes.legend(frameon=False)


def draw_front(path: Path, report: FrontReport) -> None:
    """`plot_front` as a file; raises UserError without matplotlib."""
    figure = blank_figure()
    plot_front(figure.subplots(), report)
    save_png(figure, path)


def draw_importance(path: Path, report: FrontReport) -> None:
    """How much of each objective every choice decides; says so where there were too few trials to tell."""
    figure = blank_figure()
    panels = figure.subplots(1, max(1, len(report.importance)), squeeze=False)[0]
    if not report.importance:
        panels[0].text(0.5, 0.5, "too few finished trials", ha="center")
        panels[0].set_axis_off()
    for axes, (objective, shares) in zip(panels, report.importance.items(), strict=False):
        ranked = sorted(shares.items(), key=lambda item: item[1])
        axes.barh([name for name, _ in ranked], [share for _, share in ranked], color=HUES[0])
        axes.set_title(report.labels[objective][0], fontsize=8, loc="left")
        axes.tick_params(labelsize=8)
    save_png(figure, path)


def front_scatter(report: FrontReport) -> dict[str, Any]:
    """The finished trials for the script of the page; those off the front are drawn without their names."""
    qualities = [{"key": q, "label": report.labels[q][0], "lower": report.labels[q][1]} for q in report.qualities]
    points = [
        {
            "name": point.name,
            "quiet": not point.on_front,
            "colour": "var(--accent)" if point.on_front else "var(--quiet)",
            "costs": {
                "macs": point.metrics["macs_per_second"],
                "params": point.metrics["params"],
                "ratio": 100 * point.metrics["latency_ratio"],
            },
            "scores": {quality: [point.values[quality]] for quality in report.qualities},
        }
        for point in report.finished
    ]
    return {"qualities": qualities, "costs": ["macs", "params", "ratio"], "points": points}


def _curves(report: FrontReport) -> str:
    lines = [
        Line(point.name, point.curve, "var(--accent)" if point.on_front else "var(--quiet)", dashed=not point.values)
        for point in report.points
        if point.curve
    ]
    return line_chart(lines, "update", "dev loss of the last head", "Dev loss of every trial by update")
