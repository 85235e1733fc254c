"""The metrics of SUPERB over whole test sets, and their bootstrap confidence intervals."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """One metric on one split: the mean over seeds, its 95 % interval and the deviation between seeds.

    `resamples` (RESAMPLES,): bootstrap over items (utterances; speakers for verification) and seeds; `low` and `high`
    are its percentiles. Scores of two models on the same items pair resample by resample. `seed_deviation`: standard
    deviation of the metric over seeds; 0 for one seed.
    """

    value: float
    low: float
    high: float
    seed_deviation: float
    resamples: FloatArray = field(compare=False, repr=False)


class Measure(Protocol):
    """One evaluation of one split: a value, and the values of bootstrap resamples of its items."""

    @property
    def value(self) -> float:
        """The metric on all items."""
        ...

    def resampled(self, seed: int) -> FloatArray:
        """(RESAMPLES,) the metric on resampled items; the same items are drawn whenever seed and size are the same."""
        ...


@dataclass(frozen=True)
class Ratio:
    """`scale` times a sum over items of numerators divided by that of denominators: error rates and accuracies."""

    numerators: FloatArray
    denominators: FloatArray
    scale: float = 100.0

    @property
    def value(self) -> float:
        """The pooled (micro) ratio; 0 if the denominators sum to 0."""
        total = float(self.denominators.sum())
        return self.scale * float(self.numerators.sum()) / total if total else 0.0

    def resampled(self, seed: int) -> FloatArray:
        """(RESAMPLES,) ratios of items drawn with replacement."""
        counts = _draw_counts(len(self.numerators), seed)
        below = counts @ self.denominators
        return self.scale * (counts @ self.numerators) / np.where(below > 0, below, 1.0)


def accuracy(correct: NDArray[np.bool_]) -> Ratio:
    """Percent of items that are right, from (item,) booleans."""
    return Ratio(correct.astype(np.float64), np.ones(len(correct)))


def class_accuracy(correct: NDArray[np.bool_], classes: IntArray) -> Ratio:
    """Percent right with equal weights of all classes: the expectation of class-balanced resampling."""
    counts = np.bincount(classes)
    weights = 1.0 / counts[classes]
    return Ratio(correct.astype(np.float64) * weights, weights)


@dataclass(frozen=True)
class Verification:
    """Equal error rate of scored trials, in percent; the bootstrap resamples speakers on both sides of the trials.

    `scores` (trial,), `targets` (trial,) bool, `speakers` (2, trial) the numbers of the speakers of both utterances. A
    speaker drawn twice counts as two speakers, so a trial of two speakers counts once for each pair of their draws.
    """

    scores: FloatArray
    targets: NDArray[np.bool_]
    speakers: IntArray

    @property
    def value(self) -> float:
        """The equal error rate of all trials."""
        return equal_error_rate(self.scores, self.targets)

    def resampled(self, seed: int) -> FloatArray:
        """(RESAMPLES,) equal error rates of speakers drawn with replacement; the value itself without trials."""
        known, flat = np.unique(self.speakers, return_inverse=True)
        order = np.argsort(-self.scores, kind="stable")
        scores, targets = self.scores[order], self.targets[order]
        first, second = flat.reshape(self.speakers.shape)[:, order]
        values = []
        for drawn in _draw_counts(len(known), seed):
            weights = drawn[first] * np.where(targets, 1.0, drawn[second])
            rate = _equal_error_rate(scores, targets, weights)
            values.append(self.value if rate is None else rate)
        return np.array(values)


@dataclass(frozen=True)
class Detection:
    """Maximum term-weighted value of a spoken-term search, in percent (0: nothing found, 100: perfect).

    `scores`, `targets` (query, recording). The value at a threshold is 1 - the mean over queries of P(miss) +
    12.49 P(false alarm): prior 0.0008, miss cost 100, false-alarm cost 1, as in MediaEval QUESST 2014. One threshold
    for all queries, which must each have a target. The bootstrap resamples queries.
    """

    scores: FloatArray
    targets: NDArray[np.bool_]
    FALSE_ALARM_WEIGHT = 12.49

    @property
    def value(self) -> float:
        """The value at the best threshold."""
        return float(self._maximum(np.ones((1, len(self.scores))))[0])

    def resampled(self, seed: int) -> FloatArray:
        """(RESAMPLES,) values of queries drawn with replacement, each at its own best threshold."""
        return self._maximum(_draw_counts(len(self.scores), seed))

    def _maximum(self, counts: FloatArray) -> FloatArray:
        """(resample,) the best value with queries weighted by `counts` (resample, query)."""
        hits = self.targets / self.targets.sum(1, keepdims=True)
        others = np.maximum((~self.targets).sum(1, keepdims=True), 1)
        gains = hits - self.FALSE_ALARM_WEIGHT * ~self.targets / others
        order = np.argsort(-self.scores.ravel(), kind="stable")
        last = np.append(np.diff(self.scores.ravel()[order]) != 0, True)
        query = np.repeat(np.arange(len(self.scores)), self.scores.shape[1])[order]
        best = []
        for row in counts:
            values = np.cumsum(gains.ravel()[order] * row[query])[last]
            best.append(100 * max(0.0, float(values.max())) / float(row.sum()))
        return np.array(best)


def equal_error_rate(scores: FloatArray, targets: NDArray[np.bool_]) -> float:
    """Percent at which false acceptances equal false rejections, on the linearly interpolated ROC.

    Raises ValueError if there are no target or no non-target trials.
    """
    order = np.argsort(-scores, kind="stable")
    rate = _equal_error_rate(scores[order], targets[order], np.ones(len(scores)))
    if rate is None:
        raise ValueError("the equal error rate needs target and non-target trials")
    return rate


def _equal_error_rate(scores: FloatArray, targets: NDArray[np.bool_], weights: FloatArray) -> float | None:
    """The rate of trials in descending order of score; None if either kind of trial has no weight."""
    hits, alarms = np.cumsum(weights * targets), np.cumsum(weights * ~targets)
    if hits[-1] <= 0 or alarms[-1] <= 0:
        return None
    # Trials of one score are accepted together: only the last of each run is a point of the ROC.
    last = np.append(np.diff(scores) != 0, True)
    miss = np.append(1.0, 1 - hits[last] / hits[-1])
    alarm = np.append(0.0, alarms[last] / alarms[-1])
    at = int(np.argmax(alarm >= miss))
    gap_before, gap_after = miss[at - 1] - alarm[at - 1], miss[at] - alarm[at]
    share = gap_before / (gap_before - gap_after) if gap_before != gap_after else 0.0
    return 100.0 * float(alarm[at - 1] + share * (alarm[at] - alarm[at - 1]))


def edit_distances(references: Sequence[IntArray], hypotheses: Sequence[IntArray]) -> IntArray:
    """(pair,) Levenshtein distances of token sequences, computed for all pairs at once."""
    if not len(references):
        return np.zeros(0, dtype=np.int64)
    reference, reference_lengths = _pad(references, -1)
    hypothesis, hypothesis_lengths = _pad(hypotheses, -2)
    columns = np.arange(hypothesis.shape[1] + 1)
    row = np.broadcast_to(columns, (len(references), len(columns))).astype(np.int64)
    result = hypothesis_lengths.copy()
    for i in range(reference.shape[1]):
        substituted = row[:, :-1] + (reference[:, i, None] != hypothesis)
        changed = np.concatenate([row[:, :1] + 1, np.minimum(substituted, row[:, 1:] + 1)], axis=1)
        # Insertions run along the row: a running minimum after subtracting one per column.
        row = np.minimum.accumulate(changed - columns, axis=1) + columns
        done = reference_lengths == i + 1
        result[done] = row[done, hypothesis_lengths[done]]
    return result


def error_rate(references: Iterable[Sequence[str]], hypotheses: Iterable[Sequence[str]]) -> Ratio:
    """Percent of edits to reference symbols over all utterances (PER, WER and CER, micro)."""
    numbers: dict[str, int] = {}
    numbered = [
        [np.array([numbers.setdefault(symbol, len(numbers)) for symbol in row], dtype=np.int64) for row in group]
        for group in (references, hypotheses)
    ]
    lengths = np.array([len(r) for r in numbered[0]], dtype=np.float64)
    return Ratio(edit_distances(*numbered).astype(np.float64), lengths)


def summarise(measures: Sequence[Measure]) -> Score:
    """The Score of one metric from its measure under every seed, on the same items."""
    return combine([m.value for m in measures], np.stack([m.resampled(0) for m in measures]))


def combine(of_seeds: Sequence[float], rows: FloatArray) -> Score:
    """The Score of one metric from its value under every seed and `rows` (seed, RESAMPLES), the resamples of each.

    n seeds spread around their own mean by the root of (n - 1) / n too little; the draws of seeds are widened by that,
    and by the ratio of Student's t with n - 1 degrees of freedom to the normal distribution, both at 97.5 %: a spread
    that is measured on three seeds is itself uncertain.
    """
    resamples, count, deviation = rows.mean(axis=0), len(rows), 0.0
    if count > 1:
        drawn = np.random.default_rng([0, count]).multinomial(count, np.full(count, 1 / count), RESAMPLES).T / count
        spread: FloatArray = (drawn * rows).sum(axis=0) - resamples
        widened = np.sqrt(count / (count - 1)) * _student_quantile(count - 1) / 1.96
        resamples = resamples + widened * spread
        deviation = float(np.std(of_seeds, ddof=1))
    low, high = np.percentile(resamples, [2.5, 97.5])
    return Score(float(np.mean(of_seeds)), float(low), float(high), deviation, resamples)


def _student_quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, 1.96 of the normal distribution. Source: any printed table."""
    known = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
    return known[freedom - 1] if freedom <= len(known) else 1.96 + 2.7 / freedom


