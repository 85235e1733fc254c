"""One tracked run around one stage, and the hashes that dvc.lock records for it."""

import hashlib
import json
import logging
import math
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from fithubert.config.base import read_yaml
from fithubert.errors import UserError
from fithubert.files import read_json
from fithubert.records import JsonObject
from fithubert.tracking.local import RECORDS, RunRecord, is_running, keep_record, list_curves, read_record, this_process
from fithubert.tracking.sender import FLUSH_SECONDS, Job, MetricPoint, Sender, Session, is_first_rank, now_milliseconds
from fithubert.training.events import Evaluated, StepDone, TrainingEnded, TrainingListener

_log = logging.getLogger(__name__)


@dataclass
class TrackedRun:
    """A run in progress. Metrics reach the local record at once, and the server in the background."""

    stage: str
    tags: dict[str, str]
    params: dict[str, str]
    sender: Sender
    metrics: dict[str, float] = field(default_factory=dict)
    points: list[MetricPoint] = field(default_factory=list)

    def log_metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Record metrics at `step`; returns at once."""
        now = now_milliseconds()
        for name, value in values.items():
            self.metrics[name] = float(value)
            self.points.append(MetricPoint(name, float(value), now, step))
            self.sender.submit(self.points[-1])


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
    begun = now_milliseconds()
    run = TrackedRun(
        stage, stage_tags(stage, workspace) | dict(tags or {}), flatten(params), Sender(flush_seconds, live)
    )
    status, written, path = "FAILED", workspace / metrics_file, workspace / RECORDS / f"{stage}.json"
    record = RunRecord(
        stage=stage,
        status="RUNNING",
        run_id=None,
        tags=run.tags,
        params=run.params,
        metrics={},
        metrics_file=metrics_file.as_posix(),
        metrics_md5=None,
        begun=begun,
        complete=False,
        process=this_process(),
    )
    if is_first_rank():
        keep_record(path, record)

    def start(session: Session) -> None:
        session.start(run.stage, run.tags, run.params)
        # A killed stage leaves a record that names its run.
        replace(record, run_id=session.run_id).write(path)

    run.sender.submit(start)
    try:
        yield run
        status = "FINISHED"
        if written.exists():
            run.log_metrics(figures(read_json(written)))
    finally:
        run.sender.submit(lambda session: session.end(status))
        run.sender.close()
        _end_record(path, record, run, status, written)


def _end_record(path: Path, record: RunRecord, run: TrackedRun, status: str, written: Path) -> None:
    """Write the record of a run whose sender is closed; `written` is the stage's metrics file."""
    if not is_first_rank():
        return
    ended = replace(
        record,
        status=status,
        run_id=run.sender.session.run_id if run.sender.session is not None else None,
        metrics={name: value for name, value in run.metrics.items() if math.isfinite(value)},
        metrics_md5=hashlib.md5(written.read_bytes()).hexdigest() if written.exists() else None,
        ended=now_milliseconds(),
        complete=run.sender.complete,
        process=None,
        curves={} if run.sender.complete else list_curves(run.points),
    )
    ended.write(path)


def complete_runs(workspace: Path, flush_seconds: float | None = None) -> int:
    """Send the runs that only the local record has, and add the hashes of dvc.lock to the tags of runs.

    Returns how many runs were new to the store or to dvc.lock. DVC adds a stage to dvc.lock only after its command has
    ended, so the report stage and `fithubert ui` call this.
    """
    stages = _read_lock(workspace / "dvc.lock")
    jobs: list[Job] = []
    for path in sorted((workspace / RECORDS).glob("[!.]*.json")):
        record = read_record(path)
        if record is None or is_running(record):
            continue
        if record.status == "RUNNING":
            record = replace(record, status="KILLED", process=None)
        hashes = {} if record.locked else _hashes(record, stages.get(record.stage))
        if hashes:
            record = replace(record, locked=True, tags={**record.tags, **hashes})
            record.write(path)
        if record.unsent:
            jobs.append(partial(_send_record, path=path, record=record))
        elif hashes and record.run_id:
            jobs.append(partial(Session.tag, run_id=record.run_id, tags=hashes))
    if jobs:
        sender = Sender(FLUSH_SECONDS + len(jobs) if flush_seconds is None else flush_seconds)
        for job in jobs:
            sender.submit(job)
        sender.close()
    return len(jobs)


def _read_lock(path: Path) -> JsonObject:
    """The stages of dvc.lock; empty, with a warning, if it is not readable."""
    try:
        stages = read_yaml(path).get("stages", {}) if path.exists() else {}
    except UserError as error:
        _log.warning("%s; runs get no hashes of it", error)
        return {}
    return stages if isinstance(stages, dict) else {}


def _hashes(record: RunRecord, entry: JsonObject | None) -> dict[str, str]:
    """The tags from a stage's entry of dvc.lock; empty if the entry is of another run of the stage."""
    if entry is None:
        return {}
    outs = {out["path"]: out["md5"] for out in entry.get("outs", [])}
    if outs.get(record.metrics_file) != record.metrics_md5:
        return {}
    hashes = {f"dvc.outs.{name}": digest for name, digest in outs.items()}
    return hashes | {f"dvc.deps.{dep['path']}": dep["md5"] for dep in entry.get("deps", [])}


def _send_record(session: Session, path: Path, record: RunRecord) -> None:
    """Send a local record as a run, or complete the run that it names, and note that in it."""
    if record.run_id is None:
        session.start(record.stage, record.tags, record.params, record.begun)
    else:
        session.run_id = record.run_id
    ended = record.ended or now_milliseconds()
    curves = record.curves or {name: ((value, ended, 0),) for name, value in record.metrics.items()}
    session.log([MetricPoint(name, *point) for name, points in curves.items() for point in points])
    session.end(record.status, ended)
    replace(record, run_id=session.run_id, complete=True, curves={}).write(path)


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
            ["git", *arguments], cwd=workspace, capture_output=True, text=True, check=True, timeout=20
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
