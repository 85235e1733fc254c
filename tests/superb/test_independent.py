"""Metrics against other implementations: pyannote.metrics, scikit-learn, jiwer, and definitions written out."""

import itertools

import jiwer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyannote.core import Annotation, Segment, Timeline
from pyannote.metrics.diarization import DiarizationErrorRate
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from sklearn.metrics import f1_score, roc_curve
from sklearn.preprocessing import MultiLabelBinarizer

from fithubert.superb.learners.diarisation import error_counts
from fithubert.superb.metrics import Detection, equal_error_rate, score_slots


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


@given(st.integers(0, 10_000))
def test_equal_error_rate_equals_the_root_on_the_roc(seed: int) -> None:
    """As s3prl finds it: the root of 1 - x - tpr(x), the ROC of sklearn interpolated in between."""
    rng = np.random.default_rng(seed)
    targets = rng.permutation(np.arange(60) % 3 == 0)
    scores = rng.normal(size=60) + targets
    alarm, hit, _ = roc_curve(targets, scores, pos_label=1)
    # Where the curve is vertical at the root, brentq ends at either side of the jump: no farther than one false alarm.
    root = brentq(lambda x: 1.0 - x - float(interp1d(alarm, hit)(x)), 0.0, 1.0)
    assert equal_error_rate(scores, targets) == pytest.approx(100 * root, abs=100 / 40 + 1e-6)


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
