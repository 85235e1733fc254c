"""The workers of a sweep: each draws shapes within the limits and trains them one by one."""

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.context import SpawnProcess
from multiprocessing.queues import SimpleQueue
from types import FrameType

import optuna
import torch
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from fithubert.config.search import COSTS
from fithubert.config.students import StudentParams
from fithubert.errors import UserError
from fithubert.files import digest_json
from fithubert.search.space import Choices, Costs, count_costs, describe_student, make_student
from fithubert.search.study import Search, ShapeSampler, counts, first_number, read_curve, retry_trial
from fithubert.search.trial import FinishedTrial, RunTrial, StoppingRule
from fithubert.training.events import StopTraining
from fithubert.workers import threads_of_children

#: Failed trials in a row that end a worker.
_FAILURES = 3
#: Killed workers that are replaced before the sweep gives up.
_REPLACEMENTS = 6
#: How long a worker may take to leave after an interrupt.
_LEAVE_SECONDS = 20.0


class _Refused(Exception):
    """A trial that is not trained, with the reason."""


class Worker:
    """One process's part of a sweep.

    `open_trials` is called once, before the first training. `random`: shapes do not depend on results. `attempts`:
    refused draws in a row that end the sweep.
    """

    def __init__(
        self,
        search: Search,
        open_trials: Callable[[], RunTrial],
        ordinal: int = 0,
        random: bool = False,
        poll_seconds: float = 1.0,
        attempts: int = 500,
    ) -> None:
        self.search, self.study = search, search.place.join()
        self._open_trials = open_trials
        self._run_trial: RunTrial | None = None
        self._poll_seconds, self._attempts = poll_seconds, attempts
        # A different seed for every worker and every start; with one seed all would draw the same shapes.
        started = len(self.study.get_trials(deepcopy=False))
        seed = (search.settings.seed * 1_000_003 + started * 1_009 + ordinal * 7_919) % 2**31
        self._sampler = ShapeSampler(search.settings.space, seed, self._refuses, random, attempts)
        self.study.sampler = self._sampler
        #: Digests of the shapes that are trained or running.
        self._tried: set[str] = set()
        self._running: Trial | None = None
        self._given_up = self._interrupted = False
        self._failures = 0
        self._unscored: str | None = None  # Why no trial can have all objectives.

    def run(self) -> None:
        """Train trials until the study has `settings.trials`, counting those of all workers.

        Raises UserError after repeated failures, if no new shape within the limits is found, or if the database fails.
        """
        with self.search.place.names_outage():
            while self._wait_until_needed():
                try:
                    self.study.optimize(self._objective, catch=(_Refused, UserError), callbacks=[self._after_trial])
                except ValueError:
                    # Optuna refuses the result of a trial that another worker has given up: this machine was suspended.
                    if not self._given_up:
                        raise
                except KeyboardInterrupt:
                    trial = self._running and self._frozen(self._running)
                    if trial and trial.state == TrialState.FAIL:
                        retry_trial(self.study, trial)
                    raise

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """A signal handler: the trial ends at its next update and is queued again, and the worker ends.

        It raises nothing itself: an exception inside a write to the database would leave the study inconsistent.
        """
        self._interrupted = True

    def _objective(self, trial: Trial) -> list[float]:
        """The objectives of a shape, after its training."""
        search, settings = self.search, self.search.settings
        student, costs = self._make_student(self._sampler.suggest(trial))
        trial.set_user_attr("shape", _digest(student))
        self._check_again(trial, student, costs)
        trial.set_user_attr("costs", asdict(costs))
        trial.set_user_attr("student", describe_student(student))
        trial.set_user_attr("worker", f"{socket.gethostname()}:{os.getpid()}")
        self._running = trial
        if self._run_trial is None:
            self._run_trial = self._open_trials()
        name = f"trial-{first_number(self._frozen(trial)):04d}"
        rule = self._make_rule(trial, student, costs)
        try:
            figures = self._run_trial(name, student, search.folder / name, rule)
        except StopTraining as stop:
            trial.set_user_attr("stopped", str(stop))
            raise optuna.TrialPruned(str(stop)) from None
        except UserError as error:
            trial.set_user_attr("failed", str(error))
            raise
        finally:
            self._given_up = self._frozen(trial).state != TrialState.RUNNING
        if rule.curve:
            figures = {**figures, "dev_loss": min(rule.curve.values())}
        trial.set_user_attr("metrics", figures)
        values = {**asdict(costs), **figures}
        missing = ", ".join(name for name in settings.objectives if name not in values)
        if missing:  # No other trial would have them either.
            self._unscored = f"sweep: a trial has no {missing}; score it with labels, or give other sweep.objectives"
            raise UserError(self._unscored)
        return [float(values[objective]) for objective in settings.objectives]

    def _make_student(self, choices: Choices) -> tuple[StudentParams, Costs]:
        student = make_student(self.search.student, choices, self.search.teacher_depth)
        return student, count_costs(student, self.search.speed)

    def _refuses(self, choices: Choices) -> bool:
        """Whether a shape is above a limit or was tried before, or cannot be built."""
        try:
            student, costs = self._make_student(choices)
        except (UserError, ValueError):
            return True
        return _digest(student) in self._tried or self.search.limits.exceeded_by(costs)

    def _check_again(self, trial: Trial, student: StudentParams, costs: Costs) -> None:
        """Raise if a queued shape is above a limit, or if other workers have begun it or have enough trials by now."""
        if self.search.limits.exceeded_by(costs):
            raise _Refused("above a limit")
        others = [t for t in self.study.get_trials(deepcopy=False) if t.number != trial.number]
        earlier = [t for t in others if counts(t) or (t.state == TrialState.RUNNING and t.number < trial.number)]
        if any(other.user_attrs.get("shape") == _digest(student) for other in earlier):
            raise _Refused("tried before")
        if len(earlier) >= self.search.settings.trials:
            raise _Refused("enough trials without it")

    def _after_trial(self, study: Study, trial: FrozenTrial) -> None:
        """End or continue after one trial; Optuna calls it."""
        self._running = None
        if self._unscored is not None:
            raise UserError(self._unscored)
        if self._sampler.exhausted:
            raise UserError(
                f"sweep: {self._attempts} shapes in a row were tried before or are above the limits; widen either"
            )
        self._failures = self._failures + 1 if "failed" in trial.user_attrs else 0
        if self._failures >= _FAILURES:
            failed = trial.user_attrs["failed"]
            raise UserError(f"sweep: {_FAILURES} trials in a row failed, the last with: {failed}")
        if not self._wait_until_needed():
            study.stop()

    def _wait_until_needed(self) -> bool:
        """Whether one more trial is needed.

        If the running trials would complete the study, this waits for them: one of them may have to be retried.
        """
        parent = multiprocessing.parent_process()
        while not self._interrupted and (parent is None or parent.is_alive()):
            optuna.storages.fail_stale_trials(self.study)
            trials = self.study.get_trials(deepcopy=False)
            done = [trial for trial in trials if counts(trial)]
            running = [trial for trial in trials if trial.state == TrialState.RUNNING]
            if len(done) >= self.search.settings.trials:
                return False
            if len(done) + len(running) < self.search.settings.trials:
                self._tried = {trial.user_attrs.get("shape", "") for trial in (*done, *running)}
                return True
            time.sleep(self._poll_seconds)
        return False

    def _make_rule(self, trial: Trial, student: StudentParams, costs: Costs) -> StoppingRule:
        # Losses of other hints are other quantities.
        hints = describe_student(student).get("hints")
        names = [name for name in self.search.settings.objectives if name in COSTS]

        def read_finished() -> list[FinishedTrial]:
            complete = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            trials = [trial for trial in complete if trial.user_attrs["student"].get("hints") == hints]
            return [FinishedTrial(tuple(t.user_attrs["costs"][n] for n in names), read_curve(t)) for t in trials]

        return StoppingRule(
            self.search.settings,
            tuple(getattr(costs, name) for name in names),
            read_finished,
            lambda curve: trial.set_user_attr("curve", {str(update): loss for update, loss in curve.items()}),
            # A retried trial resumes from its checkpoint and does not repeat the evaluations before it.
            read_curve(self._frozen(trial)),
            lambda: self._interrupted,
        )

    def _frozen(self, trial: Trial) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[trial.number]


