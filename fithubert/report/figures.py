"""All charts but the interactive one: drawn once with matplotlib, saved as PNG and SVG, and shown inside the page."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from fithubert.records import CurvePoint, DepthMetrics, PhoneProbe, SweepMetrics, SweepPoint, label_heads
from fithubert.report.chart import Chart, Label, label_right, new_chart, palette, style_axes
from fithubert.report.scores import Columns, ScoreRow
from fithubert.report.sections import Ablation, AblationFigure, LayerWeights, Sections
from fithubert.report.table import format_heading
from fithubert.tasks import Metric, task_info

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = "os^Dv*"
#: Inches of a chart that stands next to another one on the page.
_HALF_PAGE = (4.8, 2.7)


def draw_charts(sections: Sections) -> list[Chart]:
    """Every chart that has data. Raises UserError if matplotlib is not installed."""
    charts = [_draw_quality_cost(sections), _draw_scores(sections.scores, sections.columns)]
    for student in sections.trainings:
        if student.metrics is not None and student.metrics.curve:
            charts += [
                _draw_loss(student.name, student.metrics.curve),
                _draw_heads(student.name, student.metrics.curve),
            ]
    for ablation in sections.ablations:
        charts += [_draw_ablation(ablation, figure) for figure in ablation.figures]
    charts.append(None if sections.sweep is None else draw_front(sections.sweep))
    probe = None if sections.teacher is None else sections.teacher.probe
    charts.append(None if probe is None else _draw_probe(probe))
    charts.append(None if sections.depth is None else _draw_depth(sections.depth))
    charts.append(_draw_layer_weights(sections.layer_weights))
    return [chart for chart in charts if chart is not None]


def _draw_quality_cost(sections: Sections) -> Chart | None:
    """A panel for each metric: scores against multiply-accumulates, better upwards."""
    summary = sections.summary
    costs = {n: m.macs_per_second / 1e6 for n, m in summary.ordered.items() if m.macs_per_second is not None}
    panels = [
        (task, metric)
        for task, metric in sections.columns
        if any(model.score(task, metric.name) is not None for model in summary.models.values())
    ]
    if not panels or not costs:
        return None
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    chart = new_chart("quality_cost", "Scores of every model against its cost", 3.6 * columns, 3.1 * rows)
    grid = chart.figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes, (task, metric) in zip(grid, panels, strict=False):
        for index, (name, cost) in enumerate(costs.items()):
            model, colour = summary.models[name], palette()[sections.colours[name]]
            value, interval = model.score(task, metric.name), model.interval(task, metric.name)
            if value is None:
                continue
            if interval is not None:
                axes.vlines(cost, *interval, color=colour, alpha=0.5)
            marker = _MARKERS[index % len(_MARKERS)]
            axes.scatter([cost], [value], color=colour, marker=marker, label=name, zorder=3)
        style_axes(axes, "MMAC per second of audio", _label_direction(f"{metric.label}, %", metric.lower))
        axes.set_title(task_info(task).title, fontsize=10, loc="left")
        if metric.lower:
            axes.invert_yaxis()
    handles, labels = max((axes.get_legend_handles_labels() for axes in grid), key=lambda pair: len(pair[1]))
    chart.figure.legend(handles, labels, loc="outside lower center", ncols=3 * columns, fontsize=8, frameon=False)
    return chart


def _label_direction(label: str, lower: bool) -> str:
    return f"{label}\n({'lower is better, axis reversed' if lower else 'higher is better'})"


def _draw_scores(rows: Sequence[ScoreRow], columns: Columns) -> Chart | None:
    """Models by tasks; the darker a cell, the closer its score to the teacher's; the last row is chance."""
    if all(cell.missing for row in rows if row.model is not None for cell in row.cells):
        return None
    chart = new_chart("scores", "Scores of every model on every task", 1.6 + 0.8 * len(columns), 1.1 + 0.3 * len(rows))
    axes = chart.figure.subplots()
    shades = [[float("nan") if cell.share is None else cell.share for cell in row.cells] for row in rows]
    axes.imshow(shades, aspect="auto", cmap="Blues", vmin=0, vmax=1.8)
    for y, row in enumerate(rows):
        for x, cell in enumerate(row.cells):
            colour = palette()["quiet" if cell.missing else "ink"]
            axes.text(x, y, cell.text, ha="center", va="center", fontsize=8, color=colour)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.set_xticks(range(len(columns)), [_column_title(task, metric) for task, metric in columns])
    axes.xaxis.tick_top()
    _style_grid(axes, "Scores on test, %; pale: filter banks, dark: teacher")
    return chart


