"""Units: aligned with the model's frames, scored as scikit-learn scores them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mutual_info_score

from fithubert.frames import count_frames
from fithubert.pretrain.plan import draw_mask
from fithubert.pretrain.units import fit_units, measure_units, mfcc_frames


@settings(max_examples=30, deadline=None)
@given(samples=st.integers(400, 20_000))
def test_mfcc_has_at_least_the_frames_of_the_model(samples: int) -> None:
    frames = mfcc_frames(torch.randn(samples) * 0.1)
    assert frames.shape[1] == 39
    assert len(frames) == count_frames(samples)


def test_units_separate_clear_clusters() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 4, (2000,), generator=generator)
    frames = torch.eye(4)[truth] * 10 + torch.randn(2000, 4, generator=generator)
    units = fit_units(frames, 4, seed=1).assign(frames)
    assert measure_units(units.numpy(), truth.numpy()).phone_purity > 0.99


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_quality_equals_scikit_learn(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 200))
    draw = st.lists(st.integers(0, 5), min_size=size, max_size=size)
    units, phones = np.array(data.draw(draw)), np.array(data.draw(draw))
    quality = measure_units(units, phones)
    entropy = mutual_info_score(phones, phones)
    expected = mutual_info_score(units, phones) / entropy if entropy > 0 else 0.0
    assert quality.phone_normalised_mutual_information == pytest.approx(expected, abs=1e-9)
    assert quality.units_used == len(set(units.tolist()))


def test_mask_stays_inside_and_covers_the_expected_share() -> None:
    lengths = torch.tensor([500, 300, 1, 40])
    mask = draw_mask(lengths, 500, 0.65, 10, torch.Generator().manual_seed(0))
    assert mask.sum(1).gt(0).all()
    for row, length in enumerate(lengths):
        assert not mask[row, length:].any()
    # Overlapping spans: a frame stays visible with probability (1 - 0.65 / 10) ** 10.
    assert mask[0].float().mean().item() == pytest.approx(1 - 0.935**10, abs=0.1)