def score_fields(test: Mapping[str, Score], dev: Mapping[str, Score]) -> dict[str, Any]:
    """The fields of `SuperbMetrics` that scores fill: metrics, intervals and deviations on test, and all resamples."""
    drawn = {f"{split}/{name}": of[name].resamples for split, of in (("test", test), ("dev", dev)) for name in of}
    return {
        "metrics": {name: score.value for name, score in test.items()},
        "intervals": {name: (score.low, score.high) for name, score in test.items()},
        "seed_deviation": {name: score.seed_deviation for name, score in test.items()},
        "resamples": {name: tuple(resamples.tolist()) for name, resamples in drawn.items()},
    }


def _pad(sequences: Sequence[IntArray], value: int) -> tuple[IntArray, IntArray]:
    """(sequence, longest) tokens padded with `value`, and the lengths."""
    lengths = np.array([len(s) for s in sequences], dtype=np.int64)
    padded = np.full((len(sequences), int(lengths.max(initial=0))), value, dtype=np.int64)
    inside = np.arange(padded.shape[1])[None, :] < lengths[:, None]
    padded[inside] = np.concatenate([np.asarray(s, dtype=np.int64) for s in sequences])
    return padded, lengths


def _draw_counts(items: int, seed: int) -> FloatArray:
    """(RESAMPLES, item) the number of times that each item is drawn in each resample."""
    generator = np.random.default_rng([seed, items])
    return generator.multinomial(items, np.full(items, 1 / items), size=RESAMPLES).astype(np.float64)
