"""The PNG figures for the README and for trackers that show images."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from fithubert.report.ablations import Ablation, read_ablations
from fithubert.report.curves import read_layer_weights, read_probe, read_training
from fithubert.report.front import plot_front, read_front
from fithubert.report.gather import Metrics
from fithubert.report.png import HUES, INK, QUIET, blank_figure, save_png
from fithubert.report.sections import score_rows
from fithubert.report.summary import ReportPlan
from fithubert.tasks import Metric, task_columns, task_info

_MARKERS = "os^Dv*"


def draw_figures(folder: Path, summary: Mapping[str, Any], metrics: Metrics, plan: ReportPlan) -> tuple[Path, ...]:
    """The figures of the page in `folder`, each where its data exists; any other PNG there is removed.

    `quality_cost.png`, `scores.png`, `ablation_{name}.png`, `training.png`, `probe.png`, `layer_weights.png` and
    `sweep_front.png`. Raises UserError where matplotlib is not installed.
    """
    drawings: dict[str, Callable[[Any], bool]] = {
        "quality_cost": lambda figure: _quality_cost(figure, summary, plan),
        "scores": lambda figure: _scores(figure, summary, plan),
        "training": lambda figure: _training(figure, metrics),
        "probe": lambda figure: _probe(figure, metrics),
        "layer_weights": lambda figure: _layer_weights(figure, summary, metrics),
        "sweep_front": lambda figure: _sweep_front(figure, metrics),
    }
    for *_, ablation in read_ablations(metrics, plan.ablations):
        if ablation is not None:
            drawings[f"ablation_{ablation.name}"] = partial(_ablation, ablation=ablation)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, draw in drawings.items():
        figure = blank_figure()
        if draw(figure):
            written.append(folder / f"{name}.png")
            save_png(figure, written[-1])
    for stale in set(folder.glob("*.png")) - set(written):
        stale.unlink()
    return tuple(written)


def _style(axes: Any, title: str, x_label: str, y_label: str) -> None:
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel(x_label, fontsize=9)
    axes.set_ylabel(y_label, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _look(name: str, summary: Mapping[str, Any], plan: ReportPlan) -> tuple[str, str]:
    """(colour, marker) of a model: the teacher in ink, the baseline grey, the others hued in order."""
    if name in (plan.teacher, plan.baseline):
        return (INK, "o") if name == plan.teacher else (QUIET, "s")
    index = [m for m in summary["models"] if m not in (plan.teacher, plan.baseline)].index(name)
    return HUES[index % len(HUES)], _MARKERS[index % len(_MARKERS)]


def _quality_cost(figure: Any, summary: Mapping[str, Any], plan: ReportPlan) -> bool:
    panels = [
        (task, metric)
        for task, metric in task_columns(summary)
        if any(metric.name in model["superb"].get(task, {}) for model in summary["models"].values())
    ]
    measured = {name: model for name, model in summary["models"].items() if "macs_per_second" in model}
    if not panels or not measured:
        return False
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure.set_size_inches(3.6 * columns, 3.1 * rows)
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    looks = {name: _look(name, summary, plan) for name in measured}
    for axes, (task, metric) in zip(grid, panels, strict=False):
        _cost_panel(axes, measured, looks, task, metric)
    handles, labels = max((axes.get_legend_handles_labels() for axes in grid), key=lambda pair: len(pair[1]))
    figure.legend(handles, labels, loc="outside lower center", ncols=3 * columns, fontsize=8, frameon=False)
    return True


def _cost_panel(
    axes: Any, models: Mapping[str, Any], looks: Mapping[str, tuple[str, str]], task: str, metric: Metric
) -> None:
    """One task's scores against multiply-accumulates, better upwards."""
    for name, model in models.items():
        value = model["superb"].get(task, {}).get(metric.name)
        if value is None:
            continue
        colour, marker = looks[name]
        x = model["macs_per_second"] / 1e6
        interval = model["ci"].get(task, {}).get(metric.name)
        if interval:
            axes.vlines(x, *interval, color=colour, alpha=0.5)
        axes.scatter([x], [value], color=colour, marker=marker, label=name, zorder=3)
    if metric.lower:
        axes.invert_yaxis()
    direction = "lower is better, axis reversed" if metric.lower else "higher is better"
    _style(axes, task_info(task).title, "MMAC per second of audio", f"{metric.label}, %\n({direction})")


