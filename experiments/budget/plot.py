"""Draw results.csv as curves.png: `python -m experiments.budget.plot`."""

from collections import defaultdict

from experiments.budget.run import HERE, RESULTS
from experiments.results import read_rows
from fithubert.config.base import read_yaml
from fithubert.errors import exit_on_user_error

#: Title and colour of each student; colours that differ in lightness too.
STYLES = {
    "cut": ("cut from the teacher", "#b3261e"),
    "cut_only": ("cut, not trained", "#e8833a"),
    "lite": ("cut, lighter front end", "#7b4fa3"),
    "bottom_up": ("random, hints from the bottom up", "#5b8c3e"),
    "random": ("random", "#1f5fa8"),
    "layers": ("cut, every layer read", "#0f8a8a"),
    "projections": ("cut, every head read", "#7a6a00"),
    "distilhubert": ("distilhubert", "#444444"),
}


def main() -> None:
    """One line per student through the means over seeds, one dot per training."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    points: dict[str, dict[int, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in read_rows(RESULTS):
        points[row["student"]][int(row["updates"])].append((float(row["audio_hours"]), float(row["test_per"])))
    figure, axes = pyplot.subplots(figsize=(7.2, 4.2), layout="constrained")
    for student in [name for name in read_yaml(HERE / "grid.yaml")["students"] if name in points]:
        title, colour = STYLES[student]
        runs = points[student]
        means = sorted(tuple(sum(values) / len(values) for values in zip(*cell, strict=True)) for cell in runs.values())
        # A student without training is drawn at the left edge.
        axes.plot([max(hours, 0.05) for hours, _ in means], [per for _, per in means], color=colour, label=title)
        for cell in runs.values():
            axes.scatter([max(hours, 0.05) for hours, _ in cell], [per for _, per in cell], color=colour, s=14)
    axes.set(xscale="log", xlabel="hours of speech heard in training", ylabel="phone error rate, test, %")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(HERE / "curves.png", dpi=120)


if __name__ == "__main__":
    with exit_on_user_error():
        main()
