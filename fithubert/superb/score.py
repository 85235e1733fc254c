"""Scores over tasks: the leaderboard's superb_s, and the overall score of compression papers."""

from collections.abc import Mapping
from statistics import fmean

#: Metric -> (fbank, state of the art): the reference points in the leaderboard's code
#: (superbbenchmark/website-react).
#: MTWV in percent, as every other metric here. The printed policy swaps some of them; the code does not.
REFERENCE_POINTS: dict[str, dict[str, tuple[float, float]]] = {
    "pr": {"per": (82.01, 3.53)},
    "asr": {"wer": (23.18, 3.62)},
    "ks": {"acc": (41.3826674, 96.66)},
    "qbe": {"mtwv": (0.58, 7.36)},
    "sid": {"acc": (20.058174, 90.3)},
    "asv": {"eer": (9.56, 5.11)},
    "sd": {"der": (10.05, 5.62)},
    "ic": {"acc": (9.649354219, 98.76)},
    "sf": {"f1": (69.64, 89.81), "cer": (52.94, 21.76)},
    "er": {"acc": (48.23672168, 67.62)},
}
#: Metrics of which less is better.
ERROR_METRICS = frozenset({"per", "wer", "eer", "der", "cer"})

#: Task -> metric -> value in percent.
Metrics = Mapping[str, Mapping[str, float]]


def superb_s(metrics: Metrics) -> float:
    """The leaderboard's score of one model over the ten tasks of the paper, from values in percent.

    Each metric maps fbank to 0 and the reference state of the art to 1000, unclamped; metrics are averaged inside a
    task (SF has two), then tasks. Only meaningful for the official protocol on the real corpora. Raises ValueError
    where a metric is missing: the leaderboard leaves the score undefined.
    """
    _require(metrics, REFERENCE_POINTS)
    return fmean(
        fmean(1000.0 * (metrics[task][name] - low) / (high - low) for name, (low, high) in of_task.items())
        for task, of_task in REFERENCE_POINTS.items()
    )


def overall_score(metrics: Metrics) -> float:
    """The mean of the eleven metrics with errors as 100 - x: `Overall` in the ARMHuBERT and STaRHuBERT papers."""
    _require(metrics, REFERENCE_POINTS)
    values = [(m, metrics[task][m]) for task, points in REFERENCE_POINTS.items() for m in points]
    return fmean(100.0 - value if name in ERROR_METRICS else value for name, value in values)


def _require(metrics: Metrics, points: Mapping[str, Mapping[str, tuple[float, float]]]) -> None:
    missing = [
        f"{task} {name}" for task, of_task in points.items() for name in of_task if name not in metrics.get(task, {})
    ]
    if missing:
        raise ValueError(f"no value for {', '.join(missing)}")
