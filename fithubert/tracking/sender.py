"""A background thread that talks to the tracking server, so that a training never waits for it.

Why not MLflow's own asynchronous logging (3.17): it starts no run (`create_run` waits for the server), its queue grows
without limit, its flush has no time limit, and it waits for the server once more when the process exits. With a server
that accepts connections and never answers, a stage would not begin and would not end.
"""

import logging
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fithubert.errors import without_password
from fithubert.files import atomic_file

EXPERIMENT = "fithubert"
DEFAULT_STORE = "sqlite:///mlflow.db"
#: Longest wait at the end of a stage for what is still unsent (the first use of a new store migrates it for seconds).
FLUSH_SECONDS = 30.0
#: With this tag MLflow's pages show an experiment as one of training, not of generative AI.
_TRAINING = {"mlflow.experimentKind": "custom_model_development"}
_SEND_EVERY_SECONDS = 2.0
_QUEUE_LENGTH = 10_000
#: MLflow's own limits of one request.
_BATCH_METRICS, _BATCH_PARAMS, _VALUE_LENGTH = 1000, 100, 5000
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MetricPoint:
    """One value of a metric at a step; the time is in milliseconds since 1970."""

    name: str
    value: float
    milliseconds: int
    step: int = 0


@dataclass
class Session:
    """A client of the store, its one experiment, and the run that is being written."""

    client: Any
    experiment_id: str
    run_id: str | None = None

    def start(
        self, name: str, tags: Mapping[str, str], params: Mapping[str, str], milliseconds: int | None = None
    ) -> None:
        """Open a run that began at `milliseconds` since 1970; now for None."""
        from mlflow.entities import Param

        run = self.client.create_run(self.experiment_id, milliseconds, dict(tags), run_name=name)
        self.run_id = str(run.info.run_id)
        items = [Param(_key(key), value[:_VALUE_LENGTH]) for key, value in params.items()]
        for start in range(0, len(items), _BATCH_PARAMS):
            self.client.log_batch(self.run_id, params=items[start : start + _BATCH_PARAMS])

    def log(self, points: Sequence[MetricPoint]) -> None:
        """Write metrics of the open run, many in one request (single requests take twenty times as long)."""
        from mlflow.entities import Metric

        metrics = [Metric(_key(p.name), p.value, p.milliseconds, p.step) for p in points]
        for start in range(0, len(metrics), _BATCH_METRICS):
            self.client.log_batch(self.run_id, metrics=metrics[start : start + _BATCH_METRICS])

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Add tags to a run, open or ended."""
        from mlflow.entities import RunTag

        self.client.log_batch(run_id, tags=[RunTag(_key(key), value) for key, value in tags.items()])

    def keep(self, run_id: str, files: Sequence[Path]) -> None:
        """Store files with a run."""
        for file in files:
            self.client.log_artifact(run_id, str(file))

    def end(self, status: str = "FINISHED", milliseconds: int | None = None) -> None:
        """Close the open run, which ended at `milliseconds` since 1970; now for None."""
        self.client.set_terminated(self.run_id, status, milliseconds)


Job = Callable[[Session], object]


class Sender:
    """Runs jobs against the tracking server in order; the first failure ends it with one warning.

    It sends nothing if MLflow is not installed, if it is not `live`, and on every rank but the first.
    """

    def __init__(self, flush_seconds: float = FLUSH_SECONDS, live: bool = True) -> None:
        self.session: Session | None = None
        #: Whether every job has reached the store.
        self.complete = False
        self._flush_seconds = flush_seconds
        self._jobs: queue.Queue[Job | MetricPoint | None] = queue.Queue(_QUEUE_LENGTH)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mlflow", daemon=True)
        if live and mlflow_installed() and is_first_rank():
            self._thread.start()
        else:
            self._stopped.set()

    def submit(self, job: Job | MetricPoint | None) -> None:
        """Queue a job or a metric and return at once; it is dropped if the server has failed. None is the end."""
        if self._stopped.is_set():
            return
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            self._fail("it is too slow")

    def close(self) -> None:
        """Wait for what is unsent, at most `flush_seconds`."""
        self.submit(None)
        if self._stopped.is_set():
            return
        self._thread.join(self._flush_seconds)
        if self._thread.is_alive():
            self._fail(f"no answer within {self._flush_seconds:g} s")

    def _fail(self, reason: str) -> None:
        if not self._stopped.is_set():
            self._stopped.set()
            shown = without_password(f"MLflow at {tracking_uri()}: {reason}")
            _log.warning("%s; only the local record is kept, and `fithubert report` or `ui` sends it later", shown)

    def _run(self) -> None:
        try:
            self.session = connect()
            ended = False
            while not ended and not self._stopped.is_set():
                points, job, ended = self._collect()
                if points:
                    self.session.log(points)
                if job is not None:
                    job(self.session)
            self.complete = ended and not self._stopped.is_set()
        except Exception as error:  # No failure of the server or its client may reach the stage.
            self._fail(" ".join(str(error).split())[:200] or type(error).__name__)

    def _collect(self) -> tuple[list[MetricPoint], Job | None, bool]:
        """The metrics of the next seconds, up to the first job; and whether that was the end."""
        points: list[MetricPoint] = []
        until = time.monotonic() + _SEND_EVERY_SECONDS
        while (left := until - time.monotonic()) > 0:
            try:
                item = self._jobs.get(timeout=left)
            except queue.Empty:
                break
            if not isinstance(item, MetricPoint):
                return points, item, item is None
            points.append(item)
        return points, None, False


def send_all(jobs: Sequence[Job], flush_seconds: float = FLUSH_SECONDS) -> Session | None:
    """Run jobs in order and wait for them, at most `flush_seconds`; the session, or None if there was none."""
    sender = Sender(flush_seconds)
    for job in jobs:
        sender.submit(job)
    sender.close()
    return sender.session


def now_milliseconds() -> int:
    """Milliseconds since 1970, as MLflow counts time."""
    return int(time.time() * 1000)


def is_first_rank() -> bool:
    """Whether this process logs for the whole job: torchrun did not start it, or it is torchrun's rank 0."""
    return "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("RANK", "0") == "0"


