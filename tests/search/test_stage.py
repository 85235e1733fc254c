"""A real sweep of tiny trials, from the corpus to an entry of `params.students` that trains."""

from pathlib import Path

import pytest
import yaml

from fithubert.config.params import Params
from fithubert.config.search import SpaceParams, SweepParams, TrialBudget, trial_budget
from fithubert.errors import UserError
from fithubert.importers import load_teacher
from fithubert.models.weights import save_teacher
from fithubert.search.front import FILES
from fithubert.stages.cache import cache
from fithubert.stages.distill import distill
from fithubert.stages.sweep import REPORT, SweepOptions, report_sweep, sweep
from fithubert.workspace import Workspace
from tests.search.fakes import SPEED, STUDENT


def _params() -> Params:
    space = SpaceParams(
        depth=(2, 3), width=(12, 24), ffn_width=(24,), attention_heads=(4,), front_end=(1.0,), readout=("last",)
    )
    budget = TrialBudget(
        updates=2, dev_every_updates=1, init_seconds=4, tasks={"pr": trial_budget("pr", steps=2, eval_every=2)}
    )
    student = STUDENT.model_copy(update={"init": "cut_teacher", "init_seconds": 4})
    return Params.model_validate(
        {
            "data": {"source": "synthetic"},
            "students": {"fithubert": student.model_dump()},
            "teacher": {"probe_utterances": 0},
            "distill": {"updates": 1, "batch_seconds": 8, "crop_seconds": 4, "dev_every_updates": 1},
            "superb": {"models": ["teacher"], "tasks": {}},
            "sweep": SweepParams(trials=2, space=space, budget=budget).model_dump(mode="json"),
        }
    )


def test_a_real_sweep_ends_in_a_student_that_trains(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fithubert.stages.sweep.measure_speed", lambda *_: SPEED)
    save_teacher(load_teacher("mini"), workspace.teacher)
    params = _params()
    cache(params, workspace)
    result = sweep(params, workspace, SweepOptions(workers=1))
    assert len(result.points) == 2
    assert result.reference is not None
    assert (result.reference.student, result.reference.trial) == ("fithubert", None)
    assert result.reference.params == sum(p.numel() for p in load_teacher("mini").model.parameters())
    assert all(set(point.values) == {"pr", "macs_per_second"} and len(point.curve) == 3 for point in result.points)
    assert {path.name for path in (tmp_path / REPORT).iterdir()} == set(FILES)
    _check_tracked(len(result.points))
    entries = yaml.safe_load((tmp_path / REPORT / "best.yaml").read_text())
    best = result.front[0].name
    changes = {"students": entries, "sweep": {"of": best}}
    pasted = Params.model_validate(params.model_dump(mode="json") | changes)
    assert distill(pasted, workspace, best).updates == 1
    assert report_sweep(workspace, "default") == result
    with pytest.raises(UserError, match="default"):
        report_sweep(workspace, "other")


def _check_tracked(trials: int) -> None:
    """The study has one run with its files, and every trial has one nested run with its curve."""
    from mlflow import MlflowClient

    client = MlflowClient()
    runs = client.search_runs([client.get_experiment_by_name("fithubert").experiment_id])
    [study] = [run for run in runs if run.data.tags["kind"] == "sweep"]
    nested = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == study.info.run_id]
    assert len(nested) == trials
    assert study.info.status == "FINISHED"
    assert {file.path for file in client.list_artifacts(study.info.run_id)} == set(FILES)
    for run in nested:
        assert len(client.get_metric_history(run.info.run_id, "dev_loss_last_head")) == 3  # update 0 too
        assert {"pr", "params", "macs_per_second"} <= set(run.data.metrics)
