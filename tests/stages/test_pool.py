"""`fithubert pool`: a report over the seeds of several runs, which leaves the runs as they are."""

from dataclasses import replace
from pathlib import Path

import pytest

from fithubert.cli import app
from fithubert.config.params import load_params
from fithubert.errors import UserError
from fithubert.files import read_json
from fithubert.records import ModelScores, load_summary
from fithubert.stages.pool import pool
from fithubert.workspace import Workspace
from tests.report.sample import MODELS, write_metrics

ROOT = Path(__file__).parents[2]


def make_run(root: Path, seed: int) -> Workspace:
    run = Workspace(root)
    write_metrics(run.reports)
    for model in MODELS:
        path = run.metrics(f"superb@{model}")
        scores = ModelScores.read(path)
        tasks = {name: score if score.reason else replace(score, seeds=(seed,)) for name, score in scores.tasks.items()}
        replace(scores, tasks=tasks).write(path)
    return run


def test_the_summary_has_the_seeds_of_all_runs_and_a_second_call_replaces_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [make_run(tmp_path / f"seed{seed}", seed) for seed in (1, 2, 3)]
    runs[2].metrics("superb@distilhubert").unlink()
    params = load_params(ROOT / "params.yaml")
    for _ in range(2):
        files = pool(params, runs, tmp_path / "pooled")
        assert "left out: distilhubert\n" in capsys.readouterr().out
    summary = load_summary(files.summary)
    assert summary.models["fithubert"].seeds["pr"] == (1, 2, 3)
    assert {of.seeds for of in summary.paired} == {(1, 2, 3)}
    assert "distilhubert" not in {of.model for of in summary.paired}
    assert files.page.is_file()
    profile = read_json(runs[0].metrics("profile"))
    assert summary.models["fithubert"].latency_ratio == profile["models"]["fithubert"]["latency_ratio"]


def test_a_folder_of_somebody_else_stays(tmp_path: Path) -> None:
    (tmp_path / "pooled").mkdir()
    (tmp_path / "pooled" / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"holds 'thesis\.tex'"):
        pool(load_params(ROOT / "params.yaml"), [make_run(tmp_path / "seed1", 1)], tmp_path / "pooled")


def test_a_run_that_does_not_exist_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        app(["pool", str(tmp_path / "nothing"), "--out", str(tmp_path / "out")])
    assert stopped.value.code == 1
    assert "nothing/params.yaml: no such file" in capsys.readouterr().err
