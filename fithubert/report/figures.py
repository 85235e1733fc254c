"""All charts but the interactive one: drawn once with matplotlib, saved as PNG and SVG, and shown inside the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fithubert.records import AblationMetrics, CurvePoint, DepthMetrics, PhoneProbe, SweepMetrics, label_heads
from fithubert.report.chart import Chart, Label, label_right, new_chart, palette, style_axes
from fithubert.report.sections import AblationFigure, Columns, ScoreRow, Sections, ablation_figures
from fithubert.report.table import format_heading
from fithubert.tasks import task_info

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = "os^Dv*"
#: Inches of a chart that stands next to another one on the page, and of one alone.
_HALF_PAGE, _PAGE = (4.8, 2.7), (7.5, 4.2)


def draw_charts(sections: Sections) -> list[Chart]:
    """Every chart that has data. Raises UserError if matplotlib is not installed."""
    metrics = sections.metrics
    charts = [_draw_quality_cost(sections), _draw_scores(sections.rows, sections.columns)]
    for name, trained in metrics.distill.items():
        if trained.curve:
            charts += [_draw_loss(name, trained.curve), _draw_heads(name, trained.curve)]
    for name, ablation in metrics.ablation.items():
        charts += [_draw_ablation(name, ablation, figure) for figure in ablation_figures(ablation)]
    if metrics.sweep is not None:
        charts.append(draw_front(metrics.sweep))
    if metrics.teacher is not None and metrics.teacher.probe is not None:
        charts.append(_draw_probe(metrics.teacher.probe))
    if metrics.depth is not None and metrics.depth.layers:
        charts.append(_draw_depth(metrics.depth))
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
        y_label = _label_direction(f"{metric.label}, %", metric.lower)
        style_axes(axes, "MMAC per second of audio", y_label, better_down=metric.lower)
        axes.set_title(task_info(task).title, fontsize=10, loc="left")
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
    axes.set_xticks(range(len(columns)), [f"{task.upper()}\n{format_heading(metric)}" for task, metric in columns])
    axes.xaxis.tick_top()
    _style_grid(axes, "Scores on test, %; pale: filter banks, dark: teacher")
    return chart


def _style_grid(axes: "Axes", title: str) -> None:
    style_axes(axes, "", "")
    axes.set_title(title, fontsize=10, loc="left")
    axes.grid(visible=False)


@dataclass(frozen=True)
class _Line:
    """(x, y) `points` with a `title` for the pointer. `label`: written at the last point. `style`: matplotlib's."""

    title: str
    points: Sequence[tuple[float, float]]
    colour: str
    label: str = ""
    style: str = "-"
    options: Mapping[str, Any] = field(default_factory=dict)


def _draw_lines(chart: Chart, lines: Sequence[_Line], x_label: str, y_label: str, better_down: bool = False) -> "Axes":
    axes = chart.figure.subplots()
    for line in lines:
        x, y = zip(*line.points, strict=True)
        (drawn,) = axes.plot(x, y, line.style, color=palette()[line.colour], **line.options)
        chart.add_title(drawn, line.title)
    style_axes(axes, x_label, y_label, better_down)
    label_right(axes, [Label(line.label, *line.points[-1], palette()[line.colour]) for line in lines if line.label])
    return axes


def _draw_loss(student: str, curve: Sequence[CurvePoint]) -> Chart:
    chart = new_chart(f"loss_{student}", f"Loss of {student} by update, train and dev", *_HALF_PAGE)
    lines = [_Line("dev", [(point.update, point.dev_loss) for point in curve], "hue-0", "dev")]
    trained = [(point.update, point.train_loss) for point in curve if point.train_loss is not None]
    if trained:
        lines.insert(0, _Line("train", trained, "quiet", "train", "--"))
    _draw_lines(chart, lines, "update", "loss")
    return chart


def _draw_heads(student: str, curve: Sequence[CurvePoint]) -> Chart:
    """One line a head, stronger for deeper teacher layers; the first and the last one are named."""
    chart = new_chart(f"heads_{student}", f"Dev loss of each head of {student} by update", *_HALF_PAGE)
    heads = sorted({head for point in curve for head in point.layer_losses}, key=lambda head: head[::-1])
    names = label_heads(heads)
    lines = []
    for place, head in enumerate(heads):
        points = [(point.update, point.layer_losses[head]) for point in curve if head in point.layer_losses]
        label = names[head] if place in (0, len(heads) - 1) else ""
        strength = {"alpha": 0.3 + 0.7 * (place / max(len(heads) - 1, 1))}
        lines.append(_Line(f"teacher {names[head]}", points, "hue-0", label, options=strength))
    _draw_lines(chart, lines, "update", "hint loss")
    return chart


