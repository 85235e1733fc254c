"""The plan of a compression."""

from pathlib import Path

import pytest

from fithubert.config.teacher import hubert_base
from fithubert.data import Utterance
from fithubert.data.manifest import Manifest
from fithubert.frames import SAMPLE_RATE_HZ
from fithubert.importers import load_teacher
from fithubert.models.hubert import HubertTeacher
from fithubert.profile.compression import CompressOptions, plan_training


@pytest.mark.parametrize("large", [True, False])
def test_the_memory_of_a_large_cut_is_in_the_plan(large: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fithubert.profile.compression.model_speeds", lambda *_: [(10.0, "given"), (20.0, "given")])
    mini = load_teacher("mini")
    assert isinstance(mini, HubertTeacher)
    teacher, parameters = (hubert_base(), 94_370_816) if large else (mini.model.config, 5_798_528)
    spoken = [Utterance(split, "", "0", split, "sentence", 600 * SAMPLE_RATE_HZ) for split in ("train", "dev")]
    options = CompressOptions("hf:teacher", tmp_path, tmp_path, hours_budget=0.5)
    _, lines = plan_training(options, teacher, parameters, Manifest(tuple(spoken), tmp_path), lambda *_: None)
    memory = [line for line in lines if line.startswith("memory")]
    # 300 s of 512 channels of the teacher and 280 of the student, each 3,200 times a second.
    assert memory == (
        ["memory: about 3.04 GB besides the models, while the student is cut from the teacher"] if large else []
    )
