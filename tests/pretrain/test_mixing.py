"""Utterance mixing: seeded, bounded, at the drawn ratio, and the same however an update is cut."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fithubert.data.batching import Crop
from fithubert.data.manifest import Manifest
from fithubert.frames import HUBERT_CONVOLUTIONS, count_samples
from fithubert.pretrain.mixing import Overlap, draw_overlaps, overlay
from fithubert.pretrain.objective import mask_update
from fithubert.training.updates import PlannedUpdate
from tests.pretrain.tiny_run import last_weights, run, tiny_params


@settings(max_examples=50, deadline=None)
@given(
    num_frames=st.lists(st.integers(1, 300), min_size=1, max_size=12), seed=st.integers(0, 99), share=st.floats(0, 1)
)
def test_overlaps_are_parts_of_other_crops_and_at_most_half_as_long(
    num_frames: list[int], seed: int, share: float
) -> None:
    crops = [Crop(index, 0, frames) for index, frames in enumerate(num_frames)]
    samples = [count_samples(frames, HUBERT_CONVOLUTIONS) for frames in num_frames]
    overlaps = draw_overlaps(crops, share, seed)
    assert overlaps == draw_overlaps(crops, share, seed)
    for row, overlap in overlaps.items():
        assert overlap.crop.index != row
        assert 0 <= overlap.begin <= samples[overlap.crop.index] - overlap.num_samples
        assert 0 <= overlap.start <= samples[row] - overlap.num_samples
        assert 1 <= overlap.num_samples <= 1 + samples[row] // 2
        assert -5 <= overlap.ratio_db <= 5


def test_the_share_of_mixed_utterances() -> None:
    crops = [Crop(index, 0, 100) for index in range(1000)]
    assert len(draw_overlaps(crops, 0.3, 1)) == pytest.approx(300, abs=50)
    assert not draw_overlaps(crops, 0.0, 1)
    assert len(draw_overlaps(crops, 1.0, 1)) == 1000
    assert not draw_overlaps(crops[:1], 1.0, 1)


def test_the_other_voice_has_the_drawn_energy_at_the_drawn_place() -> None:
    generator = torch.Generator().manual_seed(0)
    utterance, other = torch.randn(1000, generator=generator), 7 * torch.randn(800, generator=generator)
    mixed = overlay(utterance, other, Overlap(Crop(1, 0, 1), 100, 300, 200, 3.0))
    added = mixed - utterance
    assert not added[:300].any()
    assert not added[500:].any()
    scale = added[300:500] / other[100:300]
    torch.testing.assert_close(scale, scale[:1].expand(200), rtol=1e-3, atol=1e-6)
    ratio = utterance.square().mean() / (scale[0] * other).square().mean()
    assert 10 * ratio.log10().item() == pytest.approx(3.0, abs=1e-3)
    assert torch.equal(overlay(utterance, torch.zeros(800), Overlap(Crop(1, 0, 1), 0, 0, 9, 0.0)), utterance)


def test_mixing_changes_the_audio_and_nothing_else_that_is_drawn() -> None:
    update = PlannedUpdate(7, 2, 1, tuple(Crop(index, 0, 50 + index) for index in range(6)))
    plain, mixed = (mask_update(tiny_params(mixing_probability=share), 3, update, 2) for share in (0.0, 1.0))
    assert [torch.equal(a.mask, b.mask) for a, b in zip(plain.parts, mixed.parts, strict=True)] == [True, True]
    assert (plain.parts[0].seed, plain.dropped_layers) == (mixed.parts[0].seed, mixed.dropped_layers)
    assert mixed.overlaps == mask_update(tiny_params(mixing_probability=1.0), 3, update, 5).overlaps


@pytest.mark.slow
def test_mixed_training_does_not_depend_on_the_parts(tiny_corpus: Manifest, tmp_path: Path) -> None:
    off = {"dropout": 0.0, "input_dropout": 0.0, "layer_dropout": 0.0}
    one = tiny_params().iterations[:1]
    weights = []
    for parts, share in ((1, 0.5), (3, 0.5), (1, 0.0)):
        work = tmp_path / f"{parts}-{share}"
        run(tiny_params(**off, iterations=one, passes=parts, mixing_probability=share), tiny_corpus, work)
        weights.append(last_weights(work, 1))
    whole, cut, plain = weights
    for name, tensor in whole.items():
        torch.testing.assert_close(cut[name], tensor, rtol=1e-4, atol=1e-5)
    assert any(not torch.allclose(plain[name], tensor, atol=1e-4) for name, tensor in whole.items())
