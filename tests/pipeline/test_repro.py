"""The whole pipeline on a tiny budget through DVC: complete, idle if nothing changed, and correct after SIGKILL."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from fithubert.files import read_json
from fithubert.models.weights import save_teacher
from tests.fakes import tiny_hubert
from tests.tiny_params import STUDENT, TINY_PARAMS

pytest.importorskip("dvc")
pytest.importorskip("espeakng_loader")

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
#: Keys of metrics that measure time.
CLOCK = {"seconds", "wait_share"}


def command(*arguments: str) -> tuple[list[str], dict[str, str]]:
    """A DVC command, and an environment with this `python` first and without a tracking server."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DVC_NO_ANALYTICS": "true",
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("MLFLOW_TRACKING_URI", None)
    return [sys.executable, "-m", "dvc", *arguments], environment


def dvc(workspace: Path, *arguments: str, status: int = 0) -> str:
    line, environment = command(*arguments)
    done = subprocess.run(line, env=environment, cwd=workspace, capture_output=True, text=True)
    assert done.returncode == status, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def kill_when(workspace: Path, stage: str, begun: Callable[[], bool]) -> None:
    """Start a stage through DVC and kill it with all its processes as soon as `begun()` is true."""
    line, environment = command("repro", "--single-item", stage)
    with subprocess.Popen(
        line,
        env=environment,
        cwd=workspace,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        while not begun():
            try:
                process.wait(0.02)
            except subprocess.TimeoutExpired:
                continue
            pytest.fail(f"{stage} ended before it could be killed")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def write_params(workspace: Path, params: dict[str, Any]) -> None:
    (workspace / "params.yaml").write_text(yaml.safe_dump(params))


def facts(values: Any) -> Any:
    """`values` without measured times."""
    if isinstance(values, dict):
        return {key: facts(value) for key, value in values.items() if key not in CLOCK}
    return [facts(value) for value in values] if isinstance(values, list) else values


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace after `dvc repro`, with its output in repro.log. Do not change it."""
    workspace = tmp_path_factory.mktemp("repro")
    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, workspace / name)
    for name in ("fithubert", "pipeline"):
        shutil.copytree(ROOT / name, workspace / name, ignore=shutil.ignore_patterns("__pycache__", "mini"))
    # `dvc repro` must work without a sweep.
    (workspace / "experiments" / "width_depth").mkdir(parents=True)
    shutil.copy(ROOT / "experiments/width_depth/dvc.yaml", workspace / "experiments/width_depth")
    save_teacher(tiny_hubert(), workspace / "tiny_teacher")
    write_params(workspace, TINY_PARAMS)
    dvc(workspace, "init", "--no-scm", "--quiet")
    (workspace / "repro.log").write_text(dvc(workspace, "repro"))
    return workspace


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished workspace, to change."""
    return Path(shutil.copytree(finished, tmp_path / "copy", symlinks=True))


def test_the_pipeline_ends_with_a_report_of_every_model(finished: Path) -> None:
    summary = read_json(finished / "reports" / "summary.json")
    assert {"fbank", "thin", "teacher"} <= set(summary["models"])
    thin = summary["models"]["thin"]
    assert {"per"} <= set(thin["superb"]["pr"])
    assert summary["controls"] == ["teacher_cut2"]
    gate = summary["depth_gate"]
    per = {name: summary["models"][name]["superb"]["pr"]["per"] for name in ("teacher", "teacher_cut2")}
    assert (gate["per_all"], gate["per_first_two"]) == (per["teacher"], per["teacher_cut2"])
    assert gate["points"] == pytest.approx(per["teacher_cut2"] - per["teacher"])
    assert gate["best_layer"] in range(3)
    pairs = {(pair["model"], pair["against"]): pair for pair in summary["paired"] if pair["task"] == "pr"}
    assert set(pairs) == {(a, b) for a in summary["models"] for b in ("teacher", "thin") if a != b}
    assert pairs["thin", "teacher"]["difference"] == pytest.approx(thin["superb"]["pr"]["per"] - per["teacher"])
    assert 0 < thin["size_ratio"] < 1
    assert thin["params"]["total"] == thin["params"]["trunk"] + thin["params"]["readout"]
    page = (finished / "reports" / "index.html").read_text()
    assert "thin" in page
    assert "not run" in page.split('<section id="sweep">')[1].split("</section>")[0]
    assert not (finished / "artifacts" / "sweeps").exists()
    assert set(summary["seconds"]) >= {"prepare", "teacher", "cache", "distill@thin", "superb@thin"}


def test_every_stage_prints_its_number_and_superb_its_scores(finished: Path) -> None:
    printed = (finished / "repro.log").read_text()
    numbers = [(int(number), int(total)) for number, total in re.findall(r"^stage (\d+) of (\d+): ", printed, re.M)]
    assert numbers == [(number, 15) for number in range(1, 16)]
    assert "\nstage 10 of 15: superb fbank\n" in printed
    assert re.search(r"^thin pr: PER \d+\.\d+ \[", printed, re.M)


def test_a_command_is_the_same_run_as_its_stage(copy: Path) -> None:
    record = copy / ".tracking" / "superb@thin.json"
    before = read_json(record)
    record.unlink()
    environment = {**command()[1], "PYTHONPATH": str(copy)}
    done = subprocess.run(
        [sys.executable, "-m", "fithubert", "superb", "thin"], env=environment, cwd=copy, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    after = read_json(record)
    assert [after[key] for key in ("stage", "status", "params")] == [
        before[key] for key in ("stage", "status", "params")
    ]
    assert facts(after["metrics"]) == facts(before["metrics"])


def test_every_tracked_stage_is_a_run_with_the_hashes_of_dvc_lock(finished: Path) -> None:
    records = {path.stem: read_json(path) for path in (finished / ".tracking").glob("*.json")}
    assert set(records) == {
        "ablation@time_reduction",
        "distill@thin",
        "profile",
        "superb@fbank",
        "superb@teacher",
        "superb@thin",
        "superb_control@teacher_cut2",
        "depth",
    }
    lock = yaml.safe_load((finished / "dvc.lock").read_text())["stages"]
    for stage, record in records.items():
        hashes = {f"dvc.deps.{dep['path']}": dep["md5"] for dep in lock[stage]["deps"]}
        hashes |= {f"dvc.outs.{out['path']}": out["md5"] for out in lock[stage]["outs"]}
        assert hashes.items() <= record["tags"].items()


def test_a_second_repro_runs_nothing(finished: Path) -> None:
    assert "Data and pipelines are up to date" in dvc(finished, "repro")


def test_another_student_reruns_nothing_of_the_first(copy: Path) -> None:
    wide = {**STUDENT, "shape": {**STUDENT["shape"], "ffn_width": 12}}  # type: ignore[dict-item]
    write_params(copy, {**TINY_PARAMS, "students": {"thin": STUDENT, "wide": wide}})
    changed = set(json.loads(dvc(copy, "status", "--json", "dvc.yaml")))
    assert {"distill@wide", "profile", "report"} <= changed
    assert not changed & {"prepare", "teacher", "cache", "distill@thin", "extract@fbank", "superb@thin"}


def test_another_variant_is_trained_and_the_others_are_kept(copy: Path) -> None:
    trials = copy / "artifacts" / "ablation" / "time_reduction"
    before = {path: path.read_text() for path in trials.rglob("trial.json")}
    assert {path.parent.parent.name for path in before} == {"none", "conv1d_x2"}
    ablation = TINY_PARAMS["ablation"]["time_reduction"]  # type: ignore[index]
    variants = {**ablation["variants"], "mean_x2": {"shape": {"time_reduction": {"kind": "mean"}}}}
    del variants["none"]
    write_params(copy, {**TINY_PARAMS, "ablation": {"time_reduction": {**ablation, "variants": variants}}})
    assert set(json.loads(dvc(copy, "status", "--json", "dvc.yaml"))) == {"ablation@time_reduction", "report"}
    dvc(copy, "repro", "ablation@time_reduction")
    after = {path: path.read_text() for path in trials.rglob("trial.json")}
    assert {path.parent.parent.name for path in after} == {"conv1d_x2", "mean_x2"}
    # The same measured seconds: it was not trained again.
    assert all(after[path] == before[path] for path in after if path in before)
    compared = read_json(copy / "reports" / "metrics" / "ablation" / "time_reduction.json")
    assert set(compared["comparisons"]["dev_loss"]["means"]) == {"conv1d_x2", "mean_x2"}


def test_a_misspelt_parameter_stops_the_stage_with_one_line(copy: Path) -> None:
    write_params(copy, {**TINY_PARAMS, "cache": {**TINY_PARAMS["cache"], "codek": "int8"}})  # type: ignore[dict-item]
    printed = dvc(copy, "repro", "--single-item", "cache", status=255)
    assert "error: params.yaml: cache.codek: unknown key; valid keys: codec" in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("stage", ["prepare", "cache", "distill@thin"])
def test_a_killed_stage_gives_the_same_when_it_is_run_again(stage: str, finished: Path, copy: Path) -> None:
    outputs = {
        "prepare": ("data/audio", "data/manifests"),
        "cache": ("data/cache",),
        "distill@thin": ("artifacts/students/thin",),
    }[stage]
    room, _, item = stage.partition("@")
    metrics = f"reports/metrics/{room}/{item}.json" if item else f"reports/metrics/{room}.json"
    for output in (*outputs, ".dvc/cache"):
        shutil.rmtree(copy / output)
    (copy / metrics).unlink()
    traces = {
        "prepare": "data/.audio.*.part/*/*/*.flac",
        "cache": "data/cache/train/shard-*.parquet",
        "distill@thin": "artifacts/checkpoints/thin/update-*.pt",
    }
    kill_when(copy, stage, lambda: any(copy.glob(traces[stage])))
    assert not (copy / metrics).exists()
    dvc(copy, "repro", "--single-item", stage)
    assert facts(read_json(copy / metrics)) == facts(read_json(finished / metrics))
    lock, reference = (yaml.safe_load((w / "dvc.lock").read_text())["stages"][stage] for w in (copy, finished))
    hashes = [
        {out["path"]: out["md5"] for out in entry["outs"] if out["path"] in outputs} for entry in (lock, reference)
    ]
    assert hashes[0] == hashes[1]
    assert not list(copy.glob("data/.audio.*"))
    assert not (copy / "artifacts/checkpoints/thin").exists()
