"""Checkpoints as public trainers write them: optimiser state that stays inert, frames that are the student's own."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F

from fithubert.errors import UserError
from fithubert.frames import count_frames
from fithubert.importers.torch_files import read_torch_file
from fithubert.models.runtime import ReadOut
from tests.models.shapes import strong, tiny

DROPPED = {"time_reduction": {"drop_last_frame": True}}


def test_a_trainers_own_objects_are_read_as_inert_bystanders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = type("WarmupLinearSchedule", (), {"__module__": "s3prl.optimizers"})
    settings = type("AttributeDict", (dict,), {"__module__": "pytorch_lightning.utilities.parsing"})
    for kind in (schedule, settings):
        module = ModuleType(kind.__module__)
        setattr(module, kind.__name__, kind)
        for place in range(1, kind.__module__.count(".") + 1):
            parent = ".".join(kind.__module__.split(".")[:place])
            monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
        monkeypatch.setitem(sys.modules, kind.__module__, module)
    used = schedule()
    used.warmup = 0.05  # type: ignore[attr-defined]
    groups = [{"param_groups": [{"schedule": used}]}]
    torch.save({"hyper_parameters": settings(a=1), "optimizer_states": groups}, tmp_path / "x.ckpt")
    monkeypatch.undo()
    values = read_torch_file(tmp_path / "x.ckpt")
    assert values["hyper_parameters"] == {"a": 1}
    assert values["optimizer_states"][0]["param_groups"][0]["schedule"].state == {"warmup": 0.05}
    assert "s3prl.optimizers" not in sys.modules


def test_a_student_that_drops_frames_counts_them_itself() -> None:
    model = ReadOut(strong(tiny(**DROPPED)), "x")
    assert (model.frame_multiple, model.student.shortest_samples) == (2, 720)
    for samples in (720, 1039, 1040, 16_000, 60_000):
        out = model(torch.randn(1, samples) * 0.1, torch.tensor([samples]))
        frames = count_frames(samples, model.convolutions, model.frame_multiple)
        assert out.lengths.tolist() == [frames] == [out.hidden_states[0].shape[1]]
    with pytest.raises(UserError, match="640 samples gives no frame; at least 720 are needed"):
        model(torch.zeros(1, 640), torch.tensor([640]))


def test_a_second_softmax_sharpens_only_what_is_reused() -> None:
    changes = {"reuse_attention": (1,), "time_reduction": {"kind": "none"}, "depth": 2}
    twice = strong(tiny(**changes, second_softmax=True))
    once = strong(tiny(**changes))
    waveform = torch.randn(1, 5000) * 0.1
    with torch.inference_mode():
        first = twice.encode(waveform).states
        plain = once.encode(waveform).states
        reused = F.softmax(twice.layers[0].attention_map(first[0], None), dim=-1)
        torch.testing.assert_close(first[2], twice.layers[1](first[1], None, reused))
    torch.testing.assert_close(first[1], plain[1])
    assert not torch.allclose(first[2], plain[2])