def _scores(figure: Any, summary: Mapping[str, Any], plan: ReportPlan) -> bool:
    """Tasks by models, as dark as the score is near the teacher's; the last row is chance."""
    columns = task_columns(summary)
    rows = score_rows(summary, plan, columns)
    if all(cell.missing for row in rows if row.name != "chance" for cell in row.cells):
        return False
    figure.set_size_inches(1.6 + 0.8 * len(columns), 1.1 + 0.3 * len(rows))
    axes = figure.subplots()
    shades = [[float("nan") if cell.share is None else cell.share for cell in row.cells] for row in rows]
    axes.imshow(shades, aspect="auto", cmap="Blues", vmin=0, vmax=1.8)
    for y, row in enumerate(rows):
        for x, cell in enumerate(row.cells):
            colour = QUIET if cell.missing else INK
            axes.text(x, y, cell.text, ha="center", va="center", fontsize=8, color=colour)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.set_xticks(range(len(columns)), [f"{t.upper()}\n{m.label} {'↓' if m.lower else '↑'}" for t, m in columns])
    axes.xaxis.tick_top()
    _style(axes, "Scores on test, %; pale: filter banks, dark: teacher", "", "")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return True


def _ablation(figure: Any, ablation: Ablation) -> bool:
    """Every figure of an ablation by variant, with its interval; the variants carry their latency."""
    names = list(ablation.variants)
    figure.set_size_inches(2.6 + 2.6 * len(ablation.figures), 1.0 + 0.28 * len(names))
    panels = figure.subplots(1, len(ablation.figures), sharey=True, squeeze=False)[0]
    for axes, measured in zip(panels, ablation.figures, strict=True):
        for y, name in enumerate(names):
            axes.errorbar([measured.means[name]], [y], xerr=measured.half_width, fmt="o", color=HUES[0], capsize=2)
        _style(axes, "", f"{measured.title} {'↓' if measured.lower else '↑'}", "")
    latencies = [f"{name} ({100 * ablation.variants[name]['latency_ratio']:.0f} %)" for name in names]
    panels[0].set_yticks(range(len(names)), latencies)
    panels[0].invert_yaxis()
    figure.suptitle(f"{ablation.name} of {ablation.of} (latency of the teacher's), 95 % intervals", fontsize=10)
    return True


def _sweep_front(figure: Any, metrics: Metrics) -> bool:
    if "sweep" not in metrics.single:
        return False
    plot_front(figure.subplots(), read_front(metrics.single["sweep"]))
    return True


def _training(figure: Any, metrics: Metrics) -> bool:
    trainings = [read_training(name, metrics.distill[name]) for name in metrics.distill]
    trainings = [training for training in trainings if training.dev_loss]
    if not trainings:
        return False
    figure.set_size_inches(8, 2.7 * len(trainings))
    for row, training in zip(figure.subplots(len(trainings), 2, squeeze=False), trainings, strict=True):
        if training.train_loss:
            row[0].plot(*zip(*training.train_loss, strict=True), "--", color=QUIET, label="train")
        row[0].plot(*zip(*training.dev_loss, strict=True), color=HUES[0], label="dev")
        row[0].legend(fontsize=8, frameon=False)
        _style(row[0], f"{training.student}: loss", "update", "loss")
        deepest = max(training.hints, default=1)
        for layer, points in training.hints.items():
            row[1].plot(*zip(*points, strict=True), color=HUES[0], alpha=0.2 + 0.79 * layer / deepest, label=f"{layer}")
        row[1].legend(title="teacher layer", title_fontsize=7, fontsize=7, ncols=3, frameon=False)
        _style(row[1], f"{training.student}: dev loss of each head", "update", "loss")
    return True


def _probe(figure: Any, metrics: Metrics) -> bool:
    probe = read_probe(metrics)
    if probe is None:
        return False
    figure.set_size_inches(5, 3.2)
    axes = figure.subplots()
    axes.plot(*zip(*probe.teacher, strict=True), "o-", color=INK, label="teacher")
    if probe.untrained:
        axes.plot(*zip(*probe.untrained, strict=True), "s--", color=HUES[1], label="the same network untrained")
    if probe.fbank is not None:
        axes.axhline(probe.fbank, color=QUIET, ls=":", label="filter banks")
    axes.legend(fontsize=8, frameon=False)
    _style(axes, "Linear probe for the phone of a frame", "layer", "frames right, %")
    return True


def _layer_weights(figure: Any, summary: Mapping[str, Any], metrics: Metrics) -> bool:
    found = {t: read_layer_weights(metrics, list(summary["models"]), t) for t in summary["tasks"]}
    rows = [(f"{task.upper()} {model}", weights) for task, models in found.items() for model, weights in models.items()]
    if not rows:
        return False
    widest = max(len(weights) for _, weights in rows)
    grid = [[*weights, *[float("nan")] * (widest - len(weights))] for _, weights in rows]
    figure.set_size_inches(6, 0.32 * len(rows) + 1.0)
    axes = figure.subplots()
    image = axes.imshow(grid, aspect="auto", cmap="Blues", vmin=0)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_xticks(range(widest))
    _style(axes, "Learnt weight of each hidden state", "layer", "")
    axes.grid(visible=False)
    figure.colorbar(image, ax=axes, fraction=0.03)
    return True
