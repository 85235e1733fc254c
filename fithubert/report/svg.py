"""Small charts as inline SVG, drawn once in Python so that they print and need no script."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 480, 260
_LEFT, _TOP, _BOTTOM = 52, 14, 220


@dataclass(frozen=True)
class Line:
    """One line: its name, its points (x, y), a CSS class or colour, and whether it is dashed."""

    name: str
    points: tuple[tuple[float, float], ...]
    colour: str
    dashed: bool = False
    #: Written at the end of the line; None leaves it to the legend.
    label: str | None = None


@dataclass(frozen=True)
class Mark:
    """One point of a chart with its name beside it and a bar of `half_width` up and down."""

    name: str
    x: float
    y: float
    half_width: float = 0.0


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round values that cover low..high."""
    span = high - low or abs(high)
    # Nothing measured is this small, and its logarithm leaves the floats.
    span = span if span > 1e-200 else 1.0
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if span / (power * m) <= count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * i, 10) for i in range(first, last + 1)]


def line_chart(lines: Sequence[Line], x_label: str, y_label: str, description: str, whole_x: bool = False) -> str:
    """An SVG of `lines` with axes; `description` is its text alternative. Empty where there are no points."""
    points = [point for line in lines for point in line.points if math.isfinite(point[1])]
    if not points:
        return ""
    plot = _Plot(points, max((len(line.label or "") for line in lines), default=0))
    parts = _axes(plot, x_label, y_label, description, whole_x)
    heights = _spread([plot.at_y(line.points[-1][1]) if line.label and line.points else None for line in lines])
    parts += [_draw(line, plot, height) for line, height in zip(lines, heights, strict=True)]
    return "".join([*parts, "</svg>"])


def mark_chart(marks: Sequence[Mark], x_label: str, y_label: str, description: str, less_is_better: bool) -> str:
    """An SVG of `marks` with axes, better always upwards; `description` is its text alternative. Empty without any."""
    if not marks:
        return ""
    edges = [(mark.x, mark.y + sign * mark.half_width) for mark in marks for sign in (-1, 1)]
    plot = _Plot(edges, max(len(mark.name) for mark in marks), upside_down=less_is_better)
    parts = _axes(plot, x_label, y_label, description)
    heights = _spread([plot.at_y(mark.y) for mark in marks])
    for mark, height in zip(marks, heights, strict=True):
        x, y, low, high = (
            plot.at_x(mark.x),
            plot.at_y(mark.y),
            *(plot.at_y(mark.y + s * mark.half_width) for s in (-1, 1)),
        )
        title = f"{mark.name}: {mark.y:.3g}" + (f" ± {mark.half_width:.2g}" if mark.half_width else "")
        leader = f'<polyline points="{x + 4:.1f},{y:.1f} {plot.right + 3},{height or y:.1f}" class="leader"/>'
        text = f'<text class="end" x="{plot.right + 7}" y="{(height or y) + 4:.1f}">{escape(mark.name)}</text>'
        bar = f'<line class="interval" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
        circle = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
        parts.append(f'<g class="variant"><title>{escape(title)}</title>{leader}{bar}{circle}{text}</g>')
    return "".join([*parts, "</svg>"])


def _axes(plot: "_Plot", x_label: str, y_label: str, description: str, whole_x: bool = False) -> list[str]:
    """The opening tag, grid, ticks and labels."""
    x_ticks = [t for t in nice_ticks(*plot.x_range, 6) if plot.x_range[0] <= t <= plot.x_range[1]]
    parts = [f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(description)}">']
    for tick in plot.y_ticks:
        y = plot.at_y(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{plot.right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in x_ticks:
        if whole_x and tick != int(tick):
            continue
        x = plot.at_x(tick)
        parts.append(f'<text class="tick" x="{x:.1f}" y="{_BOTTOM + 17}" text-anchor="middle">{tick:g}</text>')
    middle, centre = (_LEFT + plot.right) / 2, (_TOP + _BOTTOM) / 2
    parts.append(f'<text class="axis" x="{middle:.1f}" y="{_HEIGHT - 5}" text-anchor="middle">{escape(x_label)}</text>')
    turned = f'transform="translate(13 {centre}) rotate(-90)" text-anchor="middle"'
    parts.append(f'<text class="axis" {turned}>{escape(y_label)}</text>')
    return parts


class _Plot:
    """The plotting area and its scales; labels of up to `label_length` characters stand right of it."""

    def __init__(self, points: Sequence[tuple[float, float]], label_length: int, upside_down: bool = False) -> None:
        self.right = _WIDTH - 12 - (7 * label_length if label_length else 0)
        self.x_range = (min(x for x, _ in points), max(x for x, _ in points))
        self.y_ticks = nice_ticks(min(y for _, y in points), max(y for _, y in points))
        self._upside_down = upside_down

    def at_x(self, x: float) -> float:
        low, high = self.x_range
        return _LEFT + (x - low) / ((high - low) or 1.0) * (self.right - _LEFT)

    def at_y(self, y: float) -> float:
        low, high = self.y_ticks[0], self.y_ticks[-1]
        share = (y - low) / ((high - low) or 1.0)
        return _BOTTOM - (1 - share if self._upside_down else share) * (_BOTTOM - _TOP)


def _spread(heights: Sequence[float | None], gap: float = 14.0) -> list[float | None]:
    """The heights of labels, moved down where two would overlap."""
    moved = list(heights)
    last = -math.inf
    for index in sorted((i for i, h in enumerate(heights) if h is not None), key=lambda i: heights[i] or 0.0):
        last = max(heights[index] or 0.0, last + gap)
        moved[index] = last
    return moved


def _draw(line: Line, plot: _Plot, label_height: float | None) -> str:
    path = " ".join(f"{plot.at_x(x):.1f},{plot.at_y(y):.1f}" for x, y in line.points if math.isfinite(y))
    dash = ' stroke-dasharray="5 4"' if line.dashed else ""
    drawn = f'<g class="line"><title>{escape(line.name)}</title>'
    drawn += f'<polyline points="{path}" style="stroke:{line.colour}"{dash}/>'
    if label_height is not None:
        place = f'x="{plot.right + 7}" y="{label_height + 4:.1f}" style="fill:{line.colour}"'
        drawn += f'<text class="end" {place}>{escape(line.label or "")}</text>'
    return drawn + "</g>"
