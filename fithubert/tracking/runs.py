"""One tracked run around one stage, and the hashes that dvc.lock records for it."""

import hashlib
import json
import math
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from fithubert.files import read_json, write_json
from fithubert.tracking.sender import FLUSH_SECONDS, MetricPoint, Sender, Session, is_first_rank

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
        now = int(time.time() * 1000)
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
) -> Iterator[TrackedRun]:
    """One MLflow run around the body, named and tagged after the DVC stage (`distill@fithubert`).

    `params` (nested sections of params.yaml) are flattened with dots. `metrics_file`, relative to the workspace, is
    the stage's metrics JSON: its digest ties the record to the entry of dvc.lock from which `complete_from_lock` takes
    the hashes, and its figures become metrics of the run. Under torchrun the first rank alone has a run and a record.
    """
    run = TrackedRun(stage, stage_tags(stage, workspace) | dict(tags or {}), flatten(params), Sender(flush_seconds))
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
            "metrics": {name: value for name, value in run.metrics.items() if math.isfinite(value)},
            "metrics_file": metrics_file.as_posix(),
            "metrics_md5": hashlib.md5(written.read_bytes()).hexdigest() if written.exists() else None,
        }
        if is_first_rank():
            write_json(workspace / RECORDS / f"{stage}.json", record)


def complete_from_lock(workspace: Path, flush_seconds: float = FLUSH_SECONDS) -> int:
    """Tag the runs that dvc.lock records by now with the hashes of their inputs and outputs; how many were tagged.

    DVC enters a stage in dvc.lock only after its command has ended, so this comes later: in the report stage and
    before the UI opens.
    """
    lock_file = workspace / "dvc.lock"
    stages = (yaml.safe_load(lock_file.read_text()) or {}).get("stages", {}) if lock_file.exists() else {}
    tagged: dict[str, dict[str, str]] = {}
    for path in sorted((workspace / RECORDS).glob("*.json")):
        record = read_json(path)
        entry = stages.get(record.get("stage"))
        if entry is None or record.get("locked"):
            continue
        outs = {out["path"]: out["md5"] for out in entry.get("outs", [])}
        if outs.get(record["metrics_file"]) != record["metrics_md5"]:
            continue
        hashes = {f"dvc.outs.{name}": digest for name, digest in outs.items()}
        hashes |= {f"dvc.deps.{dep['path']}": dep["md5"] for dep in entry.get("deps", [])}
        write_json(path, {**record, "locked": True, "tags": record["tags"] | hashes})
        if record["run_id"]:
            tagged[record["run_id"]] = hashes
    if tagged:
        sender = Sender(flush_seconds)
        for run_id, hashes in tagged.items():
            sender.submit(partial(Session.tag, run_id=run_id, tags=hashes))
        sender.close()
    return len(tagged)


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
