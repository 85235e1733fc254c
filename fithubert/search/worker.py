"""One worker: takes shapes from the study, refuses those that cost too much, and runs the others one by one."""

import importlib
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from fithubert.config.students import StudentParams
from fithubert.config.sweep import COSTS, SweepParams
from fithubert.errors import UserError
from fithubert.files import digest_json
from fithubert.search.alive import BEAT_SECONDS, GRACE_SECONDS, Heart, Interrupts, Watch, give_up, retry, worker_id
from fithubert.search.space import Costs, Limits, Speed, count_costs, make_student
from fithubert.search.stopping import Finished, StoppingRule
from fithubert.search.study import (
    counts,
    describe_student,
    distributions,
    join_study,
    make_sampler,
    open_storage,
    random_sampler,
    read_curve,
)
from fithubert.training.events import StopTraining

#: Proposals in a row that were tried before: then the next is drawn at random; so many refused ones end the sweep.
_STUCK, _EXHAUSTED = 5, 500
#: Failures in a row that end a worker.
_FAILURES = 3


@dataclass(frozen=True)
class Plan:
    """All that a worker has to know; it is handed to another process.

    `objective` names what runs a trial, as `module:function`: called with the plan, once per process, it gives a
    `RunTrial`. `student` is what all trials are like but for their choices.
    """

    study: str
    storage: str
    folder: Path
    sweep: SweepParams
    student: StudentParams
    teacher_depth: int
    limits: Limits
    speed: Speed
    objective: str
    context: Any = None
    threads: int = 1
    random: bool = False
    beat_seconds: float = BEAT_SECONDS
    grace_seconds: float = GRACE_SECONDS
    poll_seconds: float = 1.0


class RunTrial(Protocol):
    """Runs one trial in `folder`; `rule` hears its training. Its figures by name: tasks, `dev_loss`, and any others."""

    def __call__(self, name: str, student: StudentParams, folder: Path, rule: StoppingRule) -> dict[str, float]: ...


def work(plan: Plan, ordinal: int) -> None:
    """Run trials until the study has as many as `plan.sweep.trials`, counting those of all workers."""
    Worker(plan, ordinal).run()


