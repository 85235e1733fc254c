"""Cached and live targets give the same batches and losses, within the codec's error; targets of masked speech."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fithubert.config.students import StudentParams
from fithubert.data.batching import Crop, plan_batches
from fithubert.distill import TrainResult
from fithubert.distill.targets import CachedTargets, LiveTargets, Request, Targets
from fithubert.errors import UserError
from fithubert.frames import count_frames, count_samples
from fithubert.store.extract import ExtractSettings, extract_features
from fithubert.store.read import FeatureStore, HiddenStateBatch
from tests.distill.fakes import (
    FakeTeacher,
    Recorder,
    distill_params,
    fake_manifest,
    reshaped,
    student_params,
    tiny_teacher,
    train,
)

#: Enough for two runs to diverge; ten times the rate multiplies their difference by ten.
TWO_HUNDRED = distill_params(
    updates=200, batch_seconds=1.0, learning_rate=1e-3, dev_every_updates=200, checkpoint_every_updates=200
)


def _store(path: Path, codec: str, count: int = 16, seed: int = 0, **settings: object) -> CachedTargets:
    manifest = fake_manifest(count, seed)
    extract_features(FakeTeacher(), manifest, path, ExtractSettings(codec=codec, shard_minutes=0.05, **settings))
    return CachedTargets(FeatureStore.open(path))


def _batch(targets: Targets, crops: list[Crop], layers: list[int]) -> HiddenStateBatch:
    request = Request(tuple(crops), tuple(layers))
    return targets.finish(targets.read(request), request)


@pytest.mark.parametrize(("codec", "error"), [("float16", 1e-3), ("int8", 1e-2), ("pca_int8", 3e-2)])
def test_cached_batches_are_live_batches_within_the_codecs_error(tmp_path: Path, codec: str, error: float) -> None:
    cached, live = _store(tmp_path, codec), LiveTargets(fake_manifest(16), FakeTeacher(), batch_seconds=1.0)
    assert (cached.ids, cached.num_frames, cached.widths) == (live.ids, live.num_frames, live.widths)
    for crops in plan_batches(live.num_frames, batch_frames=60, crop_frames=20, seed=1, epoch=0):
        one, other = _batch(cached, crops, [1, 3]), _batch(live, crops, [1, 3])
        assert one.ids == other.ids
        assert one.hidden_states.keys() == other.hidden_states.keys() == {1, 3}
        for name in ("waveforms", "lengths", "frame_lengths"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
        for layer in (1, 3):
            assert (one.hidden_states[layer] - other.hidden_states[layer]).abs().max() < error


@pytest.fixture(scope="module")
def live_run(tmp_path_factory: pytest.TempPathFactory) -> Recorder:
    """Two hundred updates on live targets."""
    recorder = Recorder()
    train(tmp_path_factory.mktemp("live") / "student", TWO_HUNDRED, listeners=[recorder])
    return recorder


@pytest.mark.parametrize("codec", ["float16", "int8", "pca_int8"])
def test_two_hundred_cached_losses_are_live_losses_within_the_error_that_the_store_states(
    tmp_path: Path, live_run: Recorder, codec: str
) -> None:
    manifest, recorder = fake_manifest(16), Recorder()
    report = extract_features(FakeTeacher(), manifest, tmp_path / "train", ExtractSettings(codec, shard_minutes=0.05))
    stated = report.metrics.relative_error
    train(
        tmp_path / "student",
        TWO_HUNDRED,
        train_targets=CachedTargets(FeatureStore.open(tmp_path / "train")),
        dev_targets=_store(tmp_path / "dev", codec, 5, 1),
        listeners=[recorder],
    )
    losses, expected = ([step.loss for step in run.steps] for run in (recorder, live_run))
    assert len(losses) == 200
    assert losses == pytest.approx(expected, rel=stated)
    cached, live = recorder.evaluations[-1], live_run.evaluations[-1]
    assert cached.dev_loss == pytest.approx(live.dev_loss, rel=stated)


def test_live_crops_come_from_the_states_of_the_whole_utterance() -> None:
    manifest, teacher = fake_manifest(6), FakeTeacher()
    live = LiveTargets(manifest, teacher)
    crop = Crop(2, 3, 7)
    batch = _batch(live, [crop, Crop(4, 0, 2)], [2])
    whole = manifest.read(manifest.utterances[2])
    states = teacher(whole[None], torch.tensor([len(whole)])).hidden_states[2]
    assert torch.allclose(batch.hidden_states[2][0], states[0, 3:10])
    assert torch.equal(batch.waveforms[0], whole[3 * 320 : 3 * 320 + count_samples(7)])
    assert batch.frame_lengths.tolist() == [7, 2]
    assert not batch.hidden_states[2][1, 2:].any()
    assert not batch.hidden_states[2].is_inference()


def test_the_teacher_runs_only_as_deep_as_the_heads_need(tmp_path: Path) -> None:
    teacher = FakeTeacher()
    params = reshaped(student_params(), heads={"teacher_width": 6, "layer_map": [[2, 2]]})
    train(tmp_path / "s", train_targets=LiveTargets(fake_manifest(8), teacher), student_params=params)
    assert set(teacher.last_layers) == {2}


def test_only_the_layers_of_the_heads_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = _store(tmp_path / "cache", "float16")
    read, read_batch = [], FeatureStore.read_batch
    monkeypatch.setattr(
        FeatureStore,
        "read_batch",
        lambda store, crops, layers: read.append(tuple(layers)) or read_batch(store, crops, layers),
    )
    train(tmp_path / "student", train_targets=cached)
    assert set(read) == {(1, 3)}


def test_training_shard_by_shard_needs_shards(tmp_path: Path) -> None:
    params = distill_params(shuffle="shards")
    with pytest.raises(UserError, match=r"distill\.shuffle: shards needs cached targets"):
        train(tmp_path / "live", params)
    assert train(tmp_path / "student", params, train_targets=_store(tmp_path / "cache", "int8")).ended.updates == 12


def test_a_cache_without_waveforms_cannot_train(tmp_path: Path) -> None:
    targets = _store(tmp_path / "cache", "int8", with_waveform=False)
    with pytest.raises(UserError, match="the cache holds no waveforms"):
        train(tmp_path / "student", train_targets=targets)


def test_a_cache_of_another_codec_has_another_fingerprint(tmp_path: Path) -> None:
    fingerprints = {_store(tmp_path / codec, codec).fingerprint for codec in ("int8", "float16")}
    assert len({*fingerprints, LiveTargets(fake_manifest(16), FakeTeacher()).fingerprint}) == 3


def masked_params(**shape: Any) -> StudentParams:
    return reshaped(student_params(masked_teacher=True), **{"masking": {"share": 0.5, "span_frames": 3}, **shape})


def train_masked(out: Path, params: StudentParams | None = None, **arguments: Any) -> TrainResult:
    targets = (LiveTargets(fake_manifest(n, seed), tiny_teacher(mask_embedding=True)) for n, seed in ((16, 0), (5, 1)))
    given = dict(zip(("train_targets", "dev_targets"), targets, strict=True)) | arguments
    return train(out, student_params=params or masked_params(), **given)


def test_masked_frames_learn_from_speech_and_the_others_from_masked_speech() -> None:
    manifest, teacher = fake_manifest(6), tiny_teacher(mask_embedding=True)
    live = LiveTargets(manifest, teacher)
    crops = (Crop(2, 3, 7), Crop(4, 1, 5))
    masked = torch.zeros(2, 7, dtype=torch.bool)
    masked[0, 2:5] = masked[1, 1:3] = True
    request = Request(crops, (3,), masked)
    targets = live.finish(live.read(request), request).hidden_states[3]
    for row, crop in enumerate(crops):
        whole = manifest.read(manifest.utterances[crop.index])[None]
        lengths = torch.tensor([whole.shape[1]])
        hidden = torch.zeros(1, count_frames(whole.shape[1]), dtype=torch.bool)
        span = slice(crop.start_frame, crop.start_frame + crop.num_frames)
        hidden[0, span] = masked[row, : crop.num_frames]
        speech = teacher(whole, lengths).hidden_states[3][0, span]
        others = teacher(whole, lengths, masked=hidden).hidden_states[3][0, span]
        assert not torch.allclose(speech, others)
        wanted = torch.where(hidden[0, span, None], speech, others)
        torch.testing.assert_close(targets[row, : crop.num_frames], wanted, atol=1e-5, rtol=0)


def test_masking_distillation_trains_and_is_the_same_each_time(tmp_path: Path) -> None:
    one, two = train_masked(tmp_path / "one"), train_masked(tmp_path / "two")
    assert (one.directory / "model.safetensors").read_bytes() == (two.directory / "model.safetensors").read_bytes()
    plain = masked_params().model_copy(update={"hints": student_params().hints})
    other = train_masked(tmp_path / "plain", plain)
    assert (one.directory / "model.safetensors").read_bytes() != (other.directory / "model.safetensors").read_bytes()


def test_a_missing_requirement_of_masking_distillation_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing is masked; give shape"):
        train_masked(tmp_path / "a", masked_params(masking=None))
    without = LiveTargets(fake_manifest(16), tiny_teacher())
    with pytest.raises(UserError, match="the teacher must read the masked speech"):
        train_masked(tmp_path / "b", train_targets=without)
    with pytest.raises(UserError, match="has no mask embedding"):
        tiny_teacher()(torch.zeros(1, 800), torch.tensor([800]), masked=torch.zeros(1, 2, dtype=torch.bool))
