"""Teachers on disk: what is saved is read, and what is broken is named."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fithubert.errors import UserError
from fithubert.importers.registry import load_teacher
from fithubert.models.hubert import HubertModel, HubertTeacher
from fithubert.models.weights import read_teacher, save_teacher
from tests.models.test_hubert import tiny_config


@pytest.fixture
def saved(tmp_path: Path) -> tuple[HubertTeacher, Path]:
    torch.manual_seed(0)
    teacher = HubertTeacher(HubertModel(tiny_config()), "tiny")
    save_teacher(teacher, tmp_path / "teacher", record={"from": "a test"})
    return teacher, tmp_path / "teacher"


def test_round_trip(saved: tuple[HubertTeacher, Path]) -> None:
    teacher, folder = saved
    again = load_teacher(folder)
    assert again.fingerprint == teacher.fingerprint
    batch = torch.randn(1, 5000), torch.tensor([5000])
    for one, other in zip(teacher(*batch).hidden_states, again(*batch).hidden_states, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


def test_missing_extra_and_misshapen_tensors_are_named(saved: tuple[HubertTeacher, Path]) -> None:
    path = saved[1] / "model.safetensors"
    state = load_file(path)
    bias = state.pop("projection.bias")
    save_file(state, path)
    with pytest.raises(UserError, match=r"projection\.bias is missing"):
        read_teacher(saved[1])
    save_file({**state, "projection.bias": bias[:3].clone()}, path)
    with pytest.raises(UserError, match=r"projection\.bias has shape \(3,\)"):
        read_teacher(saved[1])
    save_file({**state, "projection.bias": bias, "stray": bias.clone()}, path)
    with pytest.raises(UserError, match="stray does not belong"):
        read_teacher(saved[1])


def test_truncated_weights_and_foreign_config_are_named(saved: tuple[HubertTeacher, Path]) -> None:
    path = saved[1] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"model\.safetensors: not a readable"):
        read_teacher(saved[1])
    (saved[1] / "config.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(UserError, match="not a teacher of this project"):
        read_teacher(saved[1])


def test_unknown_teacher_lists_the_names() -> None:
    with pytest.raises(UserError, match="one of fbank, mini"):
        load_teacher("hubert_enormous")


def test_the_mask_embedding_is_kept_and_is_no_part_of_the_fingerprint(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, embedding = HubertModel(tiny_config()), torch.randn(24)
    save_teacher(HubertTeacher(model, "tiny", embedding), tmp_path / "teacher")
    again = read_teacher(tmp_path / "teacher")
    assert again.mask_embedding is not None
    assert torch.equal(again.mask_embedding, embedding)
    assert again.fingerprint == HubertTeacher(model, "tiny").fingerprint
    path = tmp_path / "teacher" / "model.safetensors"
    save_file({**load_file(path), "mask_embedding": embedding[:3].clone()}, path)
    with pytest.raises(UserError, match=r"mask_embedding has shape \(3,\), not \(24,\)"):
        read_teacher(tmp_path / "teacher")
