"""How well the arms of warm_start.csv rank shapes; `python -m experiments.width_depth.rank_table` writes the table."""

from collections.abc import Sequence
from statistics import fmean

import numpy as np
from scipy.stats import kendalltau

from experiments.results import read_rows
from experiments.width_depth.warm_start import ARMS, HERE, RESULTS
from fithubert.errors import exit_on_user_error

RESAMPLES = 4000


def rank(predicted: Sequence[float], reference: Sequence[float]) -> str:
    """Kendall's tau-b of two figures over the same shapes, its p value, and a bootstrap interval over shapes."""
    tau, p = kendalltau(predicted, reference)
    x, y = np.array(predicted), np.array(reference)
    generator = np.random.default_rng(1)
    drawn = generator.integers(0, len(x), (RESAMPLES, len(x)))
    taus = np.array([kendalltau(x[rows], y[rows]).statistic for rows in drawn])
    low, high = np.nanquantile(taus, (0.025, 0.975))
    return f"{tau:.2f} ({low:.2f}, {high:.2f}), p {p:.3f}"


def render(rows: list[dict[str, str]]) -> str:
    """The table as Markdown, of the arms that have every shape."""
    full = _of(rows, "full")
    losses, errors, macs = (_column(full, name) for name in ("dev_loss", "dev_per", "mmacs_per_second"))
    lines = [
        f"Kendall's tau-b with the full distillations of {len(full)} shapes, 95 % bootstrap interval over shapes, p of",
        "no rank correlation. Dev loss is that of the last head, PER that of the phoneme probe. CPU seconds per trial.",
        "",
        "| trial | its figure | mean | full dev PER | full dev loss | CPU s |",
        "| --- | --- | ---: | --- | --- | ---: |",
    ]
    most = [-count for count in macs]
    lines.append(f"| none | MMAC a second | {fmean(macs):.0f} | {rank(most, errors)} | {rank(most, losses)} | 0 |")
    for arm in ARMS:
        cells = _of(rows, arm)
        if len(cells) < len(full):
            continue
        seconds = fmean(_column(cells, "cpu_seconds"))
        for figure in ("dev_loss", "dev_per"):
            values = _column(cells, figure)
            ranks = f"{rank(values, errors)} | {rank(values, losses)}"
            lines.append(f"| {arm} | {figure} | {fmean(values):.2f} | {ranks} | {seconds:.0f} |")
    return "\n".join(lines) + "\n"


def _column(cells: list[dict[str, str]], name: str) -> list[float]:
    return [float(cell[name]) for cell in cells]


def _of(rows: list[dict[str, str]], arm: str) -> list[dict[str, str]]:
    return sorted((row for row in rows if row["arm"] == arm), key=lambda row: int(row["shape"]))


if __name__ == "__main__":
    with exit_on_user_error():
        (HERE / "warm_start.md").write_text(render(read_rows(RESULTS)))
