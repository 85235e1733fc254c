"""A sweep's front as a page that needs no network, and as figures."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from fithubert.errors import UserError
from fithubert.files import atomic_file
from fithubert.report.svg import Line, line_chart


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
    """A study. `labels`: objective -> (name on axes, whether less is better); `importance`: -> choice -> share."""

    study: str
    objectives: tuple[str, ...]
    points: tuple[FrontPoint, ...]
    labels: Mapping[str, tuple[str, bool]]
    importance: Mapping[str, Mapping[str, float]]

    @property
    def costs(self) -> list[str]:
        """The objectives that are costs."""
        return [o for o in self.objectives if o in ("macs_per_second", "params", "latency_ratio")]

    @property
    def qualities(self) -> list[str]:
        """The other objectives."""
        return [o for o in self.objectives if o not in self.costs]


def render_front(report: FrontReport) -> str:
    """The page: quality against cost to explore, every trial, the curves; raises UserError without Jinja2."""
    try:
        import jinja2
    except ImportError:
        raise UserError("the page needs Jinja2: pip install fithubert[report]") from None
    assets = resources.files("fithubert.report") / "assets"
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    finished = [point for point in report.points if point.values]
    return environment.from_string((assets / "front.html.j2").read_text()).render(
        style=(assets / "page.css").read_text(),
        script=(assets / "page.js").read_text(),
        report=report,
        front=[point for point in finished if point.on_front],
        stopped=len(report.points) - len(finished),
        scatter=_scatter(report, finished),
        curves=_curves(report),
    )


def draw_front(path: Path, report: FrontReport) -> None:
    """The first quality against the first cost, every trial and the front; raises UserError without matplotlib."""
    figure = _figure()
    axes = figure.subplots()
    quality, cost = report.qualities[0], report.costs[0]
    finished = [point for point in report.points if point.values]
    for on_front, colour, name in ((False, "#8a93a0", "trial"), (True, "#1f6feb", "front")):
        chosen = [point for point in finished if point.on_front == on_front]
        axes.scatter([p.values[cost] for p in chosen], [p.values[quality] for p in chosen], c=colour, label=name)
    front = sorted((p.values[cost], p.values[quality]) for p in finished if p.on_front)
    axes.step(*zip(*front, strict=True), where="post", color="#1f6feb", ls=":")
    axes.set_xlabel(report.labels[cost][0])
    label, less = report.labels[quality]
    axes.set_ylabel(f"{label}{' (less is better, axis reversed)' if less else ''}")
    if less:
        axes.invert_yaxis()
    axes.set_title(f"study {report.study}", loc="left", fontsize=10)
    axes.legend(frameon=False)
    _save(figure, path)


def draw_importance(path: Path, report: FrontReport) -> None:
    """How much of each objective every choice decides; says so where there were too few trials to tell."""
    figure = _figure()
    panels = figure.subplots(1, max(1, len(report.importance)), squeeze=False)[0]
    if not report.importance:
        panels[0].text(0.5, 0.5, "too few finished trials", ha="center")
        panels[0].set_axis_off()
    for axes, (objective, shares) in zip(panels, report.importance.items(), strict=False):
        ranked = sorted(shares.items(), key=lambda item: item[1])
        axes.barh([name for name, _ in ranked], [share for _, share in ranked], color="#1f6feb")
        axes.set_title(report.labels[objective][0], fontsize=8, loc="left")
        axes.tick_params(labelsize=8)
    _save(figure, path)


def _figure() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("the figures need matplotlib: pip install fithubert[report]") from None
    return Figure(figsize=(7.5, 4.2), layout="constrained")


def _save(figure: Any, path: Path) -> None:
    with atomic_file(path) as aside:
        figure.savefig(aside, format="png", dpi=150, metadata={"Software": None})


def _scatter(report: FrontReport, finished: list[FrontPoint]) -> dict[str, Any]:
    """The points for the script of the page, which draws those of the report too."""
    qualities = [{"key": q, "label": report.labels[q][0], "lower": report.labels[q][1]} for q in report.qualities]
    points = [
        {
            "name": point.name,
            "colour": "var(--accent)" if point.on_front else "var(--quiet)",
            "costs": {
                "params": point.metrics["params"],
                "macs": point.metrics["macs_per_second"],
                "ratio": 100 * point.metrics["latency_ratio"],
            },
            "scores": {quality: [point.values[quality]] for quality in report.qualities},
        }
        for point in finished
    ]
    return {"qualities": qualities, "points": points}


def _curves(report: FrontReport) -> str:
    lines = [
        Line(point.name, point.curve, "var(--accent)" if point.on_front else "var(--quiet)", dashed=not point.values)
        for point in report.points
        if point.curve
    ]
    return line_chart(lines, "update", "dev loss of the last head", "Dev loss of every trial by update")
