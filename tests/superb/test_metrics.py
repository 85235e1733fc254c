"""Metrics against independent implementations, and the laws of the bootstrap."""

import jiwer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_curve

from fithubert.superb.metrics import (
    RESAMPLES,
    Ratio,
    Verification,
    accuracy,
    class_accuracy,
    edit_distances,
    equal_error_rate,
    error_rate,
    summarise,
)

WORDS = st.lists(st.integers(0, 4), max_size=12)


@given(st.lists(st.tuples(st.lists(st.integers(0, 4), min_size=1, max_size=12), WORDS), min_size=1, max_size=8))
def test_error_rate_equals_jiwer(pairs: list[tuple[list[int], list[int]]]) -> None:
    references, hypotheses = zip(*pairs, strict=True)
    ours = error_rate([np.array(r) for r in references], [np.array(h, dtype=np.int64) for h in hypotheses])
    theirs = jiwer.wer([" ".join(map(str, r)) for r in references], [" ".join(map(str, h)) for h in hypotheses])
    assert ours.value == pytest.approx(100 * theirs)


def test_edit_distance_of_empty_sequences() -> None:
    empty, three = np.zeros(0, dtype=np.int64), np.array([1, 2, 3])
    assert edit_distances([empty, empty, three, three], [empty, three, empty, three]).tolist() == [0, 3, 3, 0]
    assert edit_distances([], []).tolist() == []


def test_accuracies_equal_sklearn() -> None:
    rng = np.random.default_rng(0)
    truth, guess = rng.integers(0, 5, 200), rng.integers(0, 5, 200)
    assert accuracy(truth == guess).value == pytest.approx(100 * accuracy_score(truth, guess))
    assert class_accuracy(truth == guess, truth).value == pytest.approx(100 * balanced_accuracy_score(truth, guess))


@given(st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=60))
def test_equal_error_rate_equals_the_roc_of_sklearn(trials: list[tuple[int, bool]]) -> None:
    scores, targets = np.array([s for s, _ in trials], dtype=np.float64), np.array([t for _, t in trials])
    if targets.all() or not targets.any():
        with pytest.raises(ValueError, match="non-target"):
            equal_error_rate(scores, targets)
        return
    alarm, hit, _ = roc_curve(targets, scores, drop_intermediate=False)
    # Where the interpolated ROC meets the line of equal errors, found on a fine grid of the curve's length.
    along = np.linspace(0, len(alarm) - 1, 20_001)
    alarms, misses = (np.interp(along, np.arange(len(alarm)), side) for side in (alarm, 1 - hit))
    nearest = int(np.argmin(np.abs(alarms - misses)))
    assert equal_error_rate(scores, targets) == pytest.approx(100 * alarms[nearest], abs=0.5)


def test_the_interval_of_an_accuracy_is_that_of_a_binomial() -> None:
    right = np.arange(400) < 300
    score = summarise([accuracy(right)])
    half = 196 * np.sqrt(0.75 * 0.25 / 400)
    assert score.value == pytest.approx(75.0)
    assert score.low == pytest.approx(75 - half, abs=1)
    assert score.high == pytest.approx(75 + half, abs=1)
    assert score.seed_deviation == 0
    assert summarise([accuracy(right)]) == score


def test_seeds_are_averaged_on_the_same_items() -> None:
    first, second = Ratio(np.array([1.0, 0, 1, 1]), np.ones(4)), Ratio(np.array([0.0, 0, 1, 0]), np.ones(4))
    score = summarise([first, second])
    assert score.value == pytest.approx(50)
    assert score.seed_deviation == pytest.approx(25)
    both = Ratio((first.numerators + second.numerators) / 2, np.ones(4))
    assert (score.low, score.high) == pytest.approx(tuple(np.percentile(both.resampled(0), [2.5, 97.5])))


def test_verification_resamples_speakers() -> None:
    rng = np.random.default_rng(0)
    targets, groups = np.arange(600) % 2 == 0, np.arange(600) // 60
    measure = Verification(rng.normal(size=600) + 2 * targets, targets, groups)
    resampled = measure.resampled(0)
    assert resampled.shape == (RESAMPLES,)
    assert np.percentile(resampled, 2.5) < measure.value < np.percentile(resampled, 97.5)
    assert np.mean(resampled) == pytest.approx(measure.value, abs=1)
