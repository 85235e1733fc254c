"""Scores over all tasks: mini-SUPERB and the official superb_s."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from fithubert.errors import UserError
from fithubert.tasks import TASKS

#: Task -> metric -> value in percent.
Metrics = Mapping[str, Mapping[str, float]]


def superb_s(metrics: Metrics) -> float:
    """The leaderboard's score of one model over the ten tasks of the paper, from values in percent.

    Each metric maps fbank to 0 and the reference state of the art to 1000, unclamped; metrics are averaged inside a
    task (SF has two), then tasks. Only meaningful for the official protocol on the real corpora. Raises ValueError
    if a metric is missing: the leaderboard leaves the score undefined.
    """
    _require(metrics)
    return fmean(
        fmean(1000.0 * (metrics[name][m.name] - m.fbank) / (m.best - m.fbank) for m in task.metrics)
        for name, task in TASKS.items()
    )


def overall_score(metrics: Metrics) -> float:
    """The mean of the eleven metrics with errors as 100 - x: `Overall` in the ARMHuBERT and STaRHuBERT papers."""
    _require(metrics)
    values = [(metric, metrics[name][metric.name]) for name, task in TASKS.items() for metric in task.metrics]
    return fmean(100.0 - value if metric.lower else value for metric, value in values)


def _require(metrics: Metrics) -> None:
    wanted = [(name, metric.name) for name, task in TASKS.items() for metric in task.metrics]
    missing = [f"{task} {metric}" for task, metric in wanted if metric not in metrics.get(task, {})]
    if missing:
        raise ValueError(f"no value for {', '.join(missing)}")


#: A result of emotion recognition is one of these folds; the leaderboard has their mean.
_FOLDS = tuple(f"iemocap/{fold}" for fold in range(1, 6))


@dataclass(frozen=True)
class OfficialScore:
    """`metrics`: task -> metric -> percent, those that the leaderboard has. `superb_s` and `overall` over all ten."""

    metrics: dict[str, dict[str, float]]
    superb_s: float
    overall: float


def score_official(results: Sequence[Mapping[str, Any]]) -> OfficialScore:
    """The scores of one model from what the superb stage wrote for it, for each task once, for ER once a fold.

    ASV and SD count as the leaderboard has them, selected on test. Raises UserError naming everything that is in the
    way: a task that is missing or there twice, another model, the mini protocol, a departure from the official one.
    """
    models = sorted({str(result.get("model")) for result in results})
    if len(models) != 1:
        given = f"results are of {', '.join(models)}" if models else "folders hold no results of it"
        raise UserError(f"superb_s is a score of one model, and these {given}")
    found: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for result in results:
        if result.get("metrics"):
            found[str(result["task"])].append(result)
    obstacles = [problem for task in TASKS for problem in _find_obstacles(task, found[task])]
    if obstacles:
        raise UserError(f"{models[0]} has no superb_s: {'; '.join(obstacles)}")
    metrics = {
        name: {
            m.name: fmean(_official_value(result["metrics"], m.name) for result in found[name]) for m in task.metrics
        }
        for name, task in TASKS.items()
    }
    return OfficialScore(metrics, superb_s(metrics), overall_score(metrics))


def _find_obstacles(task: str, results: Sequence[Mapping[str, Any]]) -> list[str]:
    if not results:
        return [f"{task} is not scored"]
    expected = _FOLDS if task == "er" else (str(TASKS[task].corpus),)
    corpora = sorted(str(result.get("corpus")) for result in results)
    obstacles = []
    if any(result.get("protocol") != "official" for result in results):
        obstacles.append(f"{task} is scored by the mini protocol")
    elif corpora != sorted(expected):
        obstacles.append(f"{task} is scored on {', '.join(corpora)} and not once on {', '.join(expected)}")
    departures = list(dict.fromkeys(d for result in results for d in result.get("departures") or ()))
    if departures:
        obstacles.append(f"{task} departs from the protocol ({', '.join(departures)})")
    return obstacles


def _official_value(metrics: Mapping[str, float], name: str) -> float:
    return metrics.get(f"{name}_test_selected", metrics[name])
