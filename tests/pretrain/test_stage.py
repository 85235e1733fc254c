"""`fithubert pretrain`: from any corpus and on any device that is there."""

from pathlib import Path

import pytest
import yaml

from fithubert.config.base import validate
from fithubert.config.params import Params
from fithubert.data.manifest import Manifest
from fithubert.errors import UserError
from fithubert.files import read_json
from fithubert.stages.pretrain import pretrain
from tests.pretrain.tiny_run import tiny_params


def _recipe(folder: Path, data: dict[str, object]) -> Path:
    values = tiny_params(iterations=tiny_params().iterations[:1]).model_dump(mode="json")
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**values, "data": data}))
    return path


def test_a_folder_of_recordings_and_a_prepared_corpus_are_corpora(
    tiny_corpus: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recordings = {"source": "folder", "path": str(tiny_corpus.root / "audio"), "dev_share": 0.2, "test_share": 0.2}
    out = tmp_path / "out"
    teacher = pretrain(_recipe(tmp_path, recordings), out)
    assert teacher == out / "teacher"
    said = capsys.readouterr().err
    assert "pretrain: iteration 1: 8 units of mfcc: no phones to compare" in said
    assert read_json(out / "pretrain.json")["iterations"][0]["units"] is None
    # The same speech, prepared, is the same corpus: the run is known to be finished.
    assert pretrain(_recipe(tmp_path, {"source": "manifest", "path": str(out / "data")}), out) == teacher
    assert "finished before" in capsys.readouterr().err


def test_mistakes_take_one_line(tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, {"source": "manifest", "path": str(tmp_path / "nowhere")})
    with pytest.raises(
        UserError, match=r"nowhere/manifests/corpus\.parquet: no such manifest; run `fithubert prepare`"
    ):
        pretrain(recipe, tmp_path / "out", "cpu")
    with pytest.raises(UserError, match="device 'tpu': not one of auto, cpu, cuda"):
        pretrain(recipe, tmp_path / "out", "tpu")


def test_only_pretraining_takes_a_prepared_corpus() -> None:
    values = {"data": {"source": "manifest", "path": "data"}, "students": {}, "superb": {"models": []}}
    with pytest.raises(UserError, match="manifest"):
        validate(Params, values, "params.yaml")
