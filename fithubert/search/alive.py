"""Workers of a study: heartbeats and interrupts."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType

from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

#: Seconds between two beats, and how long they may stand still.
BEAT_SECONDS, GRACE_SECONDS = 15.0, 90.0
#: How often a trial whose worker died is begun anew.
_MAX_RETRIES = 3


class Heart:
    """Inside, the trial's beat goes on from a thread of its own."""

    def __init__(self, study: Study, trial_id: int, seconds: float = BEAT_SECONDS) -> None:
        self._study, self._trial_id, self._seconds = study, trial_id, seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="beat", daemon=True)

    def __enter__(self) -> "Heart":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        beat = 0
        while not self._stopped.wait(self._seconds):
            beat += 1
            # A trial that was given up, or a database that is away: the worker hears of it when it tells its result.
            with suppress(Exception):
                self._study._storage.set_trial_user_attr(self._trial_id, "beat", beat)


class Watch:
    """Gives up the running trials whose beat this process has seen stand still."""

    def __init__(self, study: Study, grace_seconds: float = GRACE_SECONDS) -> None:
        self._study, self._grace = study, grace_seconds
        self._seen: dict[int, tuple[int, float]] = {}

    def retry_stale(self) -> None:
        """Give up what has stood still for long enough, and queue it again."""
        now = time.monotonic()
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            beat = trial.user_attrs.get("beat", 0)
            last, since = self._seen.setdefault(trial.number, (beat, now))
            if beat != last:
                self._seen[trial.number] = (beat, now)
            elif now - since > self._grace:
                retry(self._study, trial, "its worker gave no sign of life")


def retry(study: Study, trial: FrozenTrial, reason: str) -> bool:
    """End a running trial as failed and queue the same shape again; False where it had ended by then.

    Of several that find it dead, one succeeds. After three retries the shape is left alone.
    """
    if not give_up(study, trial, reason):
        return False
    retries = trial.user_attrs.get("retries", 0) + 1
    if trial.params and retries <= _MAX_RETRIES:
        first = trial.user_attrs.get("retry_of", trial.number)
        # The retry goes on from the last checkpoint and does not evaluate what lies before it.
        curve = {key: value for key, value in trial.user_attrs.items() if key.startswith("dev_loss:")}
        study.enqueue_trial(trial.params, user_attrs={**curve, "retry_of": first, "retries": retries})
    return True


def give_up(study: Study, trial: FrozenTrial, reason: str) -> bool:
    """End a running trial as failed; False where it had ended by then."""
    storage = study._storage
    try:
        storage.set_trial_user_attr(trial._trial_id, "failed", reason)
        storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
    except UpdateFinishedTrialError:
        return False
    return True


def worker_id() -> str:
    """This process, by machine and number."""
    return f"{socket.gethostname()}:{os.getpid()}"


def retry_of_dead_workers(study: Study) -> None:
    """Queue again the running trials of processes of this machine that are no more."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        machine, _, number = trial.user_attrs.get("worker", "").rpartition(":")
        if machine == socket.gethostname() and not _runs(int(number)):
            retry(study, trial, "its worker was killed")


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class Interrupts:
    """Inside, an interrupt of the process waits for the next `allowed` block, and is raised there."""

    def __init__(self) -> None:
        self._allowed = self._pending = False

    def __enter__(self) -> "Interrupts":
        # Only a main thread hears signals; elsewhere nothing has to wait.
        self._before = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._before)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Raise KeyboardInterrupt here, and what was held back before."""
        with self._switch(True):
            if self._pending:
                raise KeyboardInterrupt
            yield

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Hold interrupts back inside an `allowed` block, and raise them at the end."""
        with self._switch(False):
            yield
        if self._allowed and self._pending:
            raise KeyboardInterrupt

    @contextmanager
    def _switch(self, allowed: bool) -> Iterator[None]:
        before, self._allowed = self._allowed, allowed
        try:
            yield
        finally:
            self._allowed = before

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._pending = True
        if self._allowed:
            raise KeyboardInterrupt