class Worker:
    """A process's part of a study."""

    def __init__(self, plan: Plan, ordinal: int) -> None:
        self.plan = plan
        self.study = join_study(plan.study, open_storage(plan.storage))
        # Another seed for every worker and every start, else all would draw the same at random.
        self._seed = plan.sweep.seed * 1_000_003 + len(self.study.get_trials(deepcopy=False)) * 1_009 + ordinal
        self.study.sampler = self._sampler = self._make_sampler()
        self._watch = Watch(self.study, plan.grace_seconds)
        self._distributions = distributions(plan.sweep.space)
        self._run_trial: RunTrial | None = None
        # The first count imports for seconds, in which a trial that runs would show no sign of life.
        count_costs(plan.student, plan.speed)
        self._parent = os.getppid()
        self._interrupts = Interrupts()

    def run(self) -> None:
        """Take and run trials until there are enough, or until the process that started this one is gone."""
        failures = 0
        with self._interrupts:
            while failures < _FAILURES and os.getppid() == self._parent:
                taken = self.take()
                if taken is None:
                    return
                error = self.run_one(*taken)
                failures = 0 if error is None else failures + 1
        if failures == _FAILURES:
            raise UserError(f"sweep: {_FAILURES} trials in a row failed, the last with: {error}")

    def take(self) -> tuple[Trial, StudentParams, Costs] | None:
        """The next trial that is new and within the limits; None where there are enough.

        Where the trials that run now would make enough it waits for them, since one may yet have to be tried again.
        """
        refused = 0
        while refused < _EXHAUSTED:
            self._watch.retry_stale()
            trials = self.study.get_trials(deepcopy=False)
            done = sum(map(counts, trials))
            if done >= self.plan.sweep.trials:
                return None
            if done + sum(t.state == TrialState.RUNNING for t in trials) >= self.plan.sweep.trials:
                with self._interrupts.allowed():
                    time.sleep(self.plan.poll_seconds)
                continue
            trial, student, costs, refusal = self._propose(at_random=refused % (_STUCK + 1) == _STUCK)
            if refusal is None:
                return trial, student, costs
            refused += refusal != "surplus"
        raise UserError(f"sweep: {_EXHAUSTED} proposals in a row were tried before or above the limits; widen either")

    def _propose(self, at_random: bool) -> tuple[Trial, StudentParams, Costs, str | None]:
        """A new running trial; or one that has been ended at once, with the reason."""
        self.study.sampler = random_sampler(self._next_seed()) if at_random else self._sampler
        trial = self.study.ask(self._distributions)
        student = make_student(self.plan.student, trial.params, self.plan.teacher_depth)
        costs = count_costs(student, self.plan.speed)
        trial.set_user_attr("worker", worker_id())
        trial.set_user_attr("costs", asdict(costs))
        shape = digest_json(student.model_dump(mode="json"))
        trial.set_user_attr("shape", shape)
        excess = self.plan.limits.excess(costs)
        for name, share in excess.items():
            trial.set_constraint(name, share)
        if any(share > 0 for share in excess.values()):
            self.study.tell(trial, state=TrialState.PRUNED)
            return trial, student, costs, "infeasible"
        earlier = [t for t in self._others(trial) if counts(t) or t.number < trial.number]
        if any(other.user_attrs.get("shape") == shape for other in earlier):
            give_up(self.study, _frozen(trial), "tried before")
            return trial, student, costs, "duplicate"
        if len(earlier) >= self.plan.sweep.trials:
            end = retry if "retry_of" in trial.user_attrs else give_up
            end(self.study, _frozen(trial), "enough without it")
            return trial, student, costs, "surplus"
        trial.set_user_attr("student", describe_student(student))
        return trial, student, costs, None

    def _others(self, trial: Trial) -> list[FrozenTrial]:
        """The trials beside `trial` that count or run."""
        trials = self.study.get_trials(deepcopy=False)
        return [t for t in trials if t.number != trial.number and (counts(t) or t.state == TrialState.RUNNING)]

    def run_one(self, trial: Trial, student: StudentParams, costs: Costs) -> str | None:
        """Run a trial and tell the study; the message where it failed. An interrupt queues it again."""
        number = trial.user_attrs.get("retry_of", trial.number)
        folder = self.plan.folder / f"trial-{number:04d}"
        rule = self._rule(trial, costs)
        try:
            with Heart(self.study, trial._trial_id, self.plan.beat_seconds), self._interrupts.allowed():
                figures = self._opened()(f"trial-{number:04d}", student, folder, rule)
        except StopTraining as stop:
            trial.set_user_attr("stopped", str(stop))
            self.study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
        except UpdateFinishedTrialError:
            # Others had given this trial up by then; what it came to is theirs.
            return None
        except UserError as error:
            give_up(self.study, _frozen(trial), str(error))
            return str(error)
        except KeyboardInterrupt:
            retry(self.study, _frozen(trial), "interrupted")
            raise
        else:
            curve = dict(read_curve(_frozen(trial)))
            figures = {**figures, "dev_loss": min(curve.values())} if curve else figures
            known = {**asdict(costs), **figures}
            trial.set_user_attr("metrics", figures)
            values = [float(known[objective]) for objective in self.plan.sweep.objectives]
            self.study.tell(trial, values, skip_if_finished=True)
        return None

    def _rule(self, trial: Trial, costs: Costs) -> StoppingRule:
        sweep = self.plan.sweep

        def note(update: int, loss: float) -> None:
            with self._interrupts.deferred():
                trial.set_user_attr(f"dev_loss:{update}", loss)

        def finished() -> list[Finished]:
            with self._interrupts.deferred():
                return _finished(self.study, sweep)

        return StoppingRule(
            _cost_objectives(sweep, asdict(costs)),
            sweep.budget.updates,
            sweep.stop_margin,
            sweep.stop_after,
            finished,
            note,
        )

    def _opened(self) -> RunTrial:
        """What runs trials, opened when the first one is to be trained."""
        if self._run_trial is None:
            module, _, name = self.plan.objective.partition(":")
            factory: Callable[[Plan], RunTrial] = getattr(importlib.import_module(module), name)
            self._run_trial = factory(self.plan)
        return self._run_trial

    def _make_sampler(self) -> Any:
        seed = self._next_seed()
        return random_sampler(seed) if self.plan.random else make_sampler(seed)

    def _next_seed(self) -> int:
        self._seed += 7_919
        return self._seed % 2**31


def _finished(study: Study, sweep: SweepParams) -> list[Finished]:
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [Finished(_cost_objectives(sweep, t.user_attrs["costs"]), dict(read_curve(t))) for t in trials]


def _cost_objectives(sweep: SweepParams, costs: dict[str, float]) -> tuple[float, ...]:
    return tuple(costs[name] for name in sweep.objectives if name in COSTS)


def _frozen(trial: Trial) -> FrozenTrial:
    return trial.storage.get_trial(trial._trial_id)
