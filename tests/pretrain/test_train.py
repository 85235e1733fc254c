"""Pre-training learns, and a stopped run goes on exactly where it was."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fithubert.config.base import validate
from fithubert.config.teacher import IterationParams, PretrainParams, UnitParams
from fithubert.data.manifest import Manifest
from fithubert.errors import UserError
from fithubert.files import read_json
from fithubert.pretrain import train
from fithubert.teachers.registry import load_teacher
from tests.teachers.test_hubert import tiny_config


@pytest.fixture
def params() -> PretrainParams:
    return PretrainParams(
        data={"source": "synthetic"},
        model=tiny_config(),
        iterations=(
            IterationParams(units=UnitParams(clusters=8, sample_frames=2000), updates=12),
            IterationParams(units=UnitParams(features=2, clusters=12, sample_frames=2000), updates=6),
        ),
        batch_seconds=6.0,
        crop_seconds=2.0,
        checkpoint_every_updates=4,
    )


def run(params: PretrainParams, corpus: Manifest, work: Path) -> dict[str, torch.Tensor]:
    folder = train.pretrain(params, corpus, work, torch.device("cpu"), lambda line: None)
    return load_file(folder / "model.safetensors")


def test_two_iterations_leave_a_teacher_and_a_record(
    params: PretrainParams, tiny_corpus: Manifest, tmp_path: Path
) -> None:
    run(params, tiny_corpus, tmp_path / "work")
    assert load_teacher(tmp_path / "work" / "teacher").widths == (24,) * 4
    record = read_json(tmp_path / "work" / "pretrain.json")
    assert [len(i["curve"]) for i in record["iterations"]] == [1, 1]
    assert 0 < record["iterations"][0]["units"]["phone_purity"] <= 1


def test_stopped_and_resumed_equals_never_stopped(
    params: PretrainParams, tiny_corpus: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(params, tiny_corpus, tmp_path / "whole")
    step = train._Training._step

    def stop_at_six(self: train._Training, crops: list[train.Crop]) -> torch.Tensor:
        if self.update == 6:
            raise KeyboardInterrupt
        return step(self, crops)

    with monkeypatch.context() as patch:
        patch.setattr(train._Training, "_step", stop_at_six)
        with pytest.raises(KeyboardInterrupt):
            run(params, tiny_corpus, tmp_path / "stopped")
    resumed = run(params, tiny_corpus, tmp_path / "stopped")
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name


def test_other_parameters_are_refused(params: PretrainParams, tiny_corpus: Manifest, tmp_path: Path) -> None:
    run(params, tiny_corpus, tmp_path / "work")
    with pytest.raises(UserError, match="other parameters"):
        run(params.model_copy(update={"seed": 2}), tiny_corpus, tmp_path / "work")


def test_pretraining_goes_on_from_a_teacher(params: PretrainParams, tiny_corpus: Manifest, tmp_path: Path) -> None:
    """At hardly any learning rate nothing changes: weights and mask embedding are taken over."""
    run(params, tiny_corpus, tmp_path / "first")
    start = tmp_path / "first" / "teacher"
    iteration = IterationParams(
        units=UnitParams(features=2, clusters=8, sample_frames=2000), updates=1, learning_rate=1e-12
    )
    going_on = params.model_copy(update={"start_from": str(start), "iterations": (iteration,)})
    after = run(going_on, tiny_corpus, tmp_path / "second")
    for name, tensor in load_file(start / "model.safetensors").items():
        torch.testing.assert_close(after[name], tensor, atol=1e-3, rtol=1e-3, msg=name)
    assert "mask_embedding" in after


def test_a_start_of_another_shape_is_refused(params: PretrainParams, tiny_corpus: Manifest, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a teacher of the recipe's model"):
        run(params.model_copy(update={"start_from": "mini"}), tiny_corpus, tmp_path / "work")


def test_units_of_a_layer_need_a_model(params: PretrainParams) -> None:
    values = params.model_dump(mode="json")
    values["iterations"] = values["iterations"][1:]
    with pytest.raises(UserError, match="units of layer 2 in the first one need start_from"):
        validate(PretrainParams, values, "recipe")
    values["start_from"], values["iterations"][0]["units"]["features"] = "mini", 9
    with pytest.raises(UserError, match=r"units\.features 9 is not mfcc or a layer 0\.\.3"):
        validate(PretrainParams, values, "recipe")
