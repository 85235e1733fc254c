"""Ablations: what each variant costs, what it comes to, and whether that is more than seeds alone would do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fithubert.report.gather import Metrics
from fithubert.report.svg import Mark, mark_chart
from fithubert.tasks import find_metric

#: Improbable enough, of one figure over all variants, to be called a difference.
_LEVEL = 0.05


@dataclass(frozen=True)
class AblationFigure:
    """One measured figure: its title, its means by variant, the half width of their interval, and the verdict."""

    title: str
    lower: bool
    means: dict[str, float]
    half_width: float | None
    verdict: str


@dataclass(frozen=True)
class Ablation:
    """One ablation as it ran: its variants with their costs, and the figures that tell them apart."""

    name: str
    of: str
    updates: int
    audio_hours: float
    seeds: tuple[int, ...]
    variants: dict[str, dict[str, Any]]
    figures: tuple[AblationFigure, ...]


def read_ablations(metrics: Metrics, planned: Sequence[str]) -> list[tuple[str, str, Ablation | None]]:
    """Name and title of every planned ablation, None where it has not run, and of whatever else was measured."""
    names = dict.fromkeys([*planned, *metrics.ablations])
    return [(name, _title_of(name), _read(name, metrics.ablations.get(name))) for name in names]


def _title_of(name: str) -> str:
    """`time_reduction` as `Time reduction`."""
    return name.replace("_", " ").capitalize()


def ablation_charts(ablation: Ablation) -> list[str]:
    """An SVG per figure: its means against latency, with intervals."""
    charts = []
    for figure in ablation.figures:
        marks = [
            Mark(name, 100 * ablation.variants[name]["latency_ratio"], mean, figure.half_width or 0.0)
            for name, mean in figure.means.items()
        ]
        description = f"{figure.title} of every variant of {ablation.name} against latency"
        charts.append(mark_chart(marks, "latency, % of the teacher", figure.title, description, figure.lower))
    return charts


def _read(name: str, values: Mapping[str, Any] | None) -> Ablation | None:
    if values is None:
        return None
    # Files of metrics sort their keys; lists keep the order of params.yaml.
    order = list(dict.fromkeys(trial["variant"] for trial in values["trials"]))
    variants = {variant: values["variants"][variant] for variant in order}
    return Ablation(
        name=name,
        of=values["of"],
        updates=values["updates"],
        audio_hours=next(iter(variants.values()))["audio_hours"],
        seeds=tuple(values["seeds"]),
        variants=variants,
        figures=tuple(_figure(key, comparison, order) for key, comparison in values["comparisons"].items()),
    )


def _figure(key: str, comparison: Mapping[str, Any], order: Sequence[str]) -> AblationFigure:
    task, _, metric = key.partition("_")
    found = None if key == "dev_loss" else find_metric(task, metric)
    title = "hint loss on dev" if found is None else f"{task.upper()} {found.label}, %"
    return AblationFigure(
        title=title,
        lower=found is None or found.lower,
        means={variant: comparison["means"][variant] for variant in order},
        half_width=comparison["half_width"],
        verdict=_verdict(comparison),
    )


def _verdict(comparison: Mapping[str, Any]) -> str:
    f, p, deviation = comparison["f"], comparison["p"], comparison["seed_deviation"]
    if p is None:
        return "one seed: no telling differences from noise"
    noise = f"seeds alone deviate by {deviation:.2g}, F = {f:.1f}, p {'< 0.001' if p < 0.001 else f'= {p:.2g}'}"
    return f"variants differ by more than seeds do ({noise})" if p < _LEVEL else f"no difference beyond seeds ({noise})"
