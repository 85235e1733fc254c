"""One model's place on SUPERB's scale, from the results of its ten tasks, which lie in as many corpora."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from fithubert.errors import UserError
from fithubert.superb.official import SOURCES
from fithubert.superb.score import REFERENCE_POINTS, overall_score, superb_s

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
    obstacles = [problem for task in SOURCES for problem in _find_obstacles(task, found[task])]
    if obstacles:
        raise UserError(f"{models[0]} has no superb_s: {'; '.join(obstacles)}")
    metrics = {
        task: {name: fmean(_official_value(result["metrics"], name) for result in found[task]) for name in points}
        for task, points in REFERENCE_POINTS.items()
    }
    return OfficialScore(metrics, superb_s(metrics), overall_score(metrics))


def _find_obstacles(task: str, results: Sequence[Mapping[str, Any]]) -> list[str]:
    if not results:
        return [f"{task} is not scored"]
    expected = _FOLDS if task == "er" else (SOURCES[task],)
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
