"""The local record of every run: complete whatever happens to the server, and sent later."""

import logging
import math
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from fithubert.config.base import read_yaml
from fithubert.errors import UserError
from fithubert.records import JsonObject, Record
from fithubert.tracking.sender import FLUSH_SECONDS, Job, MetricPoint, Session, now_milliseconds, send_all

#: The folder of the local records, relative to the workspace.
RECORDS = Path(".tracking")
#: Points of one metric that a record keeps for a server that did not take them.
_KEPT_POINTS = 2000
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunRecord(Record):
    """The local record of a run.

    `run_id`: None until the server has the run. `complete`: the server has all of it; if not, `curves` holds the points
    of every metric (value, milliseconds, step). `locked`: the hashes of dvc.lock are in its tags. `begun`, `ended`:
    milliseconds since 1970. `process`: host and process id of a run in progress.
    """

    stage: str
    status: str
    run_id: str | None
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    metrics_file: str
    metrics_md5: str | None
    begun: int | None = None
    ended: int | None = None
    locked: bool = False
    complete: bool = True
    process: str | None = None
    curves: Mapping[str, tuple[tuple[float, int, int], ...]] = field(default_factory=dict)

    @property
    def unsent(self) -> bool:
        """Whether the server lacks the run or a part of it."""
        return self.run_id is None or not self.complete


def keep_record(path: Path, record: RunRecord) -> None:
    """Write `record`; an earlier one of the stage that was not sent whole is kept under another name."""
    before = read_record(path) if path.exists() else None
    if before is not None and before.unsent and not is_running(before):
        path.rename(path.with_suffix(f".{before.begun or 0}.json"))
    record.write(path)


def read_record(path: Path) -> RunRecord | None:
    """The record in `path`; a damaged one is moved aside with a warning: it must not stop a stage."""
    try:
        return RunRecord.read(path)
    except UserError as error:
        aside = path.with_suffix(".damaged")
        path.replace(aside)
        _log.warning("%s; moved to %s", error, aside.name)
        return None


def this_process() -> str:
    """Host and process id of this process."""
    return f"{platform.node()} {os.getpid()}"


def is_running(record: RunRecord) -> bool:
    """Whether another process is still writing the run. One of another host counts as running."""
    if record.status != "RUNNING" or record.process is None:
        return False
    host, _, pid = record.process.rpartition(" ")
    if host != platform.node():
        return True
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return int(pid) != os.getpid()


class Curve:
    """The points of one metric (value, milliseconds, step) in bounded memory: evenly spread ones, and the last."""

    def __init__(self) -> None:
        self._kept: list[tuple[float, int, int]] = []
        self._last: tuple[float, int, int] | None = None
        self._seen, self._every = 0, 1

    def add(self, point: MetricPoint) -> None:
        """Add a point; one that is not finite is left out."""
        if not math.isfinite(point.value):
            return
        self._last = (point.value, point.milliseconds, point.step)
        if self._seen % self._every == 0:
            self._kept.append(self._last)
        self._seen += 1
        if len(self._kept) > _KEPT_POINTS:
            self._kept, self._every = self._kept[::2], 2 * self._every

    def points(self) -> tuple[tuple[float, int, int], ...]:
        """The kept points in order."""
        if self._last is None or self._kept[-1] == self._last:
            return tuple(self._kept)
        return (*self._kept, self._last)


def complete_runs(workspace: Path) -> int:
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
        send_all(jobs, FLUSH_SECONDS + len(jobs))
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
