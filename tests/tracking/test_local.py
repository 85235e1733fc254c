"""The local record: complete whatever happens to the server or to the stage, and sent later as a whole."""

import os
import shutil
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mlflow")

from mlflow import MlflowClient

from fithubert.errors import without_password
from fithubert.files import read_json
from fithubert.tracking.local import RECORDS, Curve, complete_runs
from fithubert.tracking.runs import track_stage
from fithubert.tracking.sender import MetricPoint
from tests.tracking.fakes import METRICS, runs_of, track


def test_a_run_whose_server_died_in_the_middle_is_completed_later_with_its_curve(
    store: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as dying:

        def refuse(*_: Any, **__: Any) -> None:
            raise ConnectionError("the server has died")

        dying.setattr(MlflowClient, "log_batch", refuse)
        with track_stage("distill@thin", {}, tmp_path, METRICS, flush_seconds=60.0) as run:
            for step in range(5):
                run.log_metrics({"train_loss": 1.0 / (step + 1)}, step)
    (begun,) = runs_of(store)
    assert begun.info.status == "RUNNING"
    record = read_json(tmp_path / RECORDS / "distill@thin.json")
    assert (record["run_id"], record["complete"]) == (begun.info.run_id, False)
    assert complete_runs(tmp_path) == 1
    assert complete_runs(tmp_path) == 0
    (run_there,) = runs_of(store)
    assert run_there.info.status == "FINISHED"
    history = store.get_metric_history(run_there.info.run_id, "train_loss")
    assert [(point.step, point.value) for point in history] == [(step, 1.0 / (step + 1)) for step in range(5)]


def test_the_run_of_a_killed_stage_is_ended_as_killed(store: MlflowClient, tmp_path: Path) -> None:
    stage = (
        "import os, sys, time; from pathlib import Path; from fithubert.tracking.runs import track_stage\n"
        "with track_stage('profile', {}, Path(sys.argv[1]), Path('x.json')) as run:\n"
        "    while run.sender.session is None or run.sender.session.run_id is None: time.sleep(0.05)\n"
        "    time.sleep(0.5)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", stage, str(tmp_path)], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert [run.info.status for run in runs_of(store)] == ["RUNNING"]
    track(tmp_path)
    assert complete_runs(tmp_path) == 1
    assert sorted(run.info.status for run in runs_of(store)) == ["FINISHED", "KILLED"]


@pytest.mark.parametrize("file", [".tracking/distill@thin.json", "dvc.lock"])
def test_a_damaged_record_or_lock_stops_nothing(
    store: MlflowClient, tmp_path: Path, caplog: pytest.LogCaptureFixture, file: str
) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text('{"stage": [')
    track(tmp_path)
    complete_runs(tmp_path)
    assert len(runs_of(store)) == 1
    assert "not readable as" in caplog.text


@pytest.mark.slow
def test_two_first_stages_of_a_new_workspace_share_one_store(tmp_path: Path) -> None:
    stage = (
        "import sys; from pathlib import Path; from fithubert.tracking.runs import track_stage\n"
        "with track_stage(sys.argv[1], {}, Path(), Path('x.json'), flush_seconds=300.0): pass\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "MLFLOW_TRACKING_URI": ""}
    both = [
        subprocess.Popen([sys.executable, "-c", stage, name], cwd=tmp_path, env=environment, stderr=subprocess.PIPE)
        for name in ("profile", "superb")
    ]
    for process in both:
        _, words = process.communicate()
        assert (process.returncode, b"local record" in words) == (0, False), words
    assert len(runs_of(MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}"))) == 2
    assert not list(tmp_path.glob(".mlflow*"))


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://me:p[x@host/db", "postgresql://me:***@host/db"),
        ("postgresql://host/db?user=me&password=s3cret&x=1", "postgresql://host/db?user=me&password=***&x=1"),
        ("https://host/api?token=abc#part", "https://host/api?token=***#part"),
        ("failed (https://me:a@b@host:5000/): refused", "failed (https://me:***@host:5000/): refused"),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
        ("https://me@host", "https://me@host"),
    ],
)
def test_no_password_is_shown(address: str, shown: str) -> None:
    assert without_password(address) == shown


def test_a_store_that_lost_its_end_costs_a_warning_and_the_run_is_sent_to_the_next_one(
    store: MlflowClient, migrated: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "mlflow.db"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    track(tmp_path)
    assert len(caplog.records) == 1
    assert "local record" in caplog.text
    record = read_json(tmp_path / RECORDS / "distill@thin.json")
    assert (record["status"], record["complete"]) == ("FINISHED", False)
    shutil.copy(migrated, path)
    assert complete_runs(tmp_path) == 1
    (run,) = runs_of(store)
    assert (run.info.status, run.data.metrics["dev_loss"]) == ("FINISHED", 0.25)


def test_a_long_curve_takes_bounded_memory_and_keeps_its_last_point() -> None:
    curve = Curve()
    for step in range(100_000):
        curve.add(MetricPoint("loss", float("nan") if step == 7 else 1.0 / (step + 1), step, step))
    points = curve.points()
    assert 1000 < len(points) <= 2001
    steps = [step for *_, step in points]
    assert (steps[0], steps[-1]) == (0, 99_999)
    assert len({later - step for step, later in pairwise(steps[1:-1])}) == 1
