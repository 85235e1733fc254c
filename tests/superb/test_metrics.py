"""Metrics against independent implementations, and the laws of the bootstrap."""

import itertools

import jiwer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyannote.core import Annotation, Segment, Timeline
from pyannote.metrics.diarization import DiarizationErrorRate
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, roc_curve
from sklearn.preprocessing import MultiLabelBinarizer

from fithubert.superb.learners.diarisation import error_counts
from fithubert.superb.metrics import (
    RESAMPLES,
    Detection,
    Ratio,
    Verification,
    accuracy,
    class_accuracy,
    edit_distances,
    equal_error_rate,
    error_rate,
    summarise,
)
from fithubert.superb.slots import score_slots

WORDS = st.lists(st.integers(0, 4), max_size=12)


@given(st.lists(st.tuples(st.lists(st.integers(0, 4), min_size=1, max_size=12), WORDS), min_size=1, max_size=8))
def test_error_rate_equals_jiwer(pairs: list[tuple[list[int], list[int]]]) -> None:
    references, hypotheses = zip(*pairs, strict=True)
    ours, theirs = ([[str(token) for token in row] for row in rows] for rows in (references, hypotheses))
    expected = jiwer.wer([" ".join(row) for row in ours], [" ".join(row) for row in theirs])
    assert error_rate(ours, theirs).value == pytest.approx(100 * expected)


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
    assert score.seed_deviation == pytest.approx(50 / 2**0.5)
    # The same seed twice is no more than one seed.
    once, twice = summarise([first]), summarise([first, first])
    np.testing.assert_allclose(twice.resamples, once.resamples)


def test_the_interval_over_seeds_is_that_of_their_mean() -> None:
    """Three seeds and so many items that only seeds matter: the mean has their deviation over the root of three."""
    items = np.ones(2000)
    covered = 0
    for seed in range(200):
        values = np.random.default_rng(seed).normal(50, 10, 3)
        score = summarise([Ratio(items * value / 100, items) for value in values])
        # Wider by Student's t: 4.30 in place of 1.96.
        assert score.resamples.std() == pytest.approx(4.30 / 1.96 * score.seed_deviation / 3**0.5, rel=0.1)
        covered += score.low <= 50 <= score.high
    assert covered >= 184


def test_verification_resamples_the_speakers_of_both_sides() -> None:
    rng = np.random.default_rng(0)
    numbers = np.repeat(np.arange(12), 6)
    first, second = np.triu_indices(len(numbers), 1)
    speakers = numbers[np.stack([first, second])]
    targets = speakers[0] == speakers[1]
    measure = Verification(rng.normal(size=len(targets)) + 2 * targets, targets, speakers)
    resampled = measure.resampled(0)
    assert resampled.shape == (RESAMPLES,)
    assert np.percentile(resampled, 2.5) < measure.value < np.percentile(resampled, 97.5)
    assert np.mean(resampled) == pytest.approx(measure.value, abs=1)


def test_the_interval_of_verification_covers_the_truth() -> None:
    """Speakers that differ in how alike their voices are: intervals from one side alone would be too narrow."""
    rng, covered = np.random.default_rng(1), 0
    first, second = np.triu_indices(72, 1)
    for _ in range(60):
        voices = rng.normal(size=(12, 8))
        utterances = (
            np.repeat(voices, 6, axis=0) + rng.normal(0, 1.0, (72, 8)) * np.repeat(rng.uniform(0.5, 2, 12), 6)[:, None]
        )
        unit = utterances / np.linalg.norm(utterances, axis=1, keepdims=True)
        speakers = np.repeat(np.arange(12), 6)[np.stack([first, second])]
        measure = Verification((unit @ unit.T)[first, second], speakers[0] == speakers[1], speakers)
        low, high = np.percentile(measure.resampled(0), [2.5, 97.5])
        # The mean over 2,000 such worlds.
        covered += low <= 27.7 <= high
    assert covered >= 50


