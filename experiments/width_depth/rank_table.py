"""How well the arms of warm_start.csv rank shapes; `python -m experiments.width_depth.rank_table` writes the table."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
from scipy.stats import kendalltau

from experiments.width_depth.warm_start import ARMS, HERE, draw_shapes, read_cells
from fithubert.config.params import load_params
from fithubert.errors import exit_on_user_error
from fithubert.files import read_json
from fithubert.sweep.space import make_student
from fithubert.trials.trial import macs_per_second

RESAMPLES = 4000
#: Trials that share one super-student's cost.
SHARED_BY = 20


def rank(predicted: Sequence[float], reference: Sequence[float]) -> str:
    """Kendall's tau-b of two figures over the same shapes, its p value, and a bootstrap interval over shapes."""
    tau, p = kendalltau(predicted, reference)
    x, y = np.array(predicted), np.array(reference)
    generator = np.random.default_rng(1)
    drawn = generator.integers(0, len(x), (RESAMPLES, len(x)))
    taus = np.array([kendalltau(x[rows], y[rows]).statistic for rows in drawn])
    low, high = np.nanquantile(taus, (0.025, 0.975))
    return f"{tau:.2f} ({low:.2f}, {high:.2f}), p {p:.3f}"


def render(rows: list[dict[str, str]], super_seconds: float) -> str:
    """The table as Markdown, of the arms that have every shape."""
    params = load_params()
    student, shapes = params.students[params.sweep.of], draw_shapes(params)
    full = _of(rows, "full")
    losses, errors = ([float(row[name]) for row in full] for name in ("dev_loss", "dev_per"))
    lines = [
        f"Kendall's tau-b with the full distillations of {len(full)} shapes, 95 % bootstrap interval over shapes, p of no",
        "rank correlation. Dev loss is the last head's, PER the phoneme probe's. CPU seconds of one trial on average, and",
        f"its share of the super-student's, which {SHARED_BY} trials have in common.",
        "",
        "| figure of the trial | full dev PER | full dev loss | CPU s | super, CPU s |",
        "| --- | --- | --- | ---: | ---: |",
    ]
    macs = [-macs_per_second(make_student(student, shape, 1)) for shape in shapes]
    lines.append(f"| multiply-accumulates, untrained | {rank(macs, errors)} | {rank(macs, losses)} | 0 | |")
    for name, arm in ARMS.items():
        cells = _of(rows, name)
        if len(cells) < len(shapes):
            continue
        seconds = fmean(float(cell["cpu_seconds"]) for cell in cells)
        share = f"{super_seconds / SHARED_BY:.0f}" if arm.start == "super" else ""
        for figure in ("dev_loss", "dev_per"):
            values = [float(cell[figure]) for cell in cells]
            label = f"{name} {figure}, mean {fmean(values):.2f}"
            lines.append(f"| {label} | {rank(values, errors)} | {rank(values, losses)} | {seconds:.0f} | {share} |")
    return "\n".join(lines) + "\n"


def _of(rows: list[dict[str, str]], arm: str) -> list[dict[str, str]]:
    return sorted((row for row in rows if row["arm"] == arm), key=lambda row: int(row["shape"]))


if __name__ == "__main__":
    with exit_on_user_error():
        spent = read_json(Path(HERE / "cells" / "super.json"))["cpu_seconds"]
        (HERE / "warm_start.md").write_text(render(read_cells(), spent))
