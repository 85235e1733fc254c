"""PNG files: blank figures, and how they are saved."""

from io import BytesIO
from pathlib import Path
from typing import Any

from fithubert.errors import UserError
from fithubert.files import atomic_file

#: Charts have few colours; a palette takes a third of the bytes.
_COLOURS = 128
#: Ink, grey, and hues for what has to be told apart; the page has the same as CSS variables.
INK, QUIET = "#1b2330", "#8a93a0"
HUES = ("#1f6feb", "#c2410c", "#0f8a5f", "#8b3fc4", "#b8860b", "#c02669")


def blank_figure(width: float = 7.5, height: float = 4.2) -> Any:
    """An empty matplotlib figure of that many inches; raises UserError where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("the figures need matplotlib: pip install fithubert[report]") from None
    return Figure(figsize=(width, height), layout="constrained")


def save_png(figure: Any, path: Path) -> None:
    """`figure` as a small PNG; the same figure gives the same bytes, for there is no date or version in it."""
    from PIL import Image

    drawn = BytesIO()
    figure.savefig(drawn, format="png", dpi=150, metadata={"Software": None})
    # Coverage instead of the median cut, which merges a rare hue with its neighbours.
    palette = Image.open(drawn).convert("RGB").quantize(_COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    with atomic_file(path) as aside:
        palette.save(aside, format="PNG", optimize=True)