def annotate(active: np.ndarray) -> Annotation:
    """Activities (frame, 2) as turns of one second a frame."""
    annotation = Annotation()
    for frame, speaker in np.argwhere(active):
        annotation[Segment(float(frame), float(frame) + 1), int(speaker)] = f"s{speaker}"
    return annotation.support()


@given(st.integers(0, 10_000))
def test_diarisation_error_equals_pyannote(seed: int) -> None:
    rng = np.random.default_rng(seed)
    offsets = np.array([0, 9, 20])
    reference, hypothesis = ((rng.random((20, 2)) < rng.random(2)).astype(np.int64) for _ in range(2))
    reference[offsets[:-1], 0] = 1
    theirs = DiarizationErrorRate(collar=0.0, skip_overlap=False)
    for a, b in itertools.pairwise(offsets):
        theirs(annotate(reference[a:b]), annotate(hypothesis[a:b]), uem=Timeline([Segment(0.0, float(b - a))]))
    assert error_counts(reference, hypothesis, offsets).value == pytest.approx(100 * abs(theirs))


@given(st.integers(0, 2**32 - 1))
def test_the_term_weighted_value_is_the_best_over_all_thresholds(seed: int) -> None:
    """MediaEval's definition, threshold by threshold and query by query, on scores with ties."""
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, 6, (4, 9)) / 2
    targets = generator.random((4, 9)) < 0.3
    targets[:, 0] = True
    values = [0.0]
    for threshold in np.unique(scores):
        costs = []
        for row, wanted in zip(scores, targets, strict=True):
            missed = sum(1 for s, t in zip(row, wanted, strict=True) if t and s < threshold)
            alarms = sum(1 for s, t in zip(row, wanted, strict=True) if not t and s >= threshold)
            costs.append(missed / wanted.sum() + 12.49 * alarms / max(1, (~wanted).sum()))
        values.append(1 - float(np.mean(costs)))
    assert Detection(scores, targets).value == pytest.approx(100 * max(values))


SLOTS = st.lists(st.tuples(st.sampled_from(["city", "date", "name"]), st.text("ab c", min_size=1)), max_size=3)


@given(st.lists(st.tuples(SLOTS, SLOTS), min_size=1, max_size=4))
def test_slot_scores_equal_sklearn_and_jiwer(
    utterances: list[tuple[list[tuple[str, str]], list[tuple[str, str]]]],
) -> None:
    """F1 by scikit-learn's mean over samples; CER from jiwer's character edits of the closest value of each type."""

    def tagged(slots: list[tuple[str, str]]) -> list[str]:
        return [token for name, value in slots for token in (f"B-{name}", *value.replace(" ", "|"), f"E-{name}")]

    def edits(reference: str, hypothesis: str) -> int:
        if not reference:
            return len(hypothesis)
        counted = jiwer.process_characters(reference, hypothesis)
        return counted.substitutions + counted.deletions + counted.insertions

    def clean(slots: list[tuple[str, str]]) -> list[tuple[str, str]]:
        return [(name, value.replace(" ", "|").strip("|")) for name, value in slots]

    pairs = [(clean(reference), clean(hypothesis)) for reference, hypothesis in utterances]
    types = MultiLabelBinarizer(classes=["city", "date", "name"])
    rows = [types.fit_transform([{name for name, _ in side[i]} for side in pairs]) for i in (0, 1)]
    errors = sum(
        min(edits(value, rival) for rival in ([v for n, v in hypothesis if n == name] or [""]))
        for reference, hypothesis in pairs
        for name, value in reference
    )
    length = sum(len(value) for reference, _ in pairs for _, value in reference)
    scored = score_slots([tagged(reference) for reference, _ in utterances], [tagged(h) for _, h in utterances])
    assert scored["f1"].value == pytest.approx(100 * f1_score(*rows, average="samples", zero_division=1.0))
    if length:
        assert scored["cer"].value == pytest.approx(100 * errors / length)
