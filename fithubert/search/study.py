"""An Optuna study in a database: how it is set up and joined, and how shapes are drawn for it."""

import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from fithubert.config.search import COSTS, SpaceParams, SweepParams
from fithubert.config.students import StudentParams
from fithubert.errors import UserError, without_password
from fithubert.search.space import Choices, Limits, Speed
from fithubert.superb.run import find_learner

optuna.logging.set_verbosity(optuna.logging.ERROR)
# Heartbeats, retries and the names of objectives are marked experimental; every worker would print a warning.
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

#: Random trials before the sampler models the results.
_STARTUP_TRIALS = 6
#: One of so many draws for a trial is random, in case the modelled ones stay above a limit.
_RANDOM_EVERY = 6
#: Settings that may differ when a study is continued: they change no result.
_FREE = ("trials",)
#: Runs a shape again from its last checkpoint, at most three times.
retry_trial = RetryHeartbeatStaleTrialCallback(max_retry=3)


@dataclass(frozen=True)
class StudyPlace:
    """The name of a study and its database, as an SQLAlchemy URL.

    Each running trial writes a heartbeat every `heartbeat_seconds`. Without one for `grace_seconds`, it is retried.
    """

    name: str
    url: str
    heartbeat_seconds: int = 10
    grace_seconds: int = 60

    def open_storage(self) -> RDBStorage:
        """The database. Raises UserError if it or its driver is missing; the message leaves out the password."""
        if self.url.startswith("sqlite:///"):
            Path(self.url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        # Workers write to one SQLite file in turn; each waits up to a minute.
        sqlite = self.url.startswith("sqlite:")
        # A connection that a server has closed meanwhile is opened again.
        options = {"connect_args": {"timeout": 60}} if sqlite else {"pool_pre_ping": True}
        try:
            return RDBStorage(
                self.url,
                engine_kwargs=options,
                heartbeat_interval=self.heartbeat_seconds,
                grace_period=self.grace_seconds,
                heartbeat_stale_trial_callback=retry_trial,
            )
        except Exception as error:
            raise UserError(
                f"--storage {without_password(self.url)}: cannot be opened ({self._explain(error)})"
            ) from None

    def join(self) -> Study:
        """The study. Raises UserError with the names of the existing studies if it is not in the database."""
        storage = self.open_storage()
        try:
            return optuna.load_study(study_name=self.name, storage=storage)
        except KeyError:
            known = ", ".join(sorted(optuna.get_all_study_names(storage))) or "none"
            raise UserError(f"study {self.name!r}: not in this database, which has {known}") from None

    @contextmanager
    def names_outage(self) -> Iterator[None]:
        """An error of the database inside, as a full disk, damage or a server that is down, is a UserError."""
        try:
            yield
        except (optuna.exceptions.StorageInternalError, json.JSONDecodeError) as error:
            reason = self._explain(error.__cause__ or error)
            raise UserError(
                f"sweep: the study's database failed ({reason}); finished trials are kept, the same command continues"
            ) from None

    def _explain(self, error: BaseException) -> str:
        """The first line of the database's own error, without the password."""
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return lines[0].replace(self.url, without_password(self.url))


@dataclass(frozen=True)
class Search:
    """The task of a sweep, the same for all its workers; `student`: all that trials have in common."""

    place: StudyPlace
    folder: Path
    settings: SweepParams
    student: StudentParams
    teacher_depth: int
    limits: Limits
    speed: Speed


def create_study(
    place: StudyPlace,
    objectives: Sequence[str],
    settings: Mapping[str, Any],
    first: Mapping[str, Any] | None = None,
    measure: Callable[[], Mapping[str, Any]] = dict,
    wait_seconds: float = 10.0,
) -> tuple[Study, bool]:
    """The study at `place`, and whether this call set it up. `first`: the choices of its first trial.

    The result of `measure` is stored as attributes of a new study, so that all machines share the same values. A study
    without settings after `wait_seconds` is set up again: the process that created it was killed. Raises UserError
    naming the setting if the study was created with a different one.
    """
    directions = ["minimize" if _less_is_better(objective) else "maximize" for objective in objectives]
    storage = place.open_storage()
    # Measured before the study is created, because other machines wait from then on.
    measured = None if place.name in optuna.get_all_study_names(storage) else measure()
    try:
        study = optuna.create_study(study_name=place.name, storage=storage, directions=directions)  # type: ignore[arg-type]
    except optuna.exceptions.DuplicatedStudyError:
        study = place.join()
        if _has_settings(study, wait_seconds):
            _check_settings(study, settings)
            return study, False
    if [direction.name.lower() for direction in study.directions] != directions:
        raise UserError(f"study {place.name!r} was created with other objectives; give another --study")
    study.set_metric_names(list(objectives))
    for key, value in (measure() if measured is None else measured).items():
        study.set_user_attr(key, value)
    if first is not None:
        study.enqueue_trial(dict(first), skip_if_exists=True)
    # Written last, because other machines wait for it.
    study.set_user_attr("settings", dict(settings))
    return study, True


class ShapeSampler(BaseSampler):
    """Draws shapes until one is not refused; nothing is stored about the others.

    Draws come from tree-structured Parzen estimators for several objectives, which treat running trials as poor
    results; if `random`, they do not depend on results. `refuses` decides from the choices alone. After `attempts`
    refused draws for one trial, `exhausted` is True and the trial has the last one.
    """

    def __init__(
        self, space: SpaceParams, seed: int, refuses: Callable[[Choices], bool], random: bool, attempts: int
    ) -> None:
        self.exhausted = False
        self._space = {name: _distribution(values) for name, values in space.choices.items()}
        self._several = {name: choice for name, choice in self._space.items() if not choice.single()}
        self._refuses, self._attempts = refuses, attempts
        self._random = RandomSampler(seed=seed + 1)
        modelled = TPESampler(seed=seed, multivariate=True, constant_liar=True, n_startup_trials=_STARTUP_TRIALS)
        self._sampler: BaseSampler = self._random if random else modelled

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """The choices of a trial: drawn now, or those with which it was queued."""
        if not self._several:
            # In a space of one shape, Optuna draws only if asked.
            _ = trial.relative_params
        return {name: _suggest(trial, name, distribution) for name, distribution in self._space.items()}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All choices; Optuna calls it."""
        return self._space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The choices of a trial; Optuna calls it."""
        for attempt in range(1, self._attempts + 1):
            sampler = self._sampler if attempt % _RANDOM_EVERY else self._random
            choices = self._draw(sampler, study, trial)
            if not self._refuses(choices):
                return choices
        self.exhausted = True
        return choices

    def sample_independent(self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> Any:
        """A choice of a queued trial that lacks it; Optuna calls it."""
        return self._random.sample_independent(study, trial, name, distribution)

    def _draw(self, sampler: BaseSampler, study: Study, trial: FrozenTrial) -> dict[str, Any]:
        drawn = sampler.sample_relative(study, trial, self._several)
        return {
            name: drawn[name] if name in drawn else self._random.sample_independent(study, trial, name, distribution)
            for name, distribution in self._space.items()
        }


def counts(trial: FrozenTrial) -> bool:
    """Whether a trial counts towards the requested number: trained to the end, or stopped by the rule."""
    return trial.state == TrialState.COMPLETE or (trial.state == TrialState.PRUNED and "stopped" in trial.user_attrs)


def first_number(trial: FrozenTrial) -> int:
    """The number of the trial that `trial` retries, or its own. The trial's folder is named after it."""
    number = RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)
    return trial.number if number is None else number


def read_curve(trial: FrozenTrial) -> dict[int, float]:
    """Update -> dev loss of the last head, for every evaluation."""
    return {int(update): loss for update, loss in trial.user_attrs.get("curve", {}).items()}


def _less_is_better(objective: str) -> bool:
    return objective in (*COSTS, "dev_loss") or find_learner(objective).selection.lower


def _distribution(values: Sequence[Any]) -> BaseDistribution:
    """Evenly spaced numbers are modelled as numbers, others as categories."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    ordered = sorted(values) if numbers else []
    steps = {round(high - low, 9) for low, high in pairwise(ordered)}
    if len(steps) != 1:
        return CategoricalDistribution(values)
    if all(isinstance(value, int) for value in ordered):
        return IntDistribution(ordered[0], ordered[-1], step=int(steps.pop()))
    return FloatDistribution(ordered[0], ordered[-1], step=steps.pop())


def _suggest(trial: Trial, name: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(name, distribution.low, distribution.high, step=distribution.step)
    assert isinstance(distribution, FloatDistribution)  # see _distribution
    return trial.suggest_float(name, distribution.low, distribution.high, step=distribution.step)


def _has_settings(study: Study, wait_seconds: float) -> bool:
    """Whether the study is set up, within `wait_seconds`."""
    until = time.monotonic() + wait_seconds
    while "settings" not in study.user_attrs:
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True


def _check_settings(study: Study, settings: Mapping[str, Any]) -> None:
    made = study.user_attrs["settings"]
    for key in settings:
        # Earlier studies lack keys that were added since.
        if key in made and key not in _FREE and made[key] != settings[key]:
            raise UserError(f"study {study.study_name!r} was created with another {key}; give another --study")
