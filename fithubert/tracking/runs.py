"""One tracked run around one stage; a study as a run, and every trial as a run nested in it."""

import hashlib
import json
import math
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from fithubert.files import read_json
from fithubert.records import JsonObject
from fithubert.tracking.local import RECORDS, Curve, RunRecord, keep_record, this_process
from fithubert.tracking.sender import (
    FLUSH_SECONDS,
    MetricPoint,
    Sender,
    Session,
    is_first_rank,
    now_milliseconds,
    send_all,
)
from fithubert.training.events import Evaluated, StepDone, TrainingEnded, TrainingListener

#: The tag by which MLflow's pages nest one run in another.
_PARENT = "mlflow.parentRunId"


@dataclass
class TrackedRun:
    """A run in progress. Metrics reach its local record at once, and the server in the background."""

    record: RunRecord
    sender: Sender
    metrics: dict[str, float] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)

    def log_metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Record metrics at `step`; returns at once."""
        now = now_milliseconds()
        for name, value in values.items():
            self.metrics[name] = float(value)
            point = MetricPoint(name, float(value), now, step)
            self.curves.setdefault(name, Curve()).add(point)
            self.sender.submit(point)

    def end(self, status: str, metrics_file: Path) -> RunRecord:
        """Send the end and wait for what is unsent; the whole record. `metrics_file`: of the stage, if it exists."""
        self.sender.submit(lambda session: session.end(status))
        self.sender.close()
        return replace(
            self.record,
            status=status,
            run_id=None if self.sender.session is None else self.sender.session.run_id,
            metrics={name: value for name, value in self.metrics.items() if math.isfinite(value)},
            metrics_md5=hashlib.md5(metrics_file.read_bytes()).hexdigest() if metrics_file.exists() else None,
            ended=now_milliseconds(),
            complete=self.sender.complete,
            process=None,
            curves={} if self.sender.complete else {name: curve.points() for name, curve in self.curves.items()},
        )


class TrackingListener(TrainingListener):
    """Logs the events of a training in its run: a point per update and per evaluation; never waits for the server."""

    def __init__(self, run: TrackedRun) -> None:
        self._run = run

    def on_step(self, event: StepDone) -> None:
        """Log the loss, the learning rate and the hours of audio so far."""
        values = {
            "train_loss": event.loss,
            "learning_rate": event.learning_rate,
            "audio_hours": event.audio_seconds / 3600,
        }
        if event.gradient_norm is not None:
            values["gradient_norm"] = event.gradient_norm
        self._run.log_metrics(values, event.update)

    def on_evaluation(self, event: Evaluated) -> None:
        """Log the dev loss, and that of every head."""
        heads = {f"dev_head_{head}": loss for head, loss in event.layer_losses.items()}
        self._run.log_metrics({"dev_loss": event.dev_loss, **heads}, event.update)

    def on_end(self, event: TrainingEnded) -> None:
        """Log the best dev loss, its update and the wall time."""
        values = {
            "best_dev_loss": event.best_dev_loss,
            "best_update": event.best_update,
            "train_seconds": event.seconds,
        }
        self._run.log_metrics(values, event.updates)


@contextmanager
def track_stage(
    stage: str,
    params: JsonObject,
    workspace: Path,
    metrics_file: Path,
    *,
    tags: Mapping[str, str] | None = None,
    flush_seconds: float = FLUSH_SECONDS,
    live: bool = True,
) -> Iterator[TrackedRun]:
    """One MLflow run around the body, named and tagged after the DVC stage (`distill@fithubert`).

    `params` (nested sections of params.yaml) are flattened with dots. `metrics_file`, relative to the workspace, is
    the stage's metrics file: its digest links the record to the entry of dvc.lock from which `complete_runs` takes
    the hashes, and its figures become metrics of the run. Under torchrun only the first rank has a run and a record.
    With `live` false only the local record is written, and `complete_runs` sends it later. That is for short stages,
    which importing MLflow would make a second longer.
    """
    status, written, path = "FAILED", workspace / metrics_file, workspace / RECORDS / f"{stage}.json"
    record = RunRecord(
        stage=stage,
        status="RUNNING",
        run_id=None,
        tags=stage_tags(stage, workspace) | dict(tags or {}),
        params=flatten(params),
        metrics={},
        metrics_file=metrics_file.as_posix(),
        metrics_md5=None,
        begun=now_milliseconds(),
        complete=False,
        process=this_process(),
    )
    run = TrackedRun(record, Sender(flush_seconds, live))
    if is_first_rank():
        keep_record(path, record)

    def start(session: Session) -> None:
        session.start(stage, record.tags, record.params)
        # A killed stage leaves a record that names its run.
        replace(record, run_id=session.run_id).write(path)

    run.sender.submit(start)
    try:
        yield run
        status = "FINISHED"
        if written.exists():
            run.log_metrics(figures(read_json(written)))
    finally:
        ended = run.end(status, written)
        if is_first_rank():
            ended.write(path)


def start_study(name: str, params: Mapping[str, object], workspace: Path) -> str | None:
    """Open the run of a study; its id, or None if MLflow is not installed or the server does not answer."""
    tags = stage_tags("sweep", workspace) | {"study": name, "command": f"fithubert sweep --study {name}"}
    session = send_all([lambda session: session.start(f"sweep {name}", tags, flatten(params))])
    return None if session is None else session.run_id


def log_trial(
    parent: str | None,
    study: str,
    name: str,
    student: Mapping[str, object],
    metrics: Mapping[str, float],
    curve: Mapping[int, float],
    stopped: str | None,
) -> None:
    """Log a trial's parameters, figures and curve as one ended run; `stopped`: why it was stopped early.

    Nothing is sent if the study has no run.
    """
    if parent is None:
        return
    tags = {_PARENT: parent, "kind": "trial", "study": study, "state": "finished" if stopped is None else "stopped"}
    tags |= {} if stopped is None else {"stopped": stopped}
    now = now_milliseconds()
    points = [MetricPoint(key, float(value), now) for key, value in metrics.items()]
    points += [MetricPoint("dev_loss_last_head", loss, now, update) for update, loss in sorted(curve.items())]

    def send(session: Session) -> None:
        session.start(f"{study} {name}", tags, flatten(student))
        session.log(points)
        session.end()

    send_all([send])


def end_study(run: str, metrics: Mapping[str, float], files: Sequence[Path]) -> None:
    """Log the figures and files of a study in its run, and end the run."""
    now = now_milliseconds()

    def finish(session: Session) -> None:
        session.run_id = run
        session.log([MetricPoint(key, float(value), now) for key, value in metrics.items()])
        session.end()
        session.keep(run, files)

    send_all([finish])


def stage_tags(stage: str, workspace: Path) -> dict[str, str]:
    """Tags: the stage, the git commit, whether files differ from it, and the command that repeats the stage."""
    commit = _git(workspace, "rev-parse", "HEAD")
    # Files that stages write do not make the code dirty.
    changed = _git(workspace, "status", "--porcelain", "--untracked-files=no", "--", ":/", ":!/dvc.lock", ":!/reports")
    tags = {
        "kind": stage.partition("@")[0],
        "dvc.stage": stage,
        "git.commit": commit or "none",
        "git.dirty": "unknown" if changed is None else str(bool(changed)).lower(),
        "command": f"dvc repro {stage}",
    }
    if commit:
        tags["mlflow.source.git.commit"] = commit
    if os.environ.get("DVC_EXP_NAME"):
        tags["dvc.experiment"] = os.environ["DVC_EXP_NAME"]
    return tags


def flatten(values: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Nested sections as `section.key` -> text; lists and numbers are JSON."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value)
    return flat


def figures(values: Mapping[str, object], prefix: str = "") -> dict[str, float]:
    """The numbers of a metrics file as `section.key` -> value; lists, texts and flags are left out."""
    found: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= figures(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{prefix}{key}"] = float(value)
    return found


def _git(workspace: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=workspace, capture_output=True, text=True, check=True, timeout=20, encoding="utf-8"
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
