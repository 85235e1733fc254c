"""Scores against scores: paired differences, and the share of the teacher's lead that a model keeps.

Models are scored on the same items, and their bootstrap draws the same items and seeds in each resample. So the
difference of two scores has an interval of its own, which is narrower than the two intervals suggest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from fithubert.records import KeptShare, Lead, PairedDifference, SuperbMetrics
from fithubert.tasks import Metric, find_metric, task_info

FloatArray = NDArray[np.float64]
#: (model, task) -> its scores.
Scores = Mapping[tuple[str, str], SuperbMetrics]
_INTERVAL = (2.5, 97.5)


@dataclass(frozen=True)
class Kept:
    """The share of the teacher's lead that a model keeps. `value` is None unless it has every task of the lead.

    `resamples`: the share in each resample, None without an interval. `seeds`: those of its scores.
    """

    by_task: Mapping[str, float] = field(default_factory=dict)
    value: float | None = None
    interval: KeptShare | None = None
    resamples: FloatArray | None = field(default=None, compare=False)
    seeds: tuple[int, ...] = ()


def find_lead(scores: Scores, teacher: str, baseline: str) -> Lead:
    """The tasks on which the teacher beats the baseline on dev in every metric, beyond the 95 % interval.

    On dev, since a task that was chosen by its scores on test would flatter the mean over the chosen ones. SD has
    another metric there: frame accuracy.
    """
    tasks = [task for model, task in scores if model == teacher and scores[model, task].metrics]
    both = [task for task in tasks if (baseline, task) in scores and scores[baseline, task].metrics]
    leads = tuple(task for task in both if _leads(scores[teacher, task], scores[baseline, task]))
    return Lead(leads, tuple(task for task in both if task not in leads))


def _leads(teacher: SuperbMetrics, baseline: SuperbMetrics) -> bool:
    on_dev = [key.removeprefix("dev/") for key in teacher.resamples if key.startswith("dev/")]
    if not on_dev:
        return False
    for metric in (find_metric(teacher.task, name) for name in on_dev):
        pair = _pair(teacher, baseline, f"dev/{metric.name}")
        if pair is None:
            return False
        worst, best = np.percentile(pair[0] - pair[1], _INTERVAL)
        if (best >= 0) if metric.lower else (worst <= 0):
            return False
    return True


def find_kept(scores: Scores, lead: Lead, model: str, teacher: str, baseline: str) -> Kept:
    """The share of the lead that a model keeps, each task's between 0 and 1; tasks count alike.

    A model without a score on one of the tasks, or with one of other items or seeds than the teacher's, has no `value`:
    means over different tasks must not be compared.
    """
    by_task: dict[str, float] = {}
    resamples = []
    for task in lead.tasks:
        if (model, task) not in scores or not scores[model, task].metrics:
            continue
        own, high, low = (scores[name, task] for name in (model, teacher, baseline))
        if not (_are_alike(own, high) and _are_alike(own, low)):
            continue
        metrics = _list_metrics(high)
        values = [[np.array(of.metrics[metric.name]) for of in (own, low, high)] for metric in metrics]
        by_task[task] = float(_mean_share(values, metrics))
        drawn = [[of.resamples.get(f"test/{metric.name}") for of in (own, low, high)] for metric in metrics]
        if all(rows is not None for row in drawn for rows in row):
            resamples.append(_mean_share([[np.array(rows) for rows in row] for row in drawn], metrics))
    if not lead.tasks or len(by_task) < len(lead.tasks):
        return Kept(by_task)
    value = float(np.mean(list(by_task.values())))
    if len(resamples) < len(lead.tasks):
        return Kept(by_task, value)
    shares: FloatArray = np.mean(resamples, axis=0)
    low_end, high_end = np.percentile(shares, _INTERVAL)
    interval = KeptShare(value, float(low_end), float(high_end), lead.tasks)
    return Kept(by_task, value, interval, shares, scores[model, lead.tasks[0]].seeds)


def share_of_lead(metric: Metric, own: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray:
    """The place of scores between filter banks `low` (0) and the teacher `high` (1), on a straight line and clamped.

    SUPERB's own score draws the same line between filter banks and the best system. In a resample in which the teacher
    does not lead, a model has all or nothing: whether it is above the filter banks.
    """
    sign = -1.0 if metric.lower else 1.0
    gain, span = sign * (own - low), sign * (high - low)
    return np.where(span > 0, np.clip(gain / np.where(span > 0, span, 1.0), 0, 1), gain > 0)


def _mean_share(values: Sequence[Sequence[FloatArray]], metrics: Sequence[Metric]) -> FloatArray:
    """The mean over metrics of the share of the lead, from (own, baseline, teacher) of each."""
    shares = [share_of_lead(metric, *row) for row, metric in zip(values, metrics, strict=True)]
    mean: FloatArray = np.mean(shares, axis=0)
    return mean


def compare_pairs(scores: Scores, against: Sequence[str]) -> tuple[PairedDifference, ...]:
    """Every model's score less that of each model of `against`, for all tasks and metrics that both have.

    Only scores of the same items, corpus, protocol and seeds are paired. The p values come from the deviation of the
    paired resamples (a normal approximation: a thousand resamples cannot show small ones), or from the share of
    resamples beyond 0 if that is larger. Holm's correction is over all differences to one model.
    """
    found = []
    for other in dict.fromkeys(against):
        family = []
        for (model, task), score in scores.items():
            if model == other or (other, task) not in scores:
                continue
            for metric in _list_metrics(score):
                pair = _pair(score, scores[other, task], f"test/{metric.name}")
                if pair is None:
                    continue
                difference = score.metrics[metric.name] - scores[other, task].metrics[metric.name]
                drawn = pair[0] - pair[1]
                family.append(_difference((task, metric.name), (model, other), difference, drawn, score.seeds))
        found += _correct(family)
    return tuple(found)


def compare_kept(kept: Mapping[str, Kept], against: Sequence[str]) -> tuple[PairedDifference, ...]:
    """Every model's share of the lead less that of each model of `against`, in points, as task `all`, metric `kept`.

    Both have to have an interval and the same seeds. Corrected as in `compare_pairs`, over these differences alone.
    """
    found = []
    for other in dict.fromkeys(against):
        family, second = [], kept.get(other, Kept())
        for model, first in kept.items():
            if model == other or first.resamples is None or second.resamples is None or first.seeds != second.seeds:
                continue
            difference = 100 * ((first.value or 0.0) - (second.value or 0.0))
            drawn = 100 * (first.resamples - second.resamples)
            family.append(_difference(("all", "kept"), (model, other), difference, drawn, first.seeds))
        found += _correct(family)
    return tuple(found)


def _difference(
    of: tuple[str, str], models: tuple[str, str], value: float, drawn: FloatArray, seeds: tuple[int, ...]
) -> PairedDifference:
    """The difference `value` of (task, metric) for (model, against), its resamples `drawn`; p is not yet corrected."""
    low, high = (float(end) for end in np.percentile(drawn, _INTERVAL))
    return PairedDifference(*of, *models, value, low, high, _p_value(value, drawn), seeds)


def _list_metrics(score: SuperbMetrics) -> tuple[Metric, ...]:
    """The metrics of a score's task that it has."""
    return tuple(m for m in task_info(score.task, tuple(score.metrics)).metrics if m.name in score.metrics)


