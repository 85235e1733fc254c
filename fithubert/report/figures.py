"""The PNG figures for the README and for trackers that show images."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fithubert.errors import UserError
from fithubert.files import atomic_file
from fithubert.report.curves import read_layer_weights, read_probe, read_training
from fithubert.report.gather import Metrics
from fithubert.report.summary import ReportPlan
from fithubert.report.tasks import Metric, task_info

_INK, _QUIET = "#1b2330", "#8a93a0"
_HUES = ("#1f6feb", "#c2410c", "#0f8a5f", "#8b3fc4", "#b8860b", "#c02669")
_MARKERS = "os^Dv*"


def draw_figures(folder: Path, summary: Mapping[str, Any], metrics: Metrics, plan: ReportPlan) -> tuple[Path, ...]:
    """`quality_cost.png`, `training.png`, `probe.png` and `layer_weights.png` in `folder`, each where its data exists.

    Raises UserError where matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("the report's figures need matplotlib: pip install fithubert[report]") from None
    drawings: dict[str, Callable[[Figure], bool]] = {
        "quality_cost": lambda figure: _quality_cost(figure, summary, plan),
        "training": lambda figure: _training(figure, metrics),
        "probe": lambda figure: _probe(figure, metrics),
        "layer_weights": lambda figure: _layer_weights(figure, summary, metrics),
    }
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, draw in drawings.items():
        path = folder / f"{name}.png"
        figure = Figure(layout="constrained")
        if not draw(figure):
            path.unlink(missing_ok=True)
            continue
        with atomic_file(path) as aside:
            # Without the software's name and version the same figures give the same bytes.
            figure.savefig(aside, format="png", dpi=150, metadata={"Software": None})
        written.append(path)
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
        return (_INK, "o") if name == plan.teacher else (_QUIET, "s")
    index = [m for m in summary["models"] if m not in (plan.teacher, plan.baseline)].index(name)
    return _HUES[index % len(_HUES)], _MARKERS[index % len(_MARKERS)]


def _quality_cost(figure: Any, summary: Mapping[str, Any], plan: ReportPlan) -> bool:
    panels = [
        (task, metric)
        for task in summary["tasks"]
        for metric in task_info(task).metrics
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


def _training(figure: Any, metrics: Metrics) -> bool:
    trainings = [read_training(name, metrics.distill[name]) for name in metrics.distill]
    trainings = [training for training in trainings if training.dev_loss]
    if not trainings:
        return False
    figure.set_size_inches(8, 2.7 * len(trainings))
    for row, training in zip(figure.subplots(len(trainings), 2, squeeze=False), trainings, strict=True):
        if training.train_loss:
            row[0].plot(*zip(*training.train_loss, strict=True), "--", color=_QUIET, label="train")
        row[0].plot(*zip(*training.dev_loss, strict=True), color=_HUES[0], label="dev")
        row[0].legend(fontsize=8, frameon=False)
        _style(row[0], f"{training.student}: loss", "update", "loss")
        deepest = max(training.hints, default=1)
        for layer, points in training.hints.items():
            row[1].plot(
                *zip(*points, strict=True), color=_HUES[0], alpha=0.2 + 0.79 * layer / deepest, label=f"{layer}"
            )
        row[1].legend(title="teacher layer", title_fontsize=7, fontsize=7, ncols=3, frameon=False)
        _style(row[1], f"{training.student}: dev loss of each head", "update", "loss")
    return True


def _probe(figure: Any, metrics: Metrics) -> bool:
    probe = read_probe(metrics)
    if probe is None:
        return False
    figure.set_size_inches(5, 3.2)
    axes = figure.subplots()
    axes.plot(*zip(*probe.teacher, strict=True), "o-", color=_INK, label="teacher")
    if probe.untrained:
        axes.plot(*zip(*probe.untrained, strict=True), "s--", color=_HUES[1], label="the same network untrained")
    if probe.fbank is not None:
        axes.axhline(probe.fbank, color=_QUIET, ls=":", label="filter banks")
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
