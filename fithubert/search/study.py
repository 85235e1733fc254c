"""An Optuna study in a database, and the results that its trials keep there."""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from fithubert.config.students import StudentParams
from fithubert.config.sweep import COSTS, SpaceParams, SweepParams
from fithubert.errors import UserError, without_password
from fithubert.search.space import Limits, Speed
from fithubert.superb.run import find_learner

optuna.logging.set_verbosity(optuna.logging.ERROR)
# Heartbeats, retries and the names of objectives are marked experimental; every worker would print a warning.
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

#: Random trials before the sampler models the results.
_STARTUP_TRIALS = 6
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
        options = {"connect_args": {"timeout": 60}} if self.url.startswith("sqlite:") else {}
        try:
            return RDBStorage(
                self.url,
                engine_kwargs=options,
                heartbeat_interval=self.heartbeat_seconds,
                grace_period=self.grace_seconds,
                heartbeat_stale_trial_callback=retry_trial,
            )
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            shown = without_password(self.url)
            raise UserError(f"--storage {shown}: cannot be opened ({lines[0].replace(self.url, shown)})") from None

    def join(self) -> Study:
        """The study. Raises UserError with the names of the existing studies if it is not in the database."""
        storage = self.open_storage()
        try:
            return optuna.load_study(study_name=self.name, storage=storage)
        except KeyError:
            known = ", ".join(sorted(optuna.get_all_study_names(storage))) or "none"
            raise UserError(f"study {self.name!r}: not in this database, which has {known}") from None


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
) -> tuple[Study, bool]:
    """The study at `place`, and whether this call created it. `first`: the choices of its first trial.

    The result of `measure` is stored as attributes of a new study, so that all machines share the same values.
    Raises UserError naming the setting if the study was created with a different one.
    """
    directions = ["minimize" if less_is_better(objective) else "maximize" for objective in objectives]
    try:
        study = optuna.create_study(study_name=place.name, storage=place.open_storage(), directions=directions)  # type: ignore[arg-type]
    except optuna.exceptions.DuplicatedStudyError:
        study = place.join()
        _wait_for_settings(study)
        _check_settings(study, settings)
        return study, False
    study.set_metric_names(list(objectives))
    for key, value in measure().items():
        study.set_user_attr(key, value)
    if first is not None:
        study.enqueue_trial(dict(first))
    # Written last, because other machines wait for it.
    study.set_user_attr("settings", dict(settings))
    return study, True


def less_is_better(objective: str) -> bool:
    """Whether a lower value of the objective is better."""
    return objective in (*COSTS, "dev_loss") or find_learner(objective).selection.lower


def make_sampler(seed: int) -> BaseSampler:
    """Tree-structured Parzen estimators for several objectives. Running trials are treated as poor results."""
    return TPESampler(seed=seed, multivariate=True, constant_liar=True, n_startup_trials=_STARTUP_TRIALS)


def make_random_sampler(seed: int) -> BaseSampler:
    """Choices that do not depend on earlier trials."""
    return RandomSampler(seed=seed)


def suggest_choices(trial: Trial, space: SpaceParams) -> dict[str, Any]:
    """One value of every list of the space: evenly spaced numbers are modelled as numbers, others as categories."""
    return {name: _suggest(trial, name, values) for name, values in space}


def counts(trial: FrozenTrial) -> bool:
    """Whether a trial counts towards the requested number: trained to the end, or stopped by the rule."""
    return trial.state == TrialState.COMPLETE or (trial.state == TrialState.PRUNED and "stopped" in trial.user_attrs)


def first_number(trial: FrozenTrial) -> int:
    """The number of the trial that `trial` retries, or its own. The trial's folder is named after it."""
    number = RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)
    return trial.number if number is None else number


@dataclass(frozen=True)
class Row:
    """A trained trial. `state`: `finished`, or `stopped` by the rule (then without values).

    `values`: objective -> value. `metrics`: all figures of the trial, its costs included. `curve`: (update, dev loss of
    the last head). `student`: an entry of `params.students`.
    """

    number: int
    state: str
    choices: dict[str, Any]
    student: dict[str, Any]
    values: dict[str, float]
    metrics: dict[str, float]
    curve: tuple[tuple[int, float], ...]

    @property
    def name(self) -> str:
        """The trial's name in tables and in `params.students`."""
        return f"sweep_{self.number:03d}"


def read_rows(study: Study) -> list[Row]:
    """The trained trials, by number."""
    return [_read_row(study, trial) for trial in study.get_trials(deepcopy=False) if counts(trial)]


def _read_row(study: Study, trial: FrozenTrial) -> Row:
    attributes = trial.user_attrs
    return Row(
        number=trial.number,
        state="finished" if trial.state == TrialState.COMPLETE else "stopped",
        choices=dict(trial.params),
        student=attributes["student"],
        values=dict(zip(study.metric_names or [], trial.values or [], strict=False)),
        metrics={**attributes["costs"], **attributes.get("metrics", {})},
        curve=tuple(sorted(read_curve(trial).items())),
    )


def read_curve(trial: FrozenTrial) -> dict[int, float]:
    """Update -> dev loss of the last head, for every evaluation."""
    return {int(update): loss for update, loss in trial.user_attrs.get("curve", {}).items()}


def measure_importance(study: Study) -> dict[str, dict[str, float]]:
    """Objective -> choice -> its share of the objective's variance (PED-ANOVA); empty with fewer than four trials."""
    if len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) < 4:
        return {}
    return {name: _measure_one(study, index) for index, name in enumerate(study.metric_names or [])}


def describe_student(student: StudentParams) -> dict[str, Any]:
    """A student as an entry of `params.students`, without default values."""
    return student.model_dump(mode="json", exclude_defaults=True)


def _measure_one(study: Study, index: int) -> dict[str, float]:
    sign = -1.0 if study.directions[index] == optuna.study.StudyDirection.MAXIMIZE else 1.0

    def target(trial: FrozenTrial) -> float:
        return sign * trial.values[index]

    with warnings.catch_warnings():
        # Optuna warns that it treats low targets as good; `sign` makes that true.
        warnings.simplefilter("ignore", UserWarning)
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        return dict(optuna.importance.get_param_importances(study, evaluator=evaluator, target=target))


def _suggest(trial: Trial, name: str, values: Sequence[Any]) -> Any:
    ordered = sorted(values) if not isinstance(values[0], str) else []
    steps = {round(high - low, 9) for low, high in pairwise(ordered)}
    if len(steps) != 1:
        return trial.suggest_categorical(name, values)
    if isinstance(ordered[0], int):
        return trial.suggest_int(name, ordered[0], ordered[-1], step=int(steps.pop()))
    return trial.suggest_float(name, ordered[0], ordered[-1], step=steps.pop())


def _wait_for_settings(study: Study, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while "settings" not in study.user_attrs:
        if time.monotonic() > until:
            raise UserError(f"study {study.study_name!r} was created but never set up; give another --study")
        time.sleep(0.2)


def _check_settings(study: Study, settings: Mapping[str, Any]) -> None:
    made = study.user_attrs.get("settings", {})
    for key in settings:
        if key not in _FREE and made.get(key) != settings[key]:
            raise UserError(f"study {study.study_name!r} was created with another {key}; give another --study")