def _pair(first: SuperbMetrics, second: SuperbMetrics, key: str) -> tuple[FloatArray, FloatArray] | None:
    """The resamples of two scores, or None if they are not of the same items and seeds."""
    rows = [np.array(of.resamples[key]) for of in (first, second) if key in of.resamples]
    alike = _are_alike(first, second)
    return (rows[0], rows[1]) if len(rows) == 2 and alike and len(rows[0]) == len(rows[1]) else None


def _are_alike(first: SuperbMetrics, second: SuperbMetrics) -> bool:
    """Whether two scores are of the same items, protocol and seeds."""
    names = ("num_dev", "num_test", "corpus", "protocol", "seeds", "departures")
    return all(getattr(first, name) == getattr(second, name) for name in names)


def _p_value(difference: float, resamples: FloatArray) -> float:
    """At least 0.05 if the interval holds 0: resamples of clamped shares are not centred on the difference."""
    deviation = float(resamples.std())
    if deviation == 0:  # Resampling has shown no chance at all, as of two items.
        return 1.0
    beyond = 2 * min(float(np.mean(resamples <= 0)), float(np.mean(resamples >= 0)))
    return max(float(2 * norm.sf(abs(difference) / deviation)), min(1.0, beyond))


def _correct(family: Sequence[PairedDifference]) -> list[PairedDifference]:
    """Differences with p values after Holm's step-down correction over all of them, in the given order."""
    corrected = list(family)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(family)), key=lambda index: family[index].p_holm)):
        largest = max(largest, min(1.0, (len(family) - rank) * family[place].p_holm))
        corrected[place] = replace(family[place], p_holm=largest)
    return corrected