def _digest(student: StudentParams) -> str:
    return digest_json(student.model_dump(mode="json"))


@dataclass(frozen=True)
class Pool:
    """The processes of one machine; `threads` of each worker."""

    workers: int
    threads: int
    poll_seconds: float = 0.5


def run_workers(
    search: Search,
    open_trials: Callable[[], RunTrial],
    pool: Pool,
    show: Callable[[int, int, str], None] = lambda done, total, note: None,
) -> None:
    """Run worker processes until the study has `settings.trials` trials, whichever machines train them.

    `open_trials` is sent to the processes, so it must be picklable. `show(done, total, note)` is called with the
    progress of the study. A killed worker is replaced and its trial is retried. Raises UserError if a worker does, if
    several are killed, or if the database fails. On an interrupt the running trials are queued again.
    """
    study, total = search.place.join(), search.settings.trials
    context = multiprocessing.get_context("spawn")
    errors: SimpleQueue[str] = context.SimpleQueue()

    def start(ordinal: int) -> SpawnProcess:
        process = context.Process(target=_work, args=(search, open_trials, ordinal, pool, errors))
        process.start()
        return process

    running: list[SpawnProcess] = []
    shown, killed = -1, 0
    try:
        with threads_of_children(pool.threads), search.place.names_outage():
            running += [start(ordinal) for ordinal in range(pool.workers)]
            while running:
                time.sleep(pool.poll_seconds)
                ended = [process for process in running if not process.is_alive()]
                if not errors.empty():
                    raise UserError(errors.get())
                for process in ended:
                    running.remove(process)
                    if process.exitcode == 0:
                        continue
                    killed += 1
                    if killed > _REPLACEMENTS:
                        raise UserError(f"sweep: {killed} workers were killed (memory?); the finished trials are kept")
                    running.append(start(pool.workers + killed))
                done = sum(map(counts, study.get_trials(deepcopy=False)))
                if done != shown:
                    show(min(done, total), total, "")
                shown = done
    finally:
        _stop(running)


def _work(
    search: Search, open_trials: Callable[[], RunTrial], ordinal: int, pool: Pool, errors: "SimpleQueue[str]"
) -> None:
    """A worker's process. A UserError goes to the parent; a bug keeps its traceback."""
    # A terminal sends Ctrl-C to all processes. Only the parent reacts, and then terminates its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(pool.threads)
    try:
        worker = Worker(search, open_trials, ordinal, poll_seconds=pool.poll_seconds)
        signal.signal(signal.SIGTERM, worker.interrupt)
        worker.run()
    except UserError as error:
        errors.put(str(error))
    except KeyboardInterrupt:
        sys.exit(130)


def _stop(processes: list[SpawnProcess]) -> None:
    for process in processes:
        process.terminate()
    until = time.monotonic() + _LEAVE_SECONDS
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
        process.kill()
        process.join()
