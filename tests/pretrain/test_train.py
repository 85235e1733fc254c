"""Pre-training leaves a teacher and a record, goes on from another teacher, and refuses what does not fit."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fithubert.config.base import validate
from fithubert.config.pretrain import IterationParams, PretrainParams, UnitParams
from fithubert.data.manifest import Manifest
from fithubert.errors import UserError
from fithubert.files import only_writer, read_json
from fithubert.importers import load_teacher
from tests.pretrain.tiny_run import run, tiny_params


def test_two_iterations_leave_a_teacher_and_a_record(
    tiny_corpus: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work, lines = tmp_path / "work", []
    params = tiny_params()
    run(params, tiny_corpus, work, lines)
    teacher = load_teacher(work / "teacher")
    assert (teacher.name, teacher.widths) == ("hubert", (24,) * 4)
    record = read_json(work / "pretrain.json")
    assert [[p["update"] for p in i["curve"]] for i in record["iterations"]] == [
        list(range(1, 13)),
        list(range(1, 7)),
    ]
    units = record["iterations"][0]["units"]
    assert 0 < units["phone_purity"] <= 1
    assert f"phone purity {units['phone_purity']:.1%}" in lines[1]
    last = next(line for line in capsys.readouterr().err.splitlines() if "update 12/12" in line)
    assert re.fullmatch(r"pretrain: iteration 1: 100% .*, loss \d\.\d+, masked accuracy .*%, [\d.]+ s audio/s", last)
    assert not (work / "waveforms.int16").exists()
    # Done is done, and cheap to ask for again.
    again: list[str] = []
    run(params, tiny_corpus, work, again)
    assert len(again) == 1


@pytest.mark.parametrize("classifier", ["linear", "cosine"])
def test_pretraining_learns(tiny_corpus: Manifest, tmp_path: Path, classifier: str) -> None:
    iteration = IterationParams(units=UnitParams(clusters=8, sample_frames=2000), updates=40, learning_rate=1e-2)
    changes = {"dropout": 0.0, "input_dropout": 0.0, "layer_dropout": 0.0, "feature_penalty": 0.0}
    run(tiny_params(iterations=(iteration,), classifier=classifier, **changes), tiny_corpus, tmp_path / "work")
    curve = read_json(tmp_path / "work" / "pretrain.json")["iterations"][0]["curve"]
    early, late = (sum(p["loss"] for p in points) for points in (curve[:5], curve[-5:]))
    assert late < 0.9 * early


def test_a_second_run_of_a_pretraining_is_refused(tiny_corpus: Manifest, tmp_path: Path) -> None:
    with (
        only_writer(tmp_path, "it"),
        pytest.raises(UserError, match=r"process \d+ is at work on the same pre-"),
    ):
        run(tiny_params(), tiny_corpus, tmp_path)


def test_other_parameters_are_refused(tiny_corpus: Manifest, tmp_path: Path) -> None:
    run(tiny_params(), tiny_corpus, tmp_path / "work")
    with pytest.raises(UserError, match="other parameters"):
        run(tiny_params(seed=2), tiny_corpus, tmp_path / "work")


def test_a_loss_that_explodes_stops_the_run_and_spares_the_checkpoint(tiny_corpus: Manifest, tmp_path: Path) -> None:
    iteration = IterationParams(units=UnitParams(clusters=8, sample_frames=2000), updates=12, learning_rate=1e38)
    with pytest.raises(UserError, match=r"iteration-1: the loss or its gradient is not finite before update"):
        run(tiny_params(iterations=(iteration,)), tiny_corpus, tmp_path / "work")
    assert not (tmp_path / "work" / "iteration-1" / "checkpoint.pt").exists()


def test_a_corpus_without_training_audio_is_said(tiny_corpus: Manifest, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no training audio"):
        run(tiny_params(), tiny_corpus.select(split="dev"), tmp_path / "work")


def test_pretraining_goes_on_from_a_teacher(tiny_corpus: Manifest, tmp_path: Path) -> None:
    """At hardly any learning rate nothing changes: weights and mask embedding are taken over."""
    run(tiny_params(), tiny_corpus, tmp_path / "first")
    start = tmp_path / "first" / "teacher"
    iteration = IterationParams(
        units=UnitParams(features=2, clusters=8, sample_frames=2000), updates=1, learning_rate=1e-12
    )
    going_on = tiny_params(start_from=str(start), iterations=(iteration,))
    after = load_file(run(going_on, tiny_corpus, tmp_path / "second") / "model.safetensors")
    for name, tensor in load_file(start / "model.safetensors").items():
        torch.testing.assert_close(after[name], tensor, atol=1e-3, rtol=1e-3, msg=name)
    assert "mask_embedding" in after


def test_a_start_of_another_shape_is_refused(tiny_corpus: Manifest, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a teacher of the recipe's model"):
        run(tiny_params(start_from="mini"), tiny_corpus, tmp_path / "work")


def test_units_of_a_layer_need_a_model() -> None:
    values = tiny_params().model_dump(mode="json")
    values["iterations"] = values["iterations"][1:]
    with pytest.raises(UserError, match="units of layer 2 in the first one need start_from"):
        validate(PretrainParams, values, "recipe")
    values["start_from"], values["iterations"][0]["units"]["features"] = "mini", 9
    with pytest.raises(UserError, match=r"units\.features 9 is not mfcc or a layer 0\.\.3"):
        validate(PretrainParams, values, "recipe")
