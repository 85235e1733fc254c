"""The stage `report` in a workspace whose parameters have changed."""

from copy import deepcopy
from pathlib import Path

import pytest

from fithubert.config.base import validate
from fithubert.config.params import Params
from fithubert.records import load_summary
from fithubert.stages.report import report
from fithubert.workspace import Workspace
from tests.report.sample import write_metrics
from tests.tiny_params import STUDENT, TINY_PARAMS


def test_metrics_of_a_student_that_the_parameters_no_longer_have_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr("fithubert.tracking.sender.mlflow_installed", lambda: False)
    write_metrics(tmp_path / "reports")
    values = deepcopy(TINY_PARAMS) | {"students": {"fithubert": STUDENT}, "ablation": {}}
    values["superb"] |= {"models": ["fbank", "teacher", "fithubert"], "controls": {}}
    before = {path.stem for path in (tmp_path / "reports/metrics/superb").glob("*.json")}
    assert before > {"fbank", "teacher", "fithubert"}
    files = report(validate(Params, values, "test"), Workspace(tmp_path))
    summary = load_summary(files.summary)
    assert {name for name, model in summary.models.items() if model.superb} == {"fbank", "teacher", "fithubert"}
    left_out = ", ".join(sorted(before - {"fbank", "teacher", "fithubert"}))
    assert f"left out, since neither params.yaml nor a student here has the name: {left_out}" in capsys.readouterr().out
