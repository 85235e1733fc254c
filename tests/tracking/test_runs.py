"""Tracked runs: complete in the store and in the local record, and harmless where the server is not."""

import hashlib
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs

import pytest
import yaml

pytest.importorskip("mlflow")

from mlflow import MlflowClient

from fithubert.files import read_json, write_json
from fithubert.records import ModelSummary, Parameters, Summary
from fithubert.tracking.local import RECORDS, complete_runs
from fithubert.tracking.models import (
    ModelShape,
    compare_url,
    experiment_url,
    log_summary,
    recorded_runs,
    summary_metrics,
)
from fithubert.tracking.runs import figures, flatten, track_stage
from fithubert.tracking.sender import EXPERIMENT
from tests.tracking.fakes import METRICS, runs_of, track


@pytest.fixture
def silent_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A server that takes connections and never answers; the event is set at the first one."""
    asked = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        connections: list[socket.socket] = []

        def accept() -> None:
            try:
                while True:
                    connections.append(server.accept()[0])
                    asked.set()
            except OSError:
                return

        threading.Thread(target=accept, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
        yield asked
        server.shutdown(socket.SHUT_RDWR)
        for connection in connections:
            connection.close()


def test_of_a_job_of_several_ranks_the_first_alone_has_a_run(
    store: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    monkeypatch.setenv("RANK", "1")
    track(tmp_path)
    assert not (tmp_path / RECORDS).exists()
    assert store.get_experiment_by_name(EXPERIMENT) is None
    monkeypatch.setenv("RANK", "0")
    track(tmp_path)
    assert len(runs_of(store)) == 1
    # A rank that torchrun did not set is none.
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    monkeypatch.setenv("RANK", "1")
    track(tmp_path)
    assert len(runs_of(store)) == 2


def test_a_stage_is_one_run_with_params_curve_tags_and_result(store: MlflowClient, tmp_path: Path) -> None:
    track(tmp_path)
    (run,) = runs_of(store)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "distill@thin"
    assert run.data.params == {"distill.updates": "3", "distill.betas": "[0.9, 0.98]", "student.recipe": "fithubert"}
    assert run.data.metrics["best_dev_loss"] == 0.25
    assert run.data.metrics["dev_head_2-12"] == 0.125
    history = store.get_metric_history(run.info.run_id, "train_loss")
    assert [(point.step, point.value) for point in history] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    tags = run.data.tags
    assert (tags["dvc.stage"], tags["kind"], tags["model"]) == ("distill@thin", "distill", "thin")
    assert tags["command"] == "dvc repro distill@thin"
    assert {"git.commit", "git.dirty"} <= set(tags)
    assert read_json(tmp_path / RECORDS / "distill@thin.json")["run_id"] == run.info.run_id


def test_a_stage_that_fails_is_a_failed_run(store: MlflowClient, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), track_stage("profile", {}, tmp_path, Path("reports/metrics/profile.json")):
        raise ZeroDivisionError
    (run,) = runs_of(store)
    assert run.info.status == "FAILED"
    assert read_json(tmp_path / RECORDS / "profile.json")["status"] == "FAILED"


def test_a_server_that_never_answers_costs_one_warning_and_nothing_else(
    silent_server: threading.Event, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alone = []

    def watch_then_train() -> None:
        # The server holds the first request all the while: whatever waits for it would never get to the end.
        assert silent_server.wait(60)
        alone.append([t.name for t in threading.enumerate()])

    caplog.set_level(logging.WARNING, "fithubert")
    with track_stage("distill@thin", {}, tmp_path, METRICS, flush_seconds=0.01) as run:
        watch_then_train()
        for update in range(30_000):
            run.log_metrics({"train_loss": 1.0}, update)
    assert "mlflow" in alone[0]
    assert len(caplog.records) == 1
    assert "local record" in caplog.text
    record = read_json(tmp_path / RECORDS / "distill@thin.json")
    assert (record["status"], record["run_id"], record["metrics"]) == ("FINISHED", None, {"train_loss": 1.0})


def test_a_server_that_is_down_costs_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with caplog.at_level(logging.WARNING, "fithubert"):
        track(tmp_path)
    assert [r.name for r in caplog.records] == ["fithubert.tracking.sender"]
    assert "secret" not in caplog.text
    assert read_json(tmp_path / RECORDS / "distill@thin.json")["metrics"]["dev_loss"] == 0.25


def test_without_mlflow_the_record_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fithubert.tracking.sender.mlflow_installed", lambda: False)
    track(tmp_path)
    assert read_json(tmp_path / RECORDS / "distill@thin.json")["status"] == "FINISHED"


def write_lock(workspace: Path, metrics_md5: str, stage: str = "distill@thin") -> None:
    entry = {
        "cmd": "python -m pipeline.distill thin",
        "deps": [{"path": "data/cache", "hash": "md5", "md5": "aa.dir", "size": 1}],
        "outs": [
            {"path": METRICS.as_posix(), "hash": "md5", "md5": metrics_md5, "size": 1},
            {"path": "artifacts/students/thin", "hash": "md5", "md5": "bb.dir", "size": 1},
        ],
    }
    (workspace / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": {stage: entry}}))


def test_runs_get_the_hashes_that_dvc_lock_records(store: MlflowClient, tmp_path: Path) -> None:
    track(tmp_path)
    assert complete_runs(tmp_path) == 0
    write_lock(tmp_path, "of another run")
    assert complete_runs(tmp_path) == 0
    write_lock(tmp_path, hashlib.md5((tmp_path / METRICS).read_bytes()).hexdigest())
    assert complete_runs(tmp_path) == 1
    assert complete_runs(tmp_path) == 0
    (run,) = runs_of(store)
    assert run.data.tags["dvc.deps.data/cache"] == "aa.dir"
    assert run.data.tags["dvc.outs.artifacts/students/thin"] == "bb.dir"


def test_a_run_that_is_not_live_is_sent_once_with_its_own_times(store: MlflowClient, tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        with track_stage("superb@thin-pr", {"model": "thin"}, tmp_path, METRICS, live=False):
            write_json(tmp_path / METRICS, {"per": value})
    assert store.get_experiment_by_name(EXPERIMENT) is None
    write_lock(tmp_path, hashlib.md5((tmp_path / METRICS).read_bytes()).hexdigest(), "superb@thin-pr")
    before = time.time() * 1000
    assert complete_runs(tmp_path) == 2
    assert complete_runs(tmp_path) == 0
    runs = sorted(runs_of(store), key=lambda run: run.data.metrics["per"])
    assert [run.data.metrics["per"] for run in runs] == [1.0, 2.0]
    assert all(run.data.params == {"model": "thin"} and run.info.status == "FINISHED" for run in runs)
    assert all(run.info.start_time <= run.info.end_time <= before for run in runs)
    assert [run.data.tags.get("dvc.deps.data/cache") for run in runs] == [None, "aa.dir"]


def test_a_run_that_no_server_took_is_sent_when_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: MlflowClient
) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("MLFLOW_TRACKING_URI", "nosuchscheme://")
        track(tmp_path)
    assert complete_runs(tmp_path) == 1
    (run,) = runs_of(store)
    assert run.data.metrics["dev_loss"] == 0.25


def test_the_summary_is_one_run_per_model_and_a_compare_page(store: MlflowClient, tmp_path: Path) -> None:
    model = ModelSummary(
        params=Parameters(trunk=900_000, readout=100_000, training_only=0, total=1_000_000),
        macs_per_second=5e6,
        macs_ratio=0.2,
        size_ratio=0.25,
        latency_ratio=0.5,
        superb={"pr": {"per": 30.0}, "ks": {"acc": 90.0}, "sf": {"f1": 80.0, "cer": 7.0}},
        init="cut_teacher",
        readout="last",
        kept=0.75,
    )
    models = {"fbank": ModelSummary(size_ratio=0.0), "thin": model, "unrun": ModelSummary()}
    shapes = {"thin": ModelShape(12, 120, "conv1d_x2")}
    summary = Summary(models=models, order=("unrun", "thin", "fbank"))
    page_file = tmp_path / "index.html"
    page_file.write_text("<!doctype html>")
    log_summary(summary, tmp_path, shapes, [page_file], 60.0)
    runs = {run.info.run_name: run for run in runs_of(store)}
    report = runs.pop("report")
    assert report.data.tags["kind"] == "report"
    assert [file.path for file in store.list_artifacts(report.info.run_id)] == ["index.html"]
    assert runs["thin"].data.metrics == {
        "compression_ratio": 4.0,
        "params_millions": 1.0,
        "macs_ratio": 0.2,
        "latency_ratio": 0.5,
        "kept": 0.75,
        "per": 30.0,
        "ks_acc": 90.0,
        "sf_f1": 80.0,
        "sf_cer": 7.0,
    }
    shape = {"depth": "12", "width": "120", "time_reduction": "conv1d_x2"}
    assert runs["thin"].data.params == {"teacher": "teacher", **shape}
    described = {"kind": "summary", "model": "thin", "init": "cut_teacher", "readout": "last"}
    assert described.items() <= runs["thin"].data.tags.items()
    assert runs["unrun"].data.metrics == runs["fbank"].data.metrics == {}
    assert store.get_experiment("1").tags["mlflow.experimentKind"] == "custom_model_development"

    ids = {name: run.info.run_id for name, run in runs.items()}
    assert list(recorded_runs(tmp_path).items()) == [(name, ids[name]) for name in list(summary.order)]
    for compressed, names in ((False, list(summary.order)), (True, ["thin"])):
        url = compare_url(tmp_path, "http://127.0.0.1:5000", compressed)
        assert url is not None
        page, _, query = url.partition("?")
        assert page == "http://127.0.0.1:5000/#/compare-runs"
        asked = {key: values[0] for key, values in parse_qs(query).items()}
        assert json.loads(asked["runs"]) == [ids[name] for name in names]
        assert json.loads(asked["experiments"]) == ["1"]
        assert asked["workflowType"] == "machine_learning"


def test_without_a_report_there_is_nothing_to_compare(tmp_path: Path) -> None:
    assert compare_url(tmp_path, "http://127.0.0.1:5000") is None
    assert experiment_url(tmp_path, "http://127.0.0.1:5000") is None


def test_an_older_store_opens_for_training_too(store: MlflowClient, tmp_path: Path) -> None:
    made = store.create_experiment(EXPERIMENT)
    track(tmp_path)
    assert store.get_experiment(made).tags["mlflow.experimentKind"] == "custom_model_development"


def test_flattening_keeps_names_and_figures() -> None:
    assert flatten({"a": {"b": [1, 2], "c": None}, "d": "x"}) == {"a.b": "[1, 2]", "a.c": "null", "d": "x"}
    assert figures({"a": {"b": 1}, "flag": True, "text": "x", "curve": [1]}) == {"a.b": 1.0}
    assert summary_metrics(ModelSummary()) == {}