def _column_title(task: str, metric: Metric) -> str:
    return f"{task.upper()}\n{format_heading(metric)}"


def _style_grid(axes: "Axes", title: str) -> None:
    style_axes(axes, "", "")
    axes.set_title(title, fontsize=10, loc="left")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def _draw_loss(student: str, curve: Sequence[CurvePoint]) -> Chart:
    chart = new_chart(f"loss_{student}", f"Loss of {student} by update, train and dev", *_HALF_PAGE)
    axes = chart.figure.subplots()
    updates = [point.update for point in curve]
    labels = []
    for name, losses, colour, style in (
        ("train", [point.train_loss for point in curve], "quiet", "--"),
        ("dev", [point.dev_loss for point in curve], "hue-0", "-"),
    ):
        (line,) = axes.plot(updates, losses, style, color=palette()[colour])
        chart.add_title(line, name)
        labels.append(Label(name, updates[-1], losses[-1], palette()[colour]))
    style_axes(axes, "update", "loss")
    label_right(axes, labels)
    return chart


def _draw_heads(student: str, curve: Sequence[CurvePoint]) -> Chart:
    """One line a head, stronger for deeper teacher layers; the first and the last one are named."""
    chart = new_chart(f"heads_{student}", f"Dev loss of each head of {student} by update", *_HALF_PAGE)
    axes = chart.figure.subplots()
    heads = sorted({head for point in curve for head in point.layer_losses}, key=lambda head: head[::-1])
    names = label_heads(heads)
    labels = []
    for place, head in enumerate(heads):
        points = [(point.update, point.layer_losses[head]) for point in curve if head in point.layer_losses]
        depth = place / max(len(heads) - 1, 1)
        (line,) = axes.plot(*zip(*points, strict=True), color=palette()["hue-0"], alpha=0.3 + 0.7 * depth)
        chart.add_title(line, f"teacher {names[head]}")
        if place in (0, len(heads) - 1):
            labels.append(Label(names[head], *points[-1], palette()["hue-0"]))
    style_axes(axes, "update", "hint loss")
    label_right(axes, labels)
    return chart


def _draw_ablation(ablation: Ablation, figure: AblationFigure) -> Chart:
    """Means of the variants against their latency, better upwards."""
    description = f"{figure.title} of every variant of {ablation.name} against latency"
    chart = new_chart(f"ablation_{ablation.name}_{figure.key}", description, *_HALF_PAGE)
    axes = chart.figure.subplots()
    labels = []
    for name, mean in figure.means.items():
        assert ablation.metrics is not None  # It has figures.
        latency = 100 * ablation.metrics.variants[name].latency_ratio
        marks = axes.errorbar([latency], [mean], yerr=figure.half_width, fmt="o", color=palette()["hue-0"], ms=5)
        noise = "" if figure.half_width is None else f" ± {figure.half_width:.2g}"
        chart.add_title(marks.lines[0], f"{name}: {mean:.3g}{noise}")
        labels.append(Label(name, latency, mean, palette()["soft"]))
    style_axes(axes, "latency, % of the teacher", figure.title)
    if figure.lower:
        axes.invert_yaxis()
    label_right(axes, labels, leaders=True)
    return chart


def _draw_probe(probe: PhoneProbe) -> Chart:
    best = max(probe.layers, key=lambda layer: probe.layers[layer])
    description = f"Phone accuracy of a linear probe by teacher layer; best {probe.layers[best]:.1f} % at layer {best}"
    chart = new_chart("probe", description, *_HALF_PAGE)
    axes = chart.figure.subplots()
    layers = sorted(probe.layers)
    labels = []
    for name, values, colour, style in (
        ("teacher", probe.layers, "ink", "o-"),
        ("untrained", probe.untrained, "hue-1", "--"),
        ("filter banks", dict.fromkeys(layers, probe.fbank), "quiet", ":"),
    ):
        points = sorted(values.items())
        if points:
            (line,) = axes.plot(*zip(*points, strict=True), style, color=palette()[colour], ms=4)
            chart.add_title(line, name)
            labels.append(Label(name, *points[-1], palette()[colour]))
    style_axes(axes, "layer", "correct frames, %")
    axes.set_xticks(layers)
    label_right(axes, labels)
    return chart


