"""One tracked run around one stage, and the hashes that dvc.lock records for it."""

import hashlib
import json
import math
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from fithubert.files import read_json, write_json
from fithubert.tracking.sender import FLUSH_SECONDS, Job, MetricPoint, Sender, Session, is_first_rank, now_milliseconds

#: Where the local records lie, below the workspace.
RECORDS = Path(".tracking")


@dataclass
class TrackedRun:
    """A run as it goes: metrics reach the local record at once, the server when it has time."""

    stage: str
    tags: dict[str, str]
    params: dict[str, str]
    sender: Sender
    metrics: dict[str, float] = field(default_factory=dict)

    def log_metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Note metrics at `step`; returns at once."""
        now = now_milliseconds()
        for name, value in values.items():
            self.metrics[name] = float(value)
            self.sender.submit(MetricPoint(name, float(value), now, step))


@contextmanager
def track_stage(
    stage: str,
    params: Mapping[str, Any],
    workspace: Path,
    metrics_file: Path,
    *,
    tags: Mapping[str, str] | None = None,
    flush_seconds: float = FLUSH_SECONDS,
    live: bool = True,
) -> Iterator[TrackedRun]:
    """One MLflow run around the body, named and tagged after the DVC stage (`distill@fithubert`).

    `params` (nested sections of params.yaml) are flattened with dots. `metrics_file`, relative to the workspace, is
    the stage's metrics JSON: its digest ties the record to the entry of dvc.lock from which `complete_runs` takes
    the hashes, and its figures become metrics of the run. Under torchrun the first rank alone has a run and a record.
    Without `live` the local record is all: `complete_runs` sends it. That is for stages of seconds, which importing
    MLflow would make a second longer.
    """
    tags, begun = stage_tags(stage, workspace) | dict(tags or {}), now_milliseconds()
    run = TrackedRun(stage, tags, flatten(params), Sender(flush_seconds, live))
    run.sender.submit(lambda session: session.start(run.stage, run.tags, run.params))
    status, written = "FAILED", workspace / metrics_file
    try:
        yield run
        status = "FINISHED"
        if written.exists():
            run.log_metrics(figures(read_json(written)))
    finally:
        run.sender.submit(lambda session: session.end(status))
        run.sender.close()
        record = {
            "stage": stage,
            "status": status,
            "run_id": run.sender.session.run_id if run.sender.session is not None else None,
            "tags": run.tags,
            "params": run.params,
            "begun": begun,
            "ended": now_milliseconds(),
            "metrics": {name: value for name, value in run.metrics.items() if math.isfinite(value)},
            "metrics_file": metrics_file.as_posix(),
            "metrics_md5": hashlib.md5(written.read_bytes()).hexdigest() if written.exists() else None,
        }
        if is_first_rank():
            _keep_record(workspace / RECORDS / f"{stage}.json", record)


def complete_runs(workspace: Path, flush_seconds: float | None = None) -> int:
    """Send the runs that the local record alone knows, and tag those that dvc.lock records by now with the hashes of
    their inputs and outputs; how many runs were new to the store or to dvc.lock.

    DVC enters a stage in dvc.lock only after its command has ended, so this comes later: in the report stage and
    before the UI opens.
    """
    lock_file = workspace / "dvc.lock"
    stages = (yaml.safe_load(lock_file.read_text()) or {}).get("stages", {}) if lock_file.exists() else {}
    jobs: list[Job] = []
    for path in sorted((workspace / RECORDS).glob("*.json")):
        record = read_json(path)
        hashes = {} if record.get("locked") else _hashes(record, stages.get(record.get("stage")))
        if hashes:
            record |= {"locked": True, "tags": record["tags"] | hashes}
            write_json(path, record)
        if not record.get("run_id"):
            jobs.append(partial(_send_record, path=path, record=record))
        elif hashes:
            jobs.append(partial(Session.tag, run_id=record["run_id"], tags=hashes))
    if jobs:
        sender = Sender(FLUSH_SECONDS + len(jobs) if flush_seconds is None else flush_seconds)
        for job in jobs:
            sender.submit(job)
        sender.close()
    return len(jobs)


def _keep_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write `record`; an earlier one of the stage that was never sent stays beside it."""
    if path.exists() and not (before := read_json(path)).get("run_id"):
        path.rename(path.with_suffix(f".{before.get('begun', 0)}.json"))
    write_json(path, record)


def _hashes(record: Mapping[str, Any], entry: Mapping[str, Any] | None) -> dict[str, str]:
    """The tags that dvc.lock has for a record; none where its entry is of another run of the stage."""
    outs = {out["path"]: out["md5"] for out in (entry or {}).get("outs", [])}
    if entry is None or outs.get(record["metrics_file"]) != record["metrics_md5"]:
        return {}
    hashes = {f"dvc.outs.{name}": digest for name, digest in outs.items()}
    return hashes | {f"dvc.deps.{dep['path']}": dep["md5"] for dep in entry.get("deps", [])}


def _send_record(session: Session, path: Path, record: dict[str, Any]) -> None:
    """Make a run of a local record, and note in it that there is one."""
    session.start(record["stage"], record["tags"], record["params"], record.get("begun"))
    ended = record.get("ended", now_milliseconds())
    session.log([MetricPoint(name, value, ended) for name, value in record["metrics"].items()])
    session.end(record["status"], ended)
    write_json(path, {**record, "run_id": session.run_id})


def stage_tags(stage: str, workspace: Path) -> dict[str, str]:
    """The stage, the commit it ran at, whether code or params had changed since, and the command that repeats it."""
    commit = _git(workspace, "rev-parse", "HEAD")
    # What the stages themselves write does not make the code dirty.
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


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested sections as `section.key` -> text; lists and numbers as JSON."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value)
    return flat


def figures(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
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
