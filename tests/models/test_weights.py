"""Models on disk: what is saved is read, a release is smaller and gives the same, what is broken is named."""

import json
import pickle
from collections.abc import Callable
from copy import deepcopy
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fithubert.errors import UserError
from fithubert.importers import load_teacher
from fithubert.models.hubert import HubertModel, HubertTeacher
from fithubert.models.macs import count_macs
from fithubert.models.runtime import ReadOut
from fithubert.models.student import Student
from fithubert.models.weights import (
    fingerprint,
    load_student,
    parameter_counts,
    read_record,
    read_teacher,
    release,
    save_student,
    save_teacher,
)
from tests.models.shapes import PRUNED, strong, tiny
from tests.models.test_hubert import tiny_config

WAVEFORMS = [torch.randn(9000, generator=torch.Generator().manual_seed(1)) * 0.1, torch.zeros(4000)]
LOADERS: dict[str, Callable[[Path], Any]] = {"student": load_student, "teacher": read_teacher}


@pytest.fixture
def student(tmp_path: Path) -> Student:
    student = strong(tiny())
    save_student(student, tmp_path / "student", record={"updates": 3})
    return student


@pytest.fixture
def teacher(tmp_path: Path) -> HubertTeacher:
    torch.manual_seed(0)
    teacher = HubertTeacher(HubertModel(tiny_config()), "tiny", torch.randn(24))
    save_teacher(teacher, tmp_path / "teacher")
    return teacher


