"""Diarisation error and equal error rates against pyannote.metrics and against scipy on the ROC of sklearn."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyannote.core import Annotation, Segment, Timeline
from pyannote.metrics.diarization import DiarizationErrorRate
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from sklearn.metrics import roc_curve

from fithubert.superb.metrics import equal_error_rate
from fithubert.superb.tasks.sd import error_counts


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