def _draw_depth(depth: DepthMetrics) -> Chart | None:
    """The phone error rate of each hidden state alone, better upwards."""
    if not depth.layers:
        return None
    chart = new_chart("depth", "Phone error rate of each hidden state of the teacher alone", *_HALF_PAGE)
    axes = chart.figure.subplots()
    states = list(depth.layers)
    labels = []
    for name, colour, style in (("dev", "quiet", "--"), ("test", "hue-0", "-")):
        rates = [getattr(score, name) for score in depth.layers.values()]
        (line,) = axes.plot(states, rates, style, marker="o", markersize=3, color=palette()[colour])
        chart.add_title(line, name)
        labels.append(Label(name, states[-1], rates[-1], palette()[colour]))
    style_axes(axes, "state of the teacher", "PER, %\n(lower is better, axis reversed)")
    axes.invert_yaxis()
    label_right(axes, labels)
    return chart


def _draw_layer_weights(tasks: Sequence[LayerWeights]) -> Chart | None:
    rows = [(f"{of.task.name.upper()} {model}", weights) for of in tasks for model, weights in of.weights.items()]
    if not rows:
        return None
    widest = max(len(weights) for _, weights in rows)
    grid = [[*weights, *[float("nan")] * (widest - len(weights))] for _, weights in rows]
    chart = new_chart("layer_weights", "Learnt weight of every hidden state", 6, 0.32 * len(rows) + 1.0)
    axes = chart.figure.subplots()
    image = axes.imshow(grid, aspect="auto", cmap="Blues", vmin=0)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_xticks(range(widest))
    _style_grid(axes, "Learnt weight of each hidden state, by layer")
    chart.figure.colorbar(image, ax=axes, fraction=0.03)
    return chart


def draw_front(sweep: SweepMetrics) -> Chart:
    """The first quality of a study against its first cost: every trial and the front."""
    quality, cost = sweep.qualities[0], sweep.costs[0]
    label, lower = sweep.labels[quality]
    chart = new_chart("sweep_front", f"{label} of every trial against its cost", 7.5, 4.2)
    axes = chart.figure.subplots()
    for on_front, colour, name in ((False, "quiet", "trial"), (True, "hue-0", "front")):
        chosen = [point for point in sweep.finished if point.on_front == on_front]
        x, y = [point.values[cost] for point in chosen], [point.values[quality] for point in chosen]
        axes.scatter(x, y, color=palette()[colour], label=name)
    front = sorted((point.values[cost], point.values[quality]) for point in sweep.front)
    axes.step(*zip(*front, strict=True), where="post", color=palette()["hue-0"], ls=":")
    style_axes(axes, sweep.labels[cost][0], _label_direction(label, lower))
    axes.xaxis.set_major_formatter(lambda x, _: f"{100 * x:g} %" if cost == "latency_ratio" else f"{x / 1e6:g} M")
    if lower:
        axes.invert_yaxis()
    axes.set_title(f"study {sweep.study}", loc="left", fontsize=10)
    axes.legend(frameon=False)
    return chart


def draw_importance(sweep: SweepMetrics) -> Chart:
    """The share of each objective that every choice explains; a note if there were too few trials."""
    chart = new_chart("importance", "The share of each objective that every choice explains", 7.5, 4.2)
    measured = {objective: shares for objective, shares in sweep.importance.items() if shares}
    panels = chart.figure.subplots(1, max(1, len(measured)), squeeze=False)[0]
    if not measured:
        panels[0].text(0.5, 0.5, "too few finished trials", ha="center")
        panels[0].set_axis_off()
    for axes, (objective, shares) in zip(panels, measured.items(), strict=False):
        ranked = sorted(shares.items(), key=lambda item: item[1])
        axes.barh([name for name, _ in ranked], [share for _, share in ranked], color=palette()["hue-0"])
        style_axes(axes, "", "")
        axes.set_title(sweep.labels[objective][0], fontsize=8, loc="left")
    return chart


def draw_trial_curves(sweep: SweepMetrics) -> Chart | None:
    """The dev loss of every trial by update; the front is named, trials that were stopped early are dashed."""
    trials = [point for point in sweep.points if point.curve]
    if not trials:
        return None
    chart = new_chart("trial_curves", "Dev loss of every trial by update", 7.5, 4.2)
    axes = chart.figure.subplots()
    for point in _front_last(trials):
        colour = palette()["hue-0" if point.on_front else "quiet"]
        width, alpha = (1.5, 1.0) if point.on_front else (1.0, 0.6)
        style = "-" if point.values else "--"
        (line,) = axes.plot(*zip(*point.curve, strict=True), style, color=colour, lw=width, alpha=alpha)
        chart.add_title(line, sweep.title(point))
    style_axes(axes, "update", "dev loss of the last head")
    label_right(axes, [Label(sweep.title(p), *p.curve[-1], palette()["hue-0"]) for p in trials if p.on_front])
    return chart


def _front_last(trials: Iterable[SweepPoint]) -> list[SweepPoint]:
    return sorted(trials, key=lambda point: point.on_front)