def _draw_ablation(name: str, ablation: AblationMetrics, figure: AblationFigure) -> Chart:
    """Means of the variants against their latency, better upwards."""
    description = f"{figure.title} of every variant of {name} against latency"
    chart = new_chart(f"ablation_{name}_{figure.key}", description, *_HALF_PAGE)
    axes = chart.figure.subplots()
    labels, half_width = [], figure.comparison.half_width
    for variant in ablation.order:
        mean, latency = figure.comparison.means[variant], 100 * ablation.variants[variant].latency_ratio
        marks = axes.errorbar([latency], [mean], yerr=half_width, fmt="o", color=palette()["hue-0"], ms=5)
        noise = "" if half_width is None else f" ± {half_width:.2g}"
        chart.add_title(marks.lines[0], f"{variant}: {mean:.3g}{noise}")
        labels.append(Label(variant, latency, mean, palette()["soft"]))
    style_axes(axes, "latency, % of the teacher", figure.title, better_down=figure.lower)
    label_right(axes, labels, leaders=True)
    return chart


def _draw_probe(probe: PhoneProbe) -> Chart:
    best = max(probe.layers, key=lambda layer: probe.layers[layer])
    description = f"Phone accuracy of a linear probe by teacher layer; best {probe.layers[best]:.1f} % at layer {best}"
    chart = new_chart("probe", description, *_HALF_PAGE)
    layers = sorted(probe.layers)
    lines = [
        _Line(name, sorted(values.items()), colour, name, style, {"ms": 4})
        for name, values, colour, style in (
            ("teacher", probe.layers, "ink", "o-"),
            ("untrained", probe.untrained, "hue-1", "--"),
            ("filter banks", dict.fromkeys(layers, probe.fbank), "quiet", ":"),
        )
        if values
    ]
    _draw_lines(chart, lines, "layer", "correct frames, %").set_xticks(layers)
    return chart


def _draw_depth(depth: DepthMetrics) -> Chart:
    """The phone error rate of each hidden state alone, better upwards."""
    chart = new_chart("depth", "Phone error rate of each hidden state of the teacher alone", *_HALF_PAGE)
    marks = {"marker": "o", "markersize": 3}
    dev = _Line("dev", [(state, of.dev) for state, of in depth.layers.items()], "quiet", "dev", "--", marks)
    test = _Line("test", [(state, of.test) for state, of in depth.layers.items()], "hue-0", "test", "-", marks)
    _draw_lines(chart, [dev, test], "state of the teacher", _label_direction("PER, %", lower=True), better_down=True)
    return chart


def _draw_layer_weights(tasks: Mapping[str, Mapping[str, Sequence[float]]]) -> Chart | None:
    rows = [(f"{task.upper()} {model}", weights) for task, of in tasks.items() for model, weights in of.items()]
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
    chart = new_chart("sweep_front", f"{label} of every trial against its cost", *_PAGE)
    axes = chart.figure.subplots()
    for on_front, colour, name in ((False, "quiet", "trial"), (True, "hue-0", "front")):
        chosen = [point for point in sweep.finished if point.on_front == on_front]
        x, y = [point.values[cost] for point in chosen], [point.values[quality] for point in chosen]
        axes.scatter(x, y, color=palette()[colour], label=name)
    front = sorted((point.values[cost], point.values[quality]) for point in sweep.front)
    axes.step(*zip(*front, strict=True), where="post", color=palette()["hue-0"], ls=":")
    style_axes(axes, sweep.labels[cost][0], _label_direction(label, lower), better_down=lower)
    axes.xaxis.set_major_formatter(lambda x, _: f"{100 * x:g} %" if cost == "latency_ratio" else f"{x / 1e6:g} M")
    axes.set_title(f"study {sweep.study}", loc="left", fontsize=10)
    axes.legend(frameon=False)
    return chart


def draw_importance(sweep: SweepMetrics) -> Chart:
    """The share of each objective that every choice explains; a note if there were too few trials."""
    chart = new_chart("importance", "The share of each objective that every choice explains", *_PAGE)
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
    lines = []
    # The front is drawn last, on top of the others.
    for point in sorted((point for point in sweep.points if point.curve), key=lambda point: point.on_front):
        name, style = sweep.title(point), "-" if point.values else "--"
        if point.on_front:
            lines.append(_Line(name, point.curve, "hue-0", name, style, {"lw": 1.5, "alpha": 1.0}))
        else:
            lines.append(_Line(name, point.curve, "quiet", "", style, {"lw": 1.0, "alpha": 0.6}))
    if not lines:
        return None
    chart = new_chart("trial_curves", "Dev loss of every trial by update", *_PAGE)
    _draw_lines(chart, lines, "update", "dev loss of the last head")
    return chart
