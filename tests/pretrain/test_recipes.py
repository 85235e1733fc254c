"""Every recipe of experiments/pretrain is valid and, with its sizes shrunk, makes a teacher."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from fithubert.config.pretrain import load_pretrain_params
from fithubert.config.teacher import hubert_base
from fithubert.data.manifest import Manifest
from fithubert.importers.registry import load_teacher
from fithubert.stages.pretrain import pretrain
from tests.models.test_hubert import CONV

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "experiments" / "pretrain").glob("*.yaml"))


def _shrink(values: dict[str, Any], corpus: Manifest) -> dict[str, Any]:
    """The recipe with small widths, clusters and numbers of updates, on a corpus that lies elsewhere."""
    values["data"] = {"source": "manifest", "path": str(corpus.root)}
    shape = {"conv_layers": [list(layer) for layer in CONV], "width": 32, "ffn_width": 32, "attention_heads": 2}
    values["model"] = {**values["model"], **shape, "depth": 2}
    values["batch_seconds"] = min(values["batch_seconds"], 60.0)
    for iteration in values["iterations"]:
        features = 1 if isinstance(iteration["units"]["features"], int) else "mfcc"
        iteration["units"] |= {"clusters": 5, "sample_frames": 2000, "features": features}
        iteration["updates"] = 1
    return values


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_valid_and_takes_an_update(recipe: Path, tiny_corpus: Manifest, tmp_path: Path) -> None:
    params = load_pretrain_params(recipe)
    small = tmp_path / "small.yaml"
    small.write_text(yaml.safe_dump(_shrink(yaml.safe_load(recipe.read_text()), tiny_corpus)))
    teacher = load_teacher(pretrain(small, tmp_path / "out", "cpu"))
    assert teacher.name == params.name
    assert len(teacher.widths) == 3


def test_hubert_base_is_the_published_one() -> None:
    params = load_pretrain_params(ROOT / "experiments" / "pretrain" / "hubert_base.yaml")
    assert params.model == hubert_base()
    assert [i.updates for i in params.iterations] == [250_000, 400_000]
    assert params.batch_seconds / params.passes == 87.5
    assert params.mask_probability / params.mask_frames == pytest.approx(0.08)


def test_there_are_recipes() -> None:
    assert {"mini", "hubert_base"} <= {path.stem for path in RECIPES}
