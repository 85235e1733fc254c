"""Units: aligned with the model's frames, scored as scikit-learn scores them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

from fithubert.frames import count_frames
from fithubert.pretrain.units import measure_units, mfcc_frames


@settings(max_examples=30, deadline=None)
@given(samples=st.integers(400, 20_000))
def test_mfcc_has_at_least_the_frames_of_the_model(samples: int) -> None:
    frames = mfcc_frames(torch.randn(samples) * 0.1)
    assert frames.shape[1] == 39
    assert len(frames) == count_frames(samples)


@settings(max_examples=30, deadline=None)
@given(samples=st.integers(400, 20_000), gain=st.floats(0.1, 10), constant=st.booleans())
def test_mfcc_does_not_depend_on_loudness(samples: int, gain: float, constant: bool) -> None:
    waveform = torch.full((samples,), 0.1) if constant else torch.randn(samples) * 0.05
    frames = mfcc_frames(waveform)
    assert frames.isfinite().all()
    if not constant and len(frames) > 20:
        torch.testing.assert_close(mfcc_frames(waveform * gain), frames, atol=2e-2, rtol=0)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_quality_equals_scikit_learn(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 200))
    draw = st.lists(st.integers(0, 5), min_size=size, max_size=size)
    units, phones = np.array(data.draw(draw)), np.array(data.draw(draw))
    quality = measure_units(units, phones)
    table = contingency_matrix(units, phones)
    assert quality.phone_purity == pytest.approx(table.max(1).sum() / size)
    assert quality.cluster_purity == pytest.approx(table.max(0).sum() / size)
    entropy = mutual_info_score(phones, phones)
    expected = mutual_info_score(units, phones) / entropy if entropy > 0 else 0.0
    assert quality.phone_normalised_mutual_information == pytest.approx(expected, abs=1e-9)
    assert quality.units_used == len(set(units.tolist()))