def mlflow_installed() -> bool:
    """Whether MLflow is installed. It is not imported, since that takes seconds."""
    return find_spec("mlflow") is not None


def tracking_uri() -> str:
    """The store in use: MLFLOW_TRACKING_URI, or an SQLite file in the working directory."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_STORE


def import_quietly() -> None:
    """Import MLflow with telemetry off and its routine log messages silenced."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow  # noqa: F401  (Sets the levels of its loggers itself.)

    for name, level in (("alembic", logging.WARNING), ("mlflow", logging.WARNING), ("urllib3", logging.ERROR)):
        logging.getLogger(name).setLevel(level)


def connect() -> Session:
    """A session with the store; the experiment is created if it does not exist."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    import_quietly()
    from mlflow import MlflowClient

    with _first_use(tracking_uri()):
        client = MlflowClient(tracking_uri=tracking_uri())
        client.search_experiments(max_results=1)
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        return Session(client, client.create_experiment(EXPERIMENT, tags=_TRAINING))
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    if not found.tags.keys() & _TRAINING.keys():
        for key, value in _TRAINING.items():
            client.set_experiment_tag(found.experiment_id, key, value)
    return Session(client, found.experiment_id)


@contextmanager
def _first_use(uri: str) -> Iterator[None]:
    """A block in which no other process sets up the same SQLite file: two at once, or a killed one, break it for good.

    A new file is set up under another name and renamed, so that it is whole or absent.
    """
    path = Path(uri.removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:///") or path.exists():
        yield
        return
    with atomic_file(path, replace=False) as made:
        from mlflow import MlflowClient

        MlflowClient(tracking_uri=f"sqlite:///{made}").search_experiments(max_results=1)
    yield


def _key(name: str) -> str:
    """`name` with the characters that MLflow allows."""
    return re.sub(r"[^\w\-. :/]", "_", name)
