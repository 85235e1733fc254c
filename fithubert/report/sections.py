"""What each section of the page says, as plain values for the template."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fithubert.report.gather import Metrics
from fithubert.report.summary import ReportPlan
from fithubert.report.table import chance_of, format_bytes, format_macs, format_score, score_name
from fithubert.tasks import Metric, share_of_lead, task_info

Columns = list[tuple[str, Metric]]

#: What a part of a model is called on the page.
PART_TITLES = {
    "front_end": "Front end",
    "projection": "Projection",
    "positional_conv": "Positional convolution",
    "time_reduction": "Time reduction",
    "transformer": "Transformer",
    "readout": "Read-out head",
    "other": "Rest",
}

#: The published shapes and what their papers and SUPERB state of them.
PUBLISHED = {
    "hubert_base": "94.7M, 7.42 GMAC/s (SUPERB)",
    "fithubert": "22.49M with 0.46M that never run; 23.8 % of the size, 35.9 % of the time (Lee et al. 2022)",
    "distilhubert": "23.49M (SUPERB)",
}


@dataclass(frozen=True)
class ScoreCell:
    """One cell of the scorecard: its text, its interval and where it lies between filter banks and teacher."""

    text: str
    interval: str
    share: float | None
    missing: bool


@dataclass(frozen=True)
class ScoreRow:
    """One row of the scorecard: a model, its cells in the order of the columns, its mean share of the lead."""

    name: str
    cells: tuple[ScoreCell, ...]
    kept: float | None


def model_colours(summary: Mapping[str, Any], plan: ReportPlan) -> dict[str, str]:
    """model -> the CSS variable of its colour; the teacher is ink, the baseline grey, the others have hues in order."""
    others = [name for name in summary["models"] if name not in (plan.teacher, plan.baseline)]
    colours = {name: f"var(--hue-{index % 6})" for index, name in enumerate(others)}
    return {plan.teacher: "var(--ink)", plan.baseline: "var(--quiet)", **colours}


def score_rows(summary: Mapping[str, Any], plan: ReportPlan, columns: Columns) -> list[ScoreRow]:
    """The scorecard: a row for each model, and a last one, `chance`, where some result says what chance is."""
    low, high = scores_of(summary, plan.baseline), scores_of(summary, plan.teacher)
    led = summary["lead"]["tasks"]
    rows = []
    for name, model in summary["models"].items():
        cells = []
        for task, metric in columns:
            scores = model["superb"].get(task, {})
            share = share_of_lead([metric], scores, low.get(task, {}), high.get(task, {})) if task in led else None
            interval = format_interval(model["ci"].get(task, {}).get(metric.name)).replace(" to ", "\N{EN DASH}")
            missing = metric.name not in scores
            cells.append(ScoreCell(format_score(model, task, metric.name), interval, clamp(share), missing))
        rows.append(ScoreRow(name, tuple(cells), model.get("kept")))
    levels = [chance_of(summary, task, metric.name) for task, metric in columns]
    if any(level is not None for level in levels):
        cells = [ScoreCell("-" if v is None else f"{v:.1f}", "", None, missing=v is None) for v in levels]
        rows.append(ScoreRow("chance", tuple(cells), None))
    return rows


def scatter_data(summary: Mapping[str, Any], colours: Mapping[str, str], columns: Columns) -> dict[str, Any]:
    """The points of the quality-against-cost chart, for the script in the page."""
    models = {name: model for name, model in summary["models"].items() if "macs_per_second" in model}
    qualities = [
        {"key": f"{task} {metric.name}", "label": f"{task_info(task).title}: {metric.label}, %", "lower": metric.lower}
        for task, metric in columns
        if any(metric.name in model["superb"].get(task, {}) for model in models.values())
    ]
    if any("kept" in model for model in models.values()):
        qualities.insert(0, {"key": "kept", "label": f"{score_name(summary)}, %", "lower": False})
    points = []
    for name, model in models.items():
        costs = {"params": model["params"]["total"], "macs": model["macs_per_second"], "time": 1000 * model["rtf"]}
        scores = {}
        for task, metric in columns:
            value = model["superb"].get(task, {}).get(metric.name)
            if value is not None:
                scores[f"{task} {metric.name}"] = [value, *model["ci"].get(task, {}).get(metric.name, [])]
        if "kept" in model:
            scores["kept"] = [100 * model["kept"]]
        points.append({"name": name, "colour": colours[name], "costs": costs, "scores": scores})
    return {"qualities": qualities, "costs": ["params", "macs", "time"], "points": points}


def cost_rows(summary: Mapping[str, Any], metrics: Metrics) -> list[tuple[str, dict[str, Any] | None]]:
    """Every model with its entry of the profile, None where it has not been profiled."""
    profiled = metrics.single.get("profile", {}).get("models", {})
    return [(name, profiled.get(name)) for name in summary["models"]]


def part_bars(metrics: Metrics, of: Literal["macs", "time"], paper: bool = False) -> list[dict[str, Any]]:
    """Per model the share of its multiply-accumulates or of its time that each part takes, largest model as 100 %."""
    profile = metrics.single.get("profile", {})
    models = (profile.get("paper_size") or {}).get("models", {}) if paper else profile.get("models", {})
    cost = {"macs": "macs_per_second", "time": "rtf"}[of]
    largest = max((model[cost] for model in models.values()), default=0)
    bars = []
    for name, model in models.items():
        parts = [
            {
                "part": part,
                "title": PART_TITLES.get(part, part),
                "share": share,
                "width": share * model[cost] / largest,
            }
            for part, share in _part_shares(model, of).items()
            if share > 0
        ]
        figure = f"{format_macs(model[cost])}MAC/s" if of == "macs" else f"{1000 * model[cost]:.1f} ms/s"
        bars.append({"name": name, "figure": figure, "parts": parts})
    return bars


def _part_shares(model: Mapping[str, Any], of: str) -> dict[str, float]:
    if of == "time":
        return dict(model.get("time_shares", {}))
    total = sum(part["macs"] for part in model["parts"].values())
    return {name: part["macs"] / total for name, part in model["parts"].items()} if total else {}


def paper_rows(summary: Mapping[str, Any]) -> list[tuple[str, dict[str, Any], str]]:
    """The full-size models with what is published of them."""
    return [(name, cost, PUBLISHED.get(name, "")) for name, cost in summary["paper_size"].items()]


def corpus_facts(metrics: Metrics) -> list[tuple[str, str]]:
    """Single facts of the corpus: its source, fingerprint and whatever else prepare counted."""
    prepare = metrics.single.get("prepare", {})
    return [(key.replace("_", " "), _fact(value)) for key, value in prepare.items() if _is_fact(key, value)]


def corpus_splits(metrics: Metrics) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """The columns and rows of the table of splits; both empty where prepare has not run."""
    splits = metrics.single.get("prepare", {}).get("splits") or {}
    keys = list(dict.fromkeys(key for values in splits.values() for key in values))
    return keys, [(name, [_fact(values.get(key, 0)) for key in keys]) for name, values in splits.items()]


def skipped_recordings(metrics: Metrics) -> list[tuple[str, str]]:
    """(file, reason) of every recording that prepare left out."""
    skipped = metrics.single.get("prepare", {}).get("skipped") or []
    if isinstance(skipped, dict):
        return [(str(path), str(reason)) for path, reason in skipped.items()]
    return [(str(entry.get("path", "")), str(entry.get("reason", ""))) for entry in skipped]


def cache_facts(metrics: Metrics) -> list[tuple[str, str]]:
    """Single facts of the cached teacher."""
    cache = metrics.single.get("cache", {})
    facts = []
    for key, value in cache.items():
        if key == "layers" and isinstance(value, list):
            facts.append((key, f"{len(value)} ({value[0]} to {value[-1]})" if value else "none"))
        elif "bytes" in key and isinstance(value, int | float):
            facts.append((key.replace("_", " "), format_bytes(value)))
        elif _is_fact(key, value):
            facts.append((key.replace("_", " "), _fact(value)))
    return facts


def _is_fact(key: str, value: Any) -> bool:
    return key != "seconds" and isinstance(value, str | int | float) and not isinstance(value, bool)


def _fact(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def scores_of(summary: Mapping[str, Any], model: str) -> dict[str, dict[str, float]]:
    """task -> metric -> percent of a model."""
    return summary["models"].get(model, {}).get("superb", {})


def clamp(share: float | None) -> float | None:
    """`share` within 0 and 1."""
    return None if share is None else min(max(share, 0.0), 1.0)


def format_interval(interval: Any) -> str:
    """`35.5 to 38.2`, or nothing where there is none."""
    return f"{interval[0]:.1f} to {interval[1]:.1f}" if interval else ""
