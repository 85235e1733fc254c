"""A study in its storage: joined by name from any process, and what its trials say of themselves."""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from fithubert.config.students import StudentParams
from fithubert.config.sweep import COSTS, SpaceParams
from fithubert.errors import UserError, without_password
from fithubert.superb.learners import find_learner

optuna.logging.set_verbosity(optuna.logging.ERROR)

#: Trials that the sampler draws at random before it models them.
_STARTUP = 6
#: Settings that may differ when a study goes on: they change no result.
_FREE = ("trials",)


@dataclass(frozen=True)
class Row:
    """A trial that was trained: `state` is `finished` or `stopped` (by the rule, without values).

    `values`: objective -> value; `metrics`: every figure of the trial, costs among them; `curve`: (update, dev loss of
    the last head). `student` is an entry of `params.students`.
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


def open_storage(url: str) -> BaseStorage:
    """The storage at `url`: a path ending in `.log` is a journal, anything else a database as SQLAlchemy names it.

    Raises UserError where the database or its driver is not there; the message leaves out a password.
    """
    if url.endswith(".log"):
        Path(url).parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(url))
    try:
        return RDBStorage(url)
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        shown = without_password(url)
        raise UserError(f"--storage {shown}: cannot be opened ({lines[0].replace(url, shown)})") from None


def create_study(
    name: str,
    storage: BaseStorage,
    objectives: Sequence[str],
    settings: Mapping[str, Any],
    first: Mapping[str, Any] | None,
    measure: Callable[[], Mapping[str, Any]] = dict,
) -> tuple[Study, bool]:
    """The study `name`, and whether this call made it; `first` are the choices of its first trial.

    What `measure` gives becomes attributes of a new study, so that all machines that join it share them.

    Raises UserError naming the setting where the study was made with others.
    """
    directions = ["minimize" if less_is_better(objective) else "maximize" for objective in objectives]
    try:
        study = optuna.create_study(study_name=name, storage=storage, directions=directions)  # type: ignore[arg-type]
    except optuna.exceptions.DuplicatedStudyError:
        study = join_study(name, storage)
        _wait_for_settings(study)
        _check_settings(study, settings)
        return study, False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(list(objectives))
    for key, value in measure().items():
        study.set_user_attr(key, value)
    if first is not None:
        study.enqueue_trial(dict(first))
    # Last: who joins waits for it.
    study.set_user_attr("settings", dict(settings))
    return study, True


def join_study(name: str, storage: BaseStorage) -> Study:
    """The study `name`; raises UserError with the names that there are."""
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        known = ", ".join(sorted(optuna.get_all_study_names(storage))) or "none"
        raise UserError(f"study {name!r}: not in this storage, which has {known}") from None


def less_is_better(objective: str) -> bool:
    """Whether an objective is to be made small."""
    return objective in (*COSTS, "dev_loss") or find_learner(objective).selection.lower


def distributions(space: SpaceParams) -> dict[str, BaseDistribution]:
    """One choice for every list of the space: a number where the values are evenly spaced numbers, else a category."""
    return {name: _distribution(values) for name, values in space}


def make_sampler(seed: int) -> BaseSampler:
    """Tree-structured Parzen estimators for several objectives, which take running trials for poor ones."""
    return TPESampler(
        seed=seed,
        multivariate=True,
        constant_liar=True,
        n_startup_trials=_STARTUP,
    )


def random_sampler(seed: int) -> BaseSampler:
    """Choices without regard to what has been tried."""
    return RandomSampler(seed=seed)


def counts(trial: FrozenTrial) -> bool:
    """Whether a trial is one of those asked for: trained to its end, or until the rule stopped it."""
    return trial.state == TrialState.COMPLETE or (trial.state == TrialState.PRUNED and "stopped" in trial.user_attrs)


def read_rows(study: Study) -> list[Row]:
    """The trials that were trained, by number."""
    rows = []
    for trial in study.get_trials(deepcopy=False):
        if not counts(trial):
            continue
        attributes = trial.user_attrs
        values = dict(zip(study.metric_names or [], trial.values or [], strict=False))
        rows.append(
            Row(
                number=trial.number,
                state="finished" if trial.state == TrialState.COMPLETE else "stopped",
                choices=dict(trial.params),
                student=attributes["student"],
                values=values,
                metrics={**attributes["costs"], **attributes.get("metrics", {})},
                curve=read_curve(trial),
            )
        )
    return rows


def read_curve(trial: FrozenTrial) -> tuple[tuple[int, float], ...]:
    """(update, dev loss of the last head) of every evaluation."""
    points = {int(k.partition(":")[2]): v for k, v in trial.user_attrs.items() if k.startswith("dev_loss:")}
    return tuple(sorted(points.items()))


def measure_importance(study: Study) -> dict[str, dict[str, float]]:
    """objective -> choice -> its share of what the objective varies by (PED-ANOVA); empty for too few trials."""
    if sum(trial.state == TrialState.COMPLETE for trial in study.get_trials(deepcopy=False)) < 4:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    return {name: _measure_one(study, index, evaluator) for index, name in enumerate(study.metric_names or [])}


def describe_student(student: StudentParams) -> dict[str, Any]:
    """A student as an entry of `params.students`, without what is as by default."""
    return student.model_dump(mode="json", exclude_defaults=True)


def _measure_one(study: Study, index: int, evaluator: Any) -> dict[str, float]:
    sign = -1.0 if study.directions[index] == optuna.study.StudyDirection.MAXIMIZE else 1.0

    def target(trial: FrozenTrial) -> float:
        return sign * trial.values[index]

    with warnings.catch_warnings():
        # It says that low targets are taken for good ones, which the sign sees to.
        warnings.simplefilter("ignore", UserWarning)
        return dict(optuna.importance.get_param_importances(study, evaluator=evaluator, target=target))


def _distribution(values: Sequence[Any]) -> BaseDistribution:
    ordered = sorted(values) if not isinstance(values[0], str) else []
    steps = {round(high - low, 9) for low, high in pairwise(ordered)}
    if len(steps) != 1:
        return CategoricalDistribution(values)
    if isinstance(ordered[0], int):
        return IntDistribution(ordered[0], ordered[-1], step=int(steps.pop()))
    return FloatDistribution(ordered[0], ordered[-1], step=steps.pop())


def _wait_for_settings(study: Study, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while "settings" not in study.user_attrs:
        if time.monotonic() > until:
            raise UserError(f"study {study.study_name!r} was begun and never set up; give another --study")
        time.sleep(0.2)


def _check_settings(study: Study, settings: Mapping[str, Any]) -> None:
    made = study.user_attrs.get("settings", {})
    for key in settings:
        if key not in _FREE and made.get(key) != settings[key]:
            raise UserError(f"study {study.study_name!r} was made with another {key}; give another --study")
