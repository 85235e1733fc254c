"""`fithubert pretrain`: from any corpus, on any device that exists, and every recipe of experiments/pretrain."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from fithubert.config.base import validate
from fithubert.config.params import Params
from fithubert.config.pretrain import load_pretrain_params
from fithubert.config.teacher import hubert_base
from fithubert.data.manifest import Manifest
from fithubert.errors import UserError
from fithubert.files import read_json
from fithubert.importers import load_teacher
from fithubert.pretrain import pretrain_recipe
from tests.models.test_hubert import CONV
from tests.pretrain.tiny_run import tiny_params

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "experiments" / "pretrain").glob("*.yaml"))


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
    teacher = pretrain_recipe(_recipe(tmp_path, recordings), out)
    assert teacher == out / "teacher"
    said = capsys.readouterr().err
    assert "pretrain: iteration 1: 8 units of mfcc: no phones to compare" in said
    assert read_json(out / "pretrain.json")["iterations"][0]["units"] is None
    # The same speech, prepared, is the same corpus: the run is known to be finished.
    assert pretrain_recipe(_recipe(tmp_path, {"source": "manifest", "path": str(out / "data")}), out) == teacher
    assert "finished before" in capsys.readouterr().err


def test_mistakes_take_one_line(tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, {"source": "manifest", "path": str(tmp_path / "nowhere")})
    with pytest.raises(
        UserError, match=r"nowhere/manifests/corpus\.parquet: no such manifest; run `fithubert prepare`"
    ):
        pretrain_recipe(recipe, tmp_path / "out", "cpu")
    with pytest.raises(UserError, match="device 'tpu': not one of auto, cpu, cuda"):
        pretrain_recipe(recipe, tmp_path / "out", "tpu")


def test_only_pretraining_takes_a_prepared_corpus() -> None:
    values = {"data": {"source": "manifest", "path": "data"}, "students": {}, "superb": {"models": []}}
    with pytest.raises(UserError, match="manifest"):
        validate(Params, values, "params.yaml")


def _shrink(values: dict[str, Any], corpus: Manifest) -> dict[str, Any]:
    """The recipe with small widths, clusters and numbers of updates, on a corpus that lies elsewhere."""
    values["data"] = {"source": "manifest", "path": str(corpus.root)}
    shape = {"conv_layers": [list(layer) for layer in CONV], "width": 32, "ffn_width": 32, "attention_heads": 2}
    values["model"] = {**values["model"], **shape, "depth": 2}
    values.pop("start_from", None)  # a teacher of the full size
    values["batch_seconds"] = min(values["batch_seconds"], 60.0)
    for iteration in values["iterations"]:
        features = 1 if isinstance(iteration["units"]["features"], int) else "mfcc"
        iteration["units"] |= {"clusters": 5, "sample_frames": 2000, "features": features}
        iteration["updates"] = 1
        if "speakers" in iteration:
            iteration["speakers"]["layer"] = 1
    return values


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_valid_and_takes_an_update(recipe: Path, tiny_corpus: Manifest, tmp_path: Path) -> None:
    params = load_pretrain_params(recipe)
    small = tmp_path / "small.yaml"
    small.write_text(yaml.safe_dump(_shrink(yaml.safe_load(recipe.read_text()), tiny_corpus)))
    teacher = load_teacher(pretrain_recipe(small, tmp_path / "out", "cpu"))
    assert teacher.name == params.name
    assert len(teacher.widths) == 3


def test_hubert_base_is_the_published_one() -> None:
    params = load_pretrain_params(ROOT / "experiments" / "pretrain" / "hubert_base.yaml")
    assert params.model == hubert_base()
    assert [i.updates for i in params.iterations] == [250_000, 400_000]
    assert params.batch_seconds / params.passes == 87.5
    assert params.mask_probability / params.mask_frames == pytest.approx(0.08)
    assert {"mini", "hubert_base"} <= {path.stem for path in RECIPES}
