"""Noise and rooms on the student's input: drawn for an utterance and an epoch, and never in a target."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fithubert.config.params import AugmentParams
from fithubert.distill.augment import Surroundings, add_surroundings, draw_surroundings
from fithubert.distill.targets import CachedTargets, LiveTargets
from fithubert.store.extract import ExtractSettings, extract_features
from fithubert.store.read import FeatureStore
from tests.distill.fakes import FakeTeacher, Recorder, StopAt, distill_params, fake_manifest, student_params, train
from tests.kills import Stop

ALWAYS = AugmentParams(noise_share=1.0, room_share=1.0, noise_db=(5.0, 15.0))


def test_a_crop_is_convolved_with_its_room_and_has_noise_at_its_ratio() -> None:
    around = draw_surroundings(ALWAYS, 1, 0, "a", 4_000)
    assert around.room is not None
    assert around.noise is not None
    assert 5 <= around.ratio_db <= 15
    x = torch.randn(4_000, generator=torch.Generator().manual_seed(0))
    heard = add_surroundings(x[None], [around], [4_000])[0]
    speech = torch.from_numpy(np.convolve(x.double(), around.room.double())[:4_000]).float()
    noise = heard - speech
    assert 10 * torch.log10(speech.square().mean() / noise.square().mean()).item() == pytest.approx(
        around.ratio_db, abs=0.3
    )
    torch.testing.assert_close(noise / noise.norm(), around.noise / around.noise.norm(), atol=1e-3, rtol=1e-3)


@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(400, 3_000), min_size=1, max_size=4), noise=st.booleans(), room=st.booleans())
def test_a_crop_does_not_depend_on_its_batch_and_padding_stays_silent(
    lengths: list[int], noise: bool, room: bool
) -> None:
    params = AugmentParams(noise_share=float(noise), room_share=float(room))
    waveforms = torch.randn(len(lengths), max(lengths))
    drawn = [draw_surroundings(params, 1, 2, f"{row}", length) for row, length in enumerate(lengths)]
    batch = add_surroundings(waveforms, drawn, lengths)
    for row, length in enumerate(lengths):
        alone = add_surroundings(waveforms[row : row + 1, :length], drawn[row : row + 1], [length])[0]
        assert torch.equal(alone, batch[row, :length])
        assert torch.equal(alone, waveforms[row, :length]) != (noise or room)
        assert not batch[row, length:].any()


def test_draws_follow_seed_epoch_and_utterance_alone() -> None:
    def key(*arguments: object) -> tuple[float, ...]:
        around = draw_surroundings(ALWAYS, *arguments, 800)  # type: ignore[arg-type]
        assert around.noise is not None
        return around.ratio_db, *around.noise[:3].tolist()

    assert key(1, 0, "a") == key(1, 0, "a")
    assert len({key(1, 0, "a"), key(2, 0, "a"), key(1, 1, "a"), key(1, 0, "b")}) == 4
    shares = AugmentParams(noise_share=0.25, room_share=0.75)
    drawn = [draw_surroundings(shares, 1, 0, f"{n}", 400) for n in range(400)]
    assert sum(around.noise is not None for around in drawn) == pytest.approx(100, abs=30)
    assert sum(around.room is not None for around in drawn) == pytest.approx(300, abs=30)


def test_silence_stays_silent() -> None:
    around = Surroundings(None, torch.randn(500), 10.0)
    assert not add_surroundings(torch.zeros(1, 500), [around], [500]).any()


def test_a_training_with_noise_is_the_same_for_any_parts_targets_and_stops(tmp_path: Path) -> None:
    manifest = fake_manifest(16)
    extract_features(FakeTeacher(), manifest, tmp_path / "cache", ExtractSettings("float32", shard_minutes=0.05))
    cached = CachedTargets(FeatureStore.open(tmp_path / "cache"))
    live = LiveTargets(manifest, FakeTeacher())
    losses, firsts = {}, []
    for name, targets, changes in (
        ("clean", cached, {"augment": None}),
        ("cached", cached, {}),
        ("live", live, {}),
        ("parts", cached, {"accumulate": 3}),
    ):
        recorder = Recorder()
        params = distill_params(**{"augment": ALWAYS, "updates": 6, **changes})
        student = student_params(0.0)
        train(tmp_path / name, params, student_params=student, train_targets=targets, listeners=[recorder])
        losses[name] = [step.loss for step in recorder.steps]
        firsts.append(recorder.evaluations[0].dev_loss)
    assert len(set(firsts)) == 1
    # A cache holds waveforms in 16 bits.
    assert losses["live"] == pytest.approx(losses["cached"], rel=1e-2)
    assert losses["parts"] == pytest.approx(losses["cached"], rel=1e-4)
    assert losses["clean"][0] != pytest.approx(losses["cached"][0], rel=1e-4)
    noisy = distill_params(augment=ALWAYS)
    whole = train(tmp_path / "whole", noisy).directory
    with pytest.raises(Stop):
        train(tmp_path / "stopped", noisy, listeners=[StopAt(7)])
    stopped = train(tmp_path / "stopped", noisy).directory
    assert (whole / "model.safetensors").read_bytes() == (stopped / "model.safetensors").read_bytes()
