"""Masking distillation: the frames that student and teacher read, and its requirements."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fithubert.config.students import StudentParams
from fithubert.data.batching import Crop
from fithubert.distill import TrainResult
from fithubert.distill.targets import LiveTargets, Request
from fithubert.errors import UserError
from fithubert.frames import count_frames
from tests.distill.fakes import distill_params, fake_manifest, reshaped, student_params, tiny_teacher, train


def masked_params(**shape: Any) -> StudentParams:
    return reshaped(student_params(masked_teacher=True), **{"masking": {"share": 0.5, "span_frames": 3}, **shape})


def run(out: Path, params: StudentParams | None = None, **arguments: Any) -> TrainResult:
    given = {
        "train_targets": LiveTargets(fake_manifest(16), tiny_teacher(mask_embedding=True)),
        "dev_targets": LiveTargets(fake_manifest(5, seed=1), tiny_teacher(mask_embedding=True)),
        **arguments,
    }
    return train(out, distill_params(), student_params=params or masked_params(), **given)


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


def test_it_trains_and_is_the_same_each_time(tmp_path: Path) -> None:
    one, two = run(tmp_path / "one"), run(tmp_path / "two")
    assert (one.directory / "model.safetensors").read_bytes() == (two.directory / "model.safetensors").read_bytes()
    plain = masked_params().model_copy(update={"hints": student_params().hints})
    other = run(tmp_path / "plain", plain)
    assert (one.directory / "model.safetensors").read_bytes() != (other.directory / "model.safetensors").read_bytes()


def test_a_missing_requirement_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing is masked; give shape"):
        run(tmp_path / "a", masked_params(masking=None))
    without = LiveTargets(fake_manifest(16), tiny_teacher())
    with pytest.raises(UserError, match="the teacher must read the masked speech"):
        run(tmp_path / "b", train_targets=without)
    with pytest.raises(UserError, match="has no mask embedding"):
        tiny_teacher()(torch.zeros(1, 800), torch.tensor([800]), masked=torch.zeros(1, 2, dtype=torch.bool))
