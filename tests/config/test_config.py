"""params.yaml, its presets, and what a wrong value is told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fithubert.config.params import Params, load_params
from fithubert.config.superb import official_budgets
from fithubert.errors import UserError
from fithubert.models.recipes import resolve
from fithubert.workspace import load_checked
from pipeline.compose import compose

ROOT = Path(__file__).parents[2]
#: The published experiment.
PAPER = ["data=librispeech_960", "data.path=/corpora", "teacher=hubert_base", "students=paper", "budget=paper_960h"]


def test_params_yaml_is_the_default_composition() -> None:
    pytest.importorskip("hydra")
    assert yaml.safe_load((ROOT / "params.yaml").read_text()) == yaml.safe_load(compose([]))


@pytest.mark.parametrize(
    "overrides",
    [
        ["data=tiny", "budget=demo"],
        ["students=paper", "budget=demo"],
        ["students=pruned", "budget=demo"],
        ["data=folder", "data.path=/recordings"],
        ["distill.updates=7"],
        PAPER,
    ],
)
def test_other_compositions_are_valid(overrides: list[str], tmp_path: Path) -> None:
    pytest.importorskip("hydra")
    written = tmp_path / "params.yaml"
    written.write_text(compose(overrides))
    assert isinstance(load_params(written), Params)


def test_the_official_preset_departs_in_nothing_from_the_protocol(tmp_path: Path) -> None:
    pytest.importorskip("hydra")
    written = tmp_path / "params.yaml"
    written.write_text(compose(["superb=official"]))
    assert load_params(written).superb.tasks == official_budgets()


@pytest.mark.parametrize("preset", sorted(p.stem for p in (ROOT / "experiments" / "presets" / "data").glob("*.yaml")))
def test_every_data_preset_is_valid_and_asks_for_what_it_needs(preset: str) -> None:
    pytest.importorskip("hydra")
    if "path: ???" in (ROOT / "experiments" / "presets" / "data" / f"{preset}.yaml").read_text():
        with pytest.raises(UserError, match=r"data\.[a-z0-9_]+\.path: name the folder of"):
            compose([f"data={preset}"])
        compose([f"data={preset}", "data.path=/corpora"])
    else:
        compose([f"data={preset}"])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data=folder"], "name the folder of recordings"),
        (["data=nowhere"], "nowhere"),
        (["distill.update=7"], "update"),
    ],
)
def test_a_wrong_composition_is_one_line(overrides: list[str], said: str) -> None:
    pytest.importorskip("hydra")
    with pytest.raises(UserError, match=said) as error:
        compose(overrides)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("overrides", "width"), [([], 192), (["students=hints"], 192), (PAPER, 768)])
def test_every_student_can_be_built_and_fits_the_teacher(overrides: list[str], width: int, tmp_path: Path) -> None:
    pytest.importorskip("hydra")
    (tmp_path / "params.yaml").write_text(compose(overrides))
    for student in load_params(tmp_path / "params.yaml").students.values():
        assert resolve(student.recipe, student.shape).heads.teacher_width == width


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("distill.updats=5", r"distill.updats: unknown key; valid keys: targets, seed"),
        ("students.fithubert.distill={seed: 5}", r"students.fithubert: distill.seed: not a setting of one student"),
        (
            "students.fithubert.distill={crop_seconds: -1}",
            r"distill.crop_seconds: .*greater than 0",
        ),
        ("distill.augment.noise_db=[9, 5]", r"distill.augment: noise_db: the first bound is above the second"),
        ("distill.updates=-5", r"distill.updates: .*greater than or equal to 0"),
        ("superb.tasks.pr.steps=many", r"superb.tasks.pr.steps"),
        ("data.hours=none", r"data.synthetic.hours"),
        ("nothing.here=1", r"nothing: unknown key; valid keys: data, teacher"),
        ("distill.updates", r"KEY=VALUE"),
        ("distill.updates=[", r"YAML"),
    ],
)
def test_a_wrong_change_is_one_line(change: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        load_params(ROOT / "params.yaml", [change])
    assert "\n" not in str(error.value)


def test_a_file_is_read_as_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    assert "{title: fithubert}" in text
    text = "# \u00c4nderung\n" + text.replace("{title: fithubert}", "{title: \u00c4nderung}")
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    program = "from fithubert.config.params import load_params; print(ascii(load_params('params.yaml').report.title))"
    plain = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env={**os.environ, **plain}, capture_output=True, text=True
    )
    assert done.stdout == "'\\xc4nderung'\n", done.stderr


def test_a_change_may_name_a_section_that_the_file_leaves_out(tmp_path: Path) -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    del values["sweep"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    assert load_params(tmp_path / "params.yaml", ["sweep.space.depth=[2, 3]"]).sweep.space.depth == (2, 3)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ({"width": -8}, "width"),
        ({"attention_heads": 7}, "does not divide width"),
        ({"widht": 96}, "widht: unknown key; valid keys: conv_layers"),
        ({"time_reduction": {"kind": "conv3d"}}, "conv1d"),
    ],
)
def test_a_wrong_student_is_one_line(shape: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        resolve("fithubert", shape)
    assert "\n" not in str(error.value)


def test_changes_replace_what_the_file_says() -> None:
    params = load_params(ROOT / "params.yaml", ["distill.updates=5", "data={source: folder, path: /tmp}"])
    assert params.distill.updates == 5
    assert params.data.source == "folder"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("students={'..': {recipe: fithubert}}", "is no name: use letters"),
        ("students={../../thesis: {recipe: fithubert}}", "is no name: use letters"),
        ("students={teacher: {recipe: fithubert}}", r"students\.teacher: the name of another model"),
        ("ablation={..: {of: fithubert, variants: {a: {}, b: {}}}}", "is no name: use letters"),
        ("superb.models=[nobody]", "superb.models: 'nobody' is not one of fbank, teacher, fithubert"),
        ("report.best_recipe=nobody", "report.best_recipe: 'nobody' is not one of fithubert"),
        ("superb.seeds=[-1]", "greater than or equal to 0"),
        ("distill.seed=10000000000000000000000", "out of range"),
        ("distill.betas=[2, 3]", "less than 1"),
        ("distill.batch_seconds=.inf", "finite number"),
        ("superb.tasks.pr.learning_rates=[.inf]", "finite number"),
        ("profile.threads=100000000", "less than or equal to 1024"),
        ("profile.seconds=[1e-9]", "greater than or equal to 0.1"),
        (
            "students.fithubert.shape.width=121",
            "students.fithubert: recipe fithubert: attention_heads 12",
        ),
        ("students.fithubert.shape.heads=3", "students.fithubert: recipe fithubert: heads: "),
        ("students.fithubert.recipe=big", "students.fithubert: recipe 'big': not one of"),
        ("distill.seed=2001-99-99", "not readable as YAML"),
        ("distill.seed=!!timestamp x", "not readable as YAML"),
        (f"ablation.time_reduction.of='{'9' * 2000}'", r"9{100}\.\.\. is not one of fithubert, "),
        (f"ablation.time_reduction.of='{'9 ' * 2000}'", "ablation.time_reduction.of: '9 9"),
    ],
)
def test_a_wrong_value_is_found_when_parameters_are_loaded(change: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        load_checked(ROOT / "params.yaml", [change])
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 800


@pytest.mark.parametrize("text", ["[" * 1200, "9" * 5000, "2001-99-99", "!!timestamp x", "!!int x", "- 1", "a: b: c"])
def test_a_file_that_is_no_mapping_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(UserError, match=r"params\.yaml: (not readable as YAML|must hold a mapping)") as error:
        load_params(tmp_path / "params.yaml")
    assert "\n" not in str(error.value)
