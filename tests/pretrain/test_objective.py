"""The loss of an update is that of its parts; the regularisers act in training only, and as fairseq's do."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fithubert.config.pretrain import SpeakerParams
from fithubert.data.batching import Crop
from fithubert.data.manifest import Manifest
from fithubert.frames import HUBERT_CONVOLUTIONS, count_samples
from fithubert.models.hubert import MaskedFrames
from fithubert.pretrain.objective import (
    Batch,
    CosineClassifier,
    MaskedPart,
    Overlap,
    Totals,
    UnitPredictor,
    draw_overlapping_mask,
    draw_overlaps,
    mask_update,
    overlay,
)
from fithubert.training.updates import PlannedUpdate
from tests.pretrain.tiny_run import last_weights, run, tiny_params

OFF = {"dropout": 0.0, "input_dropout": 0.0, "layer_dropout": 0.0, "frontend_gradient": 1.0, "feature_penalty": 0.0}


@settings(max_examples=20, deadline=None)
@given(num_frames=st.lists(st.integers(1, 300), min_size=1, max_size=20), parts=st.integers(1, 6))
def test_an_update_is_the_same_however_it_is_cut(num_frames: list[int], parts: int) -> None:
    crops = tuple(Crop(index, 0, frames) for index, frames in enumerate(sorted(num_frames)))
    update = PlannedUpdate(7, 2, 1, crops)
    whole, cut = (mask_update(tiny_params(), 3, update, number) for number in (1, parts))
    busy = [part for part in cut.parts if part.part.weight > 0]
    assert crops == tuple(crop for part in busy for crop in part.part.crops)
    rows, masks = _valid_rows(whole.parts), _valid_rows(busy)
    assert all(torch.equal(*pair) for pair in zip(masks, rows, strict=True))
    masked_frames = sum(int(mask.sum()) for mask in masks)
    assert whole.totals == cut.totals == (masked_frames, update.num_frames - masked_frames, len(update.crops))
    assert whole.dropped_layers == cut.dropped_layers
    other = mask_update(tiny_params(), 3, replace(update, number=8), parts)
    assert other.parts[0].seed != cut.parts[0].seed


def _valid_rows(parts: Sequence[MaskedPart]) -> list[torch.Tensor]:
    """The masks of the crops of `parts`, each as long as its crop."""
    return [row[: crop.num_frames] for p in parts for row, crop in zip(p.mask, p.part.crops, strict=True)]


def test_mask_stays_inside_and_covers_the_expected_share() -> None:
    lengths = torch.tensor([500, 300, 1, 40])
    mask = draw_overlapping_mask(lengths, 500, 0.65, 10, torch.Generator().manual_seed(0))
    assert mask.sum(1).gt(0).all()
    for row, length in enumerate(lengths):
        assert not mask[row, length:].any()
    # Overlapping spans: a frame stays visible with probability (1 - 0.65 / 10) ** 10.
    assert mask[0].float().mean().item() == pytest.approx(1 - 0.935**10, abs=0.1)


def _batch(frames: list[int]) -> tuple[Batch, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([count_samples(n, HUBERT_CONVOLUTIONS) for n in frames])
    waveforms = torch.randn(len(frames), int(lengths.max()), generator=generator) * 0.1
    valid = torch.arange(max(frames)) < torch.tensor(frames)[:, None]
    units = torch.randint(0, 5, valid.shape, generator=generator).masked_fill(~valid, -1)
    mask = (torch.rand(valid.shape, generator=generator) < 0.4) & valid
    mask[:, 0] = True
    speakers = torch.arange(len(frames)) - 1
    return Batch(waveforms, lengths, units, speakers), mask


def _gradient(model: UnitPredictor) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("speakers", [None, SpeakerParams(layer=2, weight=0.5)])
def test_parts_add_up_to_the_whole_and_to_the_textbook_loss(speakers: SpeakerParams | None) -> None:
    params = tiny_params(**{**OFF, "feature_penalty": 2.0})
    torch.manual_seed(0)
    model = UnitPredictor(params, 5, speakers, 3).train()
    batch, mask = _batch([30, 50, 50])
    waveforms, lengths, units, named = batch
    totals = Totals(int(mask.sum()), int((units >= 0).sum() - mask.sum()), 3)
    loss, right = model(batch, mask, totals)
    loss.backward()
    whole = _gradient(model)

    model.zero_grad()
    total, share = torch.zeros(()), torch.zeros(())
    for row in range(3):
        n, samples = int((units[row] >= 0).sum()), int(lengths[row])
        one = slice(row, row + 1)
        part = Batch(waveforms[one, :samples], lengths[one], units[one, :n], named[one])
        part_loss, hit = model(part, mask[one, :n], totals)
        part_loss.backward()
        total, share = total + part_loss.detach(), share + hit
    torch.testing.assert_close(total, loss.detach())
    torch.testing.assert_close(share, right)
    for name, gradient in _gradient(model).items():
        torch.testing.assert_close(gradient, whole[name], atol=1e-6, rtol=1e-4, msg=name)

    model.eval()
    states = model.hubert(waveforms, lengths, masked=MaskedFrames(mask, model.mask_embedding)).hidden_states
    logits = model.classifier(states[-1])
    hidden, shown = (F.cross_entropy(logits[rows], units[rows]) for rows in (mask, (units >= 0) & ~mask))
    features, frames = model.hubert.frontend(waveforms, lengths)
    power = sum(f[:n].square().sum() for f, n in zip(features, frames, strict=True)) / frames.sum() / features.shape[2]
    wanted = hidden + params.unmasked_weight * shown + 2.0 * power
    if speakers is not None and model.speaker_classifier is not None:
        means = torch.stack([row[:n].mean(0) for row, n in zip(states[2], frames, strict=True)])
        known = F.cross_entropy(model.speaker_classifier(means[1:]), named[1:], reduction="sum")
        wanted = wanted + 0.5 * known / 3
    torch.testing.assert_close(loss, wanted)


def test_the_front_end_learns_more_slowly_and_nothing_else_does() -> None:
    gradients = []
    for share in (1.0, 0.25):
        torch.manual_seed(0)
        model = UnitPredictor(tiny_params(**{**OFF, "frontend_gradient": share}), 5).train()
        model(*_batch([40, 40]), Totals(10, 10, 2))[0].backward()
        gradients.append(_gradient(model))
    for name, gradient in gradients[0].items():
        factor = 0.25 if ".frontend." in name else 1.0
        torch.testing.assert_close(gradients[1][name], factor * gradient, msg=name)


def test_a_layer_that_is_left_out_does_nothing_and_learns_nothing() -> None:
    torch.manual_seed(0)
    model = UnitPredictor(tiny_params(**OFF), 5).train()
    batch = _batch([40, 40])
    totals = Totals(10, 10, 2)
    all_layers = model(*batch, totals)[0]
    loss = model(*batch, totals, dropped_layers=(1,))[0]
    assert loss != all_layers
    loss.backward()
    assert all(p.grad is None for p in model.hubert.layers[1].parameters())
    assert all(p.grad is not None for p in model.hubert.layers[2].parameters())
    layers = model.hubert.layers
    with torch.no_grad():
        model.hubert.layers = torch.nn.ModuleList([layers[0], layers[2]])
        torch.testing.assert_close(model(*batch, totals)[0], loss)


def test_inference_knows_no_regulariser() -> None:
    torch.manual_seed(0)
    model = UnitPredictor(tiny_params(), 5)
    waveforms, lengths, *_ = _batch([40, 40])[0]
    model.regularisers.dropped_layers = (0, 1, 2)
    plain = type(model.hubert)(model.hubert.config)
    plain.load_state_dict(model.hubert.state_dict())
    ours, theirs = (m.eval()(waveforms, lengths).hidden_states for m in (model.hubert, plain))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    drawn = [model.hubert.train()(waveforms, lengths).hidden_states[0] for _ in range(2)]
    assert not torch.equal(*drawn)


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_cosine_logits_are_angles_over_the_temperature(scale: float) -> None:
    classifier = CosineClassifier(6, 4)
    states = torch.randn(3, 6)
    projected = classifier.projection(states)
    with torch.no_grad():
        classifier.embeddings *= scale
    expected = F.cosine_similarity(projected[:, None], classifier.embeddings[None], dim=-1) / 0.1
    torch.testing.assert_close(classifier(states), expected)
    with torch.autocast("cpu", torch.bfloat16):
        half, projected = classifier(states), classifier.projection(states).float()
    expected = F.cosine_similarity(projected[:, None], classifier.embeddings[None], dim=-1) / 0.1
    torch.testing.assert_close(half, expected)


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
