"""One word per stage: dvc.yaml, pipeline/, fithubert/stages, the commands, params and the folders of results agree."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("typer")

from fithubert.cli import COMMANDS
from fithubert.config.params import Params, load_params
from fithubert.stages import list_stages
from fithubert.workspace import metrics_file

ROOT = Path(__file__).parents[2]
ENTRIES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
LISTED = dict.fromkeys(name.partition("@")[0] for name in list_stages(load_params(ROOT / "params.yaml")))
STAGES = [name for name in LISTED if name not in ("extract_student", "superb_control")]
SWEEP = yaml.safe_load((ROOT / "experiments" / "width_depth" / "dvc.yaml").read_text())["stages"]


def test_dvc_has_the_stages_in_their_order() -> None:
    # DVC cannot choose the dependencies of a stage by item, so students and controls have entries of their own.
    assert list(ENTRIES) == list(LISTED)
    assert list(SWEEP) == ["sweep"]


@pytest.mark.parametrize("stage", [*STAGES, "sweep"])
def test_a_stage_has_one_word_in_every_place(stage: str) -> None:
    assert (ROOT / "pipeline" / f"{stage}.py").is_file()
    assert (ROOT / "fithubert" / "stages" / f"{stage}.py").is_file()
    assert (ROOT / "fithubert" / "cli" / f"{stage}.py").is_file()
    assert stage in {command for commands in COMMANDS.values() for command in commands}
    assert ("data" if stage == "prepare" else stage) in Params.model_fields


@pytest.mark.parametrize(("name", "entry"), [*ENTRIES.items(), *SWEEP.items()])
def test_a_stage_runs_its_file_and_writes_its_metrics(name: str, entry: dict[str, dict[str, object]]) -> None:
    stage = name.removesuffix("_student").removesuffix("_control")
    body = entry.get("do", entry)
    assert str(body["cmd"]).split()[:3] == ["python", "-m", f"pipeline.{stage}"]
    for metrics in body.get("metrics", ()):  # type: ignore[attr-defined]
        (path,) = metrics
        own_file = path == f"reports/metrics/{stage}.json"
        assert own_file or path.startswith(f"reports/metrics/{stage}/") or path == "reports/summary.json"


@pytest.mark.parametrize(("name", "entry"), [*ENTRIES.items(), *SWEEP.items()])
def test_a_stage_depends_on_sections_that_exist(name: str, entry: dict[str, dict[str, list[str]]]) -> None:
    params: list[str] = entry.get("do", entry)["params"]  # type: ignore[assignment]
    assert {param.partition(".")[0] for param in params} <= set(Params.model_fields)


def test_metrics_files_are_named_after_their_stages() -> None:
    assert metrics_file("distill@thin") == Path("reports/metrics/distill/thin.json")
    assert metrics_file("prepare") == Path("reports/metrics/prepare.json")


def test_pipeline_has_one_thin_file_per_stage() -> None:
    files = {path.stem: len(path.read_text().splitlines()) for path in (ROOT / "pipeline").glob("*.py")}
    assert set(files) == {*STAGES, "sweep", "compose", "__init__"}
    assert max(files[stage] for stage in (*STAGES, "sweep")) <= 30


def test_presets_are_groups_of_sections() -> None:
    groups = {path.name for path in (ROOT / "experiments" / "presets").iterdir() if path.is_dir()}
    assert groups - {"budget"} <= set(Params.model_fields)


def test_compose_says_how_it_is_used_and_writes_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline.compose", "--help"]
    said = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert (said.returncode, list(tmp_path.iterdir())) == (0, [])
    assert "python -m pipeline.compose [GROUP=NAME | KEY=VALUE ...]" in said.stdout
