"""Small line charts as inline SVG, drawn once in Python so that they print and need no script."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 480, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 16, 14, 40


@dataclass(frozen=True)
class Line:
    """One line: its name, its points (x, y), a CSS class or colour, and whether it is dashed."""

    name: str
    points: tuple[tuple[float, float], ...]
    colour: str
    dashed: bool = False
    #: Written at the end of the line; None leaves it to the legend.
    label: str | None = None


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round values that cover low..high."""
    span = high - low or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if span / (power * m) <= count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * i, 10) for i in range(first, last + 1)]


def line_chart(
    lines: Sequence[Line], x_label: str, y_label: str, description: str, whole_x: bool = False, from_zero: bool = False
) -> str:
    """An SVG of `lines` with axes; `description` is its text alternative. Empty where there are no points."""
    points = [point for line in lines for point in line.points if math.isfinite(point[1])]
    if not points:
        return ""
    y_ticks = nice_ticks(0.0 if from_zero else min(y for _, y in points), max(y for _, y in points))
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    x_ticks = [t for t in nice_ticks(x_low, x_high, 6) if x_low <= t <= x_high and (not whole_x or t == int(t))]

    def at_x(x: float) -> float:
        return _LEFT + (x - x_low) / ((x_high - x_low) or 1.0) * (_WIDTH - _LEFT - _RIGHT)

    def at_y(y: float) -> float:
        share = (y - y_ticks[0]) / ((y_ticks[-1] - y_ticks[0]) or 1.0)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    parts = [f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(description)}">']
    for tick in y_ticks:
        y = at_y(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    bottom = _HEIGHT - _BOTTOM
    for tick in x_ticks:
        parts.append(f'<text class="tick" x="{at_x(tick):.1f}" y="{bottom + 17}" text-anchor="middle">{tick:g}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text class="axis" x="{middle}" y="{_HEIGHT - 5}" text-anchor="middle">{escape(x_label)}</text>')
    up = (_TOP + bottom) / 2
    parts.append(
        f'<text class="axis" transform="translate(13 {up}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>'
    )
    parts += [_draw(line, at_x, at_y) for line in lines]
    return "".join([*parts, "</svg>"])


def _draw(line: Line, at_x, at_y) -> str:  # type: ignore[no-untyped-def]
    path = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in line.points if math.isfinite(y))
    dash = ' stroke-dasharray="5 4"' if line.dashed else ""
    drawn = f'<g class="line"><title>{escape(line.name)}</title>'
    drawn += f'<polyline points="{path}" style="stroke:{line.colour}"{dash}/>'
    if line.label and line.points:
        x, y = line.points[-1]
        drawn += (
            f'<text class="end" x="{at_x(x) - 4:.1f}" y="{at_y(y) - 7:.1f}" text-anchor="end"'
            f' style="fill:{line.colour}">{escape(line.label)}</text>'
        )
    return drawn + "</g>"