def test_a_release_gives_the_same_without_what_only_training_needs(student: Student, tmp_path: Path) -> None:
    folder = tmp_path / "student"
    again = load_student(folder)
    assert again.config.heads.layer_map == ((3, 3),)
    assert read_record(folder) == {"updates": 3}
    assert fingerprint(again) == fingerprint(student)
    counts = parameter_counts(student.config)
    assert sum(x.numel() for x in load_file(folder / "model.safetensors").values()) == counts.total - 16
    ours, theirs = student(WAVEFORMS), again(WAVEFORMS)
    torch.testing.assert_close(theirs.projections[0], ours.projections[-1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(theirs.hidden_states, ours.hidden_states, atol=1e-5, rtol=1e-5)


def test_everything_can_be_kept_for_training(tmp_path: Path) -> None:
    student = strong(tiny("armhubert"))
    save_student(student, tmp_path / "student", release=False)
    again = load_student(tmp_path / "student", for_training=True)
    assert again.training
    assert again.config == student.config
    assert {name for name, _ in again.named_parameters()} == {name for name, _ in student.named_parameters()}
    torch.testing.assert_close(again.eval()(WAVEFORMS).projections, student(WAVEFORMS).projections)


@pytest.mark.parametrize("released", [False, True])
def test_a_student_is_pickled_whole(released: bool) -> None:
    student = strong(tiny())
    kept = release(student) if released else student
    written = BytesIO()
    torch.save(kept, written)
    written.seek(0)
    for again in (pickle.loads(pickle.dumps(kept)), torch.load(written, weights_only=False), deepcopy(kept)):
        assert again.config == kept.config
        assert list(again.state_dict()) == list(kept.state_dict())
        assert torch.equal(again(WAVEFORMS).projections[-1], kept(WAVEFORMS).projections[-1])


@pytest.mark.parametrize("recipe", ["fithubert", "distilhubert", "armhubert", "starhubert"])
@pytest.mark.parametrize("readout", ["last", "layers", "projections"])
def test_readouts_are_the_students_own_layers(recipe: str, readout: str) -> None:
    student = strong(tiny(recipe, readout=readout))
    model = ReadOut(student, "tiny")
    full = student(*batch())
    wanted = {"last": full.projections[-1:], "layers": full.hidden_states, "projections": full.projections}[readout]
    states = model(*batch())
    torch.testing.assert_close(states.hidden_states, wanted, atol=1e-5, rtol=1e-5)
    assert torch.equal(states.lengths, full.lengths)
    assert model.widths == tuple(x.shape[2] for x in states.hidden_states)
    early = model(*batch(), last_layer=0).hidden_states
    assert len(early) == 1
    torch.testing.assert_close(early[0], states.hidden_states[0])
    assert sum(p.numel() for p in model.student.parameters()) <= parameter_counts(student.config).total
    assert model.student.config == student.config.released()


@pytest.mark.parametrize("recipe", ["fithubert", "distilhubert"])
@pytest.mark.parametrize("readout", ["last", "layers"])
def test_a_released_student_keeps_the_heads_it_is_asked_to_keep_and_the_projection(
    recipe: str, readout: str, tmp_path: Path
) -> None:
    layer_map = [[1, 1], [2, 2], [3, 3]] if recipe == "fithubert" else [[3, 1], [3, 2], [3, 3]]
    heads = {"layer_map": layer_map, "keep": [2]}
    student = strong(tiny(recipe, readout=readout, heads=heads))
    student.final_proj = torch.randn(5, 24), torch.randn(5)
    save_student(student, tmp_path / "student")
    kept, full = load_student(tmp_path / "student"), student(WAVEFORMS)
    assert kept.config.heads.layer_map == tuple(tuple(p) for p in layer_map[1 : 3 if readout == "last" else 2])
    torch.testing.assert_close(kept(WAVEFORMS).projections[0], full.projections[1], atol=1e-5, rtol=1e-5)
    assert kept.final_proj is not None
    assert all(torch.equal(one, two) for one, two in zip(kept.final_proj, student.final_proj, strict=True))
    plain = strong(tiny(recipe, readout=readout, heads={**heads, "keep": []}))
    plain.load_state_dict(student.state_dict())
    ours, theirs = ReadOut(kept, "kept"), ReadOut(plain, "plain")
    torch.testing.assert_close(ours(*batch()).hidden_states, theirs(*batch()).hidden_states, atol=1e-5, rtol=1e-5)
    assert ours.widths == theirs.widths
    assert ours.student.final_proj is not None
    assert count_macs(kept.config, 16_000) == count_macs(plain.config, 16_000) == count_macs(student.config, 16_000)
    student.final_proj = None
    assert fingerprint(student) == fingerprint(kept) != fingerprint(plain)


@pytest.mark.parametrize("keep", [[], [2]])
@pytest.mark.parametrize("recipe", ["fithubert", "distilhubert"])
def test_projections_reads_the_heads_that_are_named_and_a_released_student_has_no_others(
    recipe: str, keep: list[int], tmp_path: Path
) -> None:
    layer_map = [[1, 1], [2, 2], [3, 3]] if recipe == "fithubert" else [[3, 1], [3, 2], [3, 3]]
    heads = {"layer_map": layer_map, "keep": keep, "read": [1, 3]}
    student = strong(tiny(recipe, readout="projections", heads=heads))
    save_student(student, tmp_path / "student")
    some, full = load_student(tmp_path / "student"), student(WAVEFORMS)
    assert some.config.heads.layer_map == tuple(tuple(p) for p in layer_map if p[1] in (1, 3, *keep))
    states = ReadOut(some, "some")(*batch()).hidden_states
    assert len(states) == len(some.read_widths) == len(student.read_widths) == 2
    for state, index in zip(states, (0, 2), strict=True):
        torch.testing.assert_close(state, full.projections[index], atol=1e-5, rtol=1e-5)
    every = tiny(recipe, readout="projections", heads={"layer_map": layer_map})
    assert count_macs(some.config, 16_000) == count_macs(student.config, 16_000)
    assert count_macs(some.config, 16_000)["readout"] < count_macs(every, 16_000)["readout"]
    assert fingerprint(student) == fingerprint(some)


@pytest.mark.parametrize("name", ["keep", "read"])
def test_a_head_that_does_not_exist_cannot_be_kept_or_read(name: str) -> None:
    with pytest.raises(UserError, match=rf"heads: .*{name}: no head predicts teacher layer 9"):
        tiny(heads={name: [9]}, readout="projections")


def test_only_projections_reads_some_heads() -> None:
    with pytest.raises(UserError, match=r"heads\.read: needs readout: projections"):
        tiny(heads={"read": [1]}, readout="last")


def batch() -> tuple[Tensor, Tensor]:
    return torch.nn.utils.rnn.pad_sequence(WAVEFORMS, batch_first=True), torch.tensor([9000, 4000])


def test_layers_of_different_sizes_are_saved_and_counted(tmp_path: Path) -> None:
    student = strong(tiny(**PRUNED))
    assert [tuple(layer.attention.value.weight.shape) for layer in student.layers] == [(15, 28), (5, 28)]
    assert [tuple(layer.ffn_in.weight.shape) for layer in student.layers] == [(30, 28), (7, 28)]
    save_student(student, tmp_path / "student", release=False)
    again = load_student(tmp_path / "student")
    assert again.config == student.config
    assert fingerprint(again) == fingerprint(student)
    assert parameter_counts(student.config).trained == sum(p.numel() for p in student.parameters())
    torch.testing.assert_close(again(WAVEFORMS).projections, student(WAVEFORMS).projections)


def test_a_student_with_the_same_number_in_every_layer_keeps_its_fingerprint(tmp_path: Path) -> None:
    student = release(Student(tiny()))
    with torch.no_grad():
        for number, parameter in enumerate(student.parameters()):
            parameter.fill_(number / 64)
    assert fingerprint(student) == "c5c1d2a2102997fe964aa331e53050e4"
    save_student(student, tmp_path / "student")
    path = tmp_path / "student" / "config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    del values["student"]["head_width"]  # Folders of earlier versions do not have it.
    path.write_text(json.dumps(values), encoding="utf-8")
    assert fingerprint(load_student(tmp_path / "student")) == fingerprint(student)


def test_the_fingerprint_follows_weights_and_readout() -> None:
    student = strong(tiny())
    first = ReadOut(student, "a").fingerprint
    assert ReadOut(release(student), "b").fingerprint == first
    other = Student(student.config.model_copy(update={"readout": "layers"}))
    other.load_state_dict(student.state_dict())
    assert ReadOut(other, "a").fingerprint != first
    with torch.no_grad():
        student.encoder_norm.bias[0] += 1e-3
    assert ReadOut(student, "a").fingerprint != first


def test_a_teacher_is_read_with_its_mask_embedding_which_is_no_part_of_the_fingerprint(
    teacher: HubertTeacher, tmp_path: Path
) -> None:
    again = load_teacher(tmp_path / "teacher")
    assert isinstance(again, HubertTeacher)
    assert again.fingerprint == teacher.fingerprint == HubertTeacher(teacher.model, "tiny").fingerprint
    batch = torch.randn(1, 5000), torch.tensor([5000])
    torch.testing.assert_close(again(*batch).hidden_states, teacher(*batch).hidden_states, atol=1e-6, rtol=1e-6)
    assert torch.equal(again.mask_embedding, teacher.mask_embedding)
    path = tmp_path / "teacher" / "model.safetensors"
    save_file({**load_file(path), "mask_embedding": torch.ones(3)}, path)
    with pytest.raises(UserError, match=r"mask_embedding has shape \(3,\), not \(24,\)"):
        load_teacher(tmp_path / "teacher")


@pytest.mark.parametrize("kind", LOADERS)
def test_wrong_tensors_and_truncated_files_are_named(
    kind: str, student: Student, teacher: HubertTeacher, tmp_path: Path
) -> None:
    path = tmp_path / kind / "model.safetensors"
    state = load_file(path)
    bias = state.pop("encoder_norm.bias")
    for changed, words in (
        (state, r"encoder_norm\.bias is missing"),
        ({**state, "encoder_norm.bias": bias[:3].clone()}, rf"encoder_norm\.bias has shape \(3,\), not \({len(bias)},"),
        ({**state, "encoder_norm.bias": bias, "stray": bias.clone()}, "stray does not belong"),
    ):
        save_file(changed, path)
        with pytest.raises(UserError, match=words):
            LOADERS[kind](path.parent)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match=r"model\.safetensors: not a readable"):
        LOADERS[kind](path.parent)


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("student", {"format": "other"}, "not a student of this project"),
        ("student", {"student": {"width": 32}}, "is required and missing"),
        ("student", {"student": 7}, "not a student of this project"),
        ("teacher", {"format": "other"}, "not a teacher of this project"),
        ("teacher", {"model": {"width": 32}}, "is required and missing"),
    ],
)
def test_a_foreign_config_is_named(
    kind: str, change: dict[str, Any], words: str, student: Student, teacher: HubertTeacher, tmp_path: Path
) -> None:
    path = tmp_path / kind / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=words):
        LOADERS[kind](path.parent)


def test_a_missing_folder_is_named_and_an_unknown_teacher_lists_the_names(tmp_path: Path) -> None:
    for kind in LOADERS:
        with pytest.raises(UserError, match=r"nowhere/config\.json: no such file"):
            LOADERS[kind](tmp_path / "nowhere")
    with pytest.raises(UserError, match="one of fbank, mini"):
        load_teacher("hubert_enormous")


def test_the_shipped_student_is_loaded_unless_a_folder_of_its_name_holds_another(
    student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert parameter_counts(load_student("fithubert").config).total == 1_423_312
    (tmp_path / "student").rename(tmp_path / "fithubert")
    assert fingerprint(load_student("fithubert")) == fingerprint(student)
