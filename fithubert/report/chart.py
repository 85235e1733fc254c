"""One chart as a small PNG, as an SVG file, and as SVG inside a page whose colours follow the page."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from html import escape
from importlib import resources
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from fithubert.errors import UserError
from fithubert.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Charts have few colours; a palette takes a third of the bytes of a PNG.
_COLOURS = 128
#: The colours of page.css that charts use.
_NAMES = ("ink", "soft", "quiet", "rule", *(f"hue-{index}" for index in range(6)))
#: Least distance of two labels, as a share of the height of the axes.
_LABEL_GAP = 0.075


@dataclass(frozen=True)
class Label:
    """A name to write right of the axes, for the point (x, y) in data units."""

    text: str
    x: float
    y: float
    colour: str


@dataclass
class Chart:
    """A figure with the name of its files and its text alternative."""

    name: str
    description: str
    figure: "Figure"
    titles: list[str] = field(default_factory=list)
    _svg: str = ""

    def add_title(self, artist: "Artist", title: str) -> None:
        """Show `title` when the pointer rests on `artist` inside a page."""
        artist.set_gid(f"title-{len(self.titles)}")
        self.titles.append(title)

    def save(self, folder: Path) -> tuple[Path, Path]:
        """Write NAME.png and NAME.svg to `folder`. The same figure gives the same bytes: no date, no version."""
        png, svg = folder / f"{self.name}.png", folder / f"{self.name}.svg"
        self.save_png(png)
        with atomic_file(svg) as aside:
            aside.write_text(self._render(), encoding="utf-8")
        return png, svg

    def save_png(self, path: Path) -> None:
        """Write the figure as a PNG."""
        from PIL import Image

        drawn = BytesIO()
        with _settings(self.name):
            self.figure.savefig(drawn, format="png", dpi=150, metadata={"Software": None})
        # Coverage instead of the median cut, which merges a rare hue with its neighbours.
        image = Image.open(drawn).convert("RGB")
        small = image.quantize(_COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        with atomic_file(path) as aside:
            small.save(aside, format="PNG", optimize=True)

    def inline(self) -> str:
        """The figure as an SVG element: page colours, page font, and no id that another chart has."""
        svg = self._render()
        width, height = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)[0]
        body = svg.partition("<defs>")[2].partition("</defs>")[2].rpartition("</svg>")[0]
        body = re.sub(
            r' clip-path="url\([^)]*\)"|<defs>\s*<clipPath.*?</clipPath>\s*</defs>', "", body, flags=re.DOTALL
        )
        body = re.sub(r'<g id="title-(\d+)">', lambda m: f"<g><title>{escape(self.titles[int(m[1])])}</title>", body)
        for unused in (
            r'<g id="[^"]*"/>',
            r'(?<=<g) id="[^"]*"',
            r" font-family: [^;\"]*;",
            r' transform="rotate\(-0 [^)]*\)"',
        ):
            body = re.sub(unused, "", body)
        body = re.sub(r"fill: #ffffff", "fill: none", body)
        for name in _NAMES:
            body = body.replace(palette()[name], f"var(--{name})")
        body = re.sub(r"\s*\n\s*", "\n", body)
        return (
            f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(self.description)}">'
            f"{body}</svg>"
        )

    def __html__(self) -> str:
        """How Jinja inserts a chart, without escaping."""
        return self.inline()

    def _render(self) -> str:
        if not self._svg:
            written = StringIO()
            with _settings(self.name):
                self.figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
            # The layout is computed once for both files.
            self.figure.set_layout_engine("none")
            self._svg = written.getvalue()
        return self._svg


@cache
def palette() -> dict[str, str]:
    """Name -> colour of the light scheme of page.css, as matplotlib writes it; each colour has one name."""
    style = (resources.files("fithubert.report") / "assets" / "page.css").read_text(encoding="utf-8")
    found: dict[str, str] = dict(re.findall(r"--([\w-]+): (#\w{6})", style.partition("}")[0]))
    return {name: found[name] for name in _NAMES}


def new_chart(name: str, description: str, width: float, height: float) -> Chart:
    """An empty chart of that many inches. Raises UserError if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("the figures need matplotlib: pip install fithubert[report]") from None
    return Chart(name, description, Figure(figsize=(width, height), layout="constrained"))


def style_axes(axes: "Axes", x_label: str, y_label: str, better_down: bool = False) -> None:
    """Label the axes, and keep only the lines that help to read values. `better_down`: the y axis is reversed."""
    axes.set_xlabel(x_label, fontsize=9, color=palette()["soft"])
    axes.set_ylabel(y_label, fontsize=9, color=palette()["soft"])
    axes.tick_params(labelsize=8, length=0, labelcolor=palette()["quiet"])
    axes.grid(color=palette()["rule"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    if better_down:
        axes.invert_yaxis()


def label_right(axes: "Axes", labels: Sequence[Label], leaders: bool = False) -> None:
    """Write the labels right of the axes at the height of their points, moved apart if they would overlap.

    `leaders`: draw a thin line from each point to its label.
    """
    to_axes = axes.transData + axes.transAxes.inverted()
    axes.autoscale_view()
    axes.set_xlim(axes.get_xlim())
    axes.set_ylim(axes.get_ylim())
    places = [to_axes.transform((label.x, label.y)) for label in labels]
    height = -float("inf")
    for index in sorted(range(len(labels)), key=lambda index: float(places[index][1])):
        height = max(float(places[index][1]), height + _LABEL_GAP)
        text, colour = labels[index].text, labels[index].colour
        axes.text(1.03, height, text, transform=axes.transAxes, fontsize=8.5, color=colour, va="center")
        if leaders:
            ends = [float(places[index][0]), 1.02], [float(places[index][1]), height]
            axes.plot(*ends, transform=axes.transAxes, color=palette()["rule"], lw=0.8, clip_on=False, zorder=1)


@contextmanager
def _settings(name: str) -> Iterator[None]:
    """Text as text, and ids that depend on the chart alone."""
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        yield
