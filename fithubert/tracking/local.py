"""The local record of every run, complete whatever happens to the server."""

import logging
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fithubert.errors import UserError
from fithubert.records import Record
from fithubert.tracking.sender import MetricPoint

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


def list_curves(points: Sequence[MetricPoint]) -> dict[str, tuple[tuple[float, int, int], ...]]:
    """Metric -> its finite points, of long curves evenly spread ones and the last."""
    curves: dict[str, list[tuple[float, int, int]]] = {}
    for point in points:
        if math.isfinite(point.value):
            curves.setdefault(point.name, []).append((point.value, point.milliseconds, point.step))
    return {name: (*found[: -1 : -(-len(found) // _KEPT_POINTS)], found[-1]) for name, found in curves.items()}
