"""One trial: a student trained for a small budget and probed. Its result is kept and reused."""

import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fithubert.code_version import code_version
from fithubert.config.params import Params
from fithubert.config.search import SweepParams, TrialBudget
from fithubert.config.students import StudentParams
from fithubert.data.manifest import Manifest
from fithubert.devices import choose_device
from fithubert.distill import TrainingOptions, TrainResult, train_student
from fithubert.distill.targets import TrainingData
from fithubert.files import digest_json, read_json, write_json
from fithubert.models.macs import REFERENCE_SECONDS
from fithubert.models.runtime import ReadOut
from fithubert.models.weights import count_parameters, load_student
from fithubert.records import AblationTrial, TaskScore
from fithubert.search.space import count_reference_macs
from fithubert.store.extract import ExtractSettings, extract_features
from fithubert.store.read import FeatureStore
from fithubert.superb.run import run_task, task_kind
from fithubert.training.events import Evaluated, StepDone, StopTraining, TrainingListener


@dataclass(frozen=True)
class Trial:
    """A student to train and probe with a budget and a seed."""

    name: str
    student: StudentParams
    budget: TrialBudget
    seed: int


@dataclass(frozen=True)
class TrialData:
    """The data that all trials share: the corpus, and the teacher with its hidden states on train and dev."""

    manifest: Manifest
    training: TrainingData


def run_trial(
    trial: Trial, params: Params, data: TrialData, directory: Path, listeners: Iterable[TrainingListener] = ()
) -> AblationTrial:
    """Train and probe the student, and keep the result in `directory`/trial.json.

    An existing result of the same trial, data and code is returned; any other is replaced. A killed trial resumes from
    its last checkpoint. Settings that the budget leaves open (batches, schedule, codecs) come from `params`. Raises
    UserError if the student does not fit the teacher or if training fails.
    """
    identity = _identify(trial, params, data)
    record, mark = directory / "trial.json", directory / "identity.json"
    started = time.monotonic()
    if not mark.is_file() or read_json(mark) != identity:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        write_json(mark, identity)
    elif record.is_file():
        return AblationTrial.read(record)
    trained = _train(trial, params, data.training, directory / "student", listeners)
    model = ReadOut(load_student(trained.directory), trial.name).to(choose_device(params.teacher.device))
    tasks = _probe(trial, model, params, data.manifest, directory / "features")
    ended = trained.ended
    result = AblationTrial(
        variant=trial.name,
        seed=trial.seed,
        dev_loss=ended.best_dev_loss,
        curve=tuple((point.update, point.dev_loss) for point in ended.curve),
        tasks=tasks,
        parameters=count_parameters(model.student),
        macs_per_second=sum(count_reference_macs(model.student.config).values()) / REFERENCE_SECONDS,
        updates=ended.updates,
        audio_hours=ended.audio_hours,
        train_seconds=ended.seconds,
        seconds=time.monotonic() - started,
    )
    result.write(record)
    return result


@dataclass(frozen=True)
class FinishedTrial:
    """The cost objectives of a trial that was trained to the end, and its dev loss of the last head by update."""

    costs: tuple[float, ...]
    curve: dict[int, float]


class StoppingRule(TrainingListener):
    """Stops a training if `settings.stop_after` finished trials are better at the same update, from half time on.

    A trial is compared only with trials that cost no more, so cheap shapes are not stopped for being small.
    `curve` holds the dev loss of the last head, which every shape has, by update. `save_curve` is called with it.
    If `is_interrupted` returns True, the training ends with KeyboardInterrupt at its next update.
    """

    def __init__(
        self,
        settings: SweepParams,
        costs: tuple[float, ...],
        read_finished: Callable[[], list[FinishedTrial]],
        save_curve: Callable[[dict[int, float]], None],
        curve: dict[int, float],
        is_interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        self._settings, self._costs = settings, costs
        self._read_finished, self._save_curve = read_finished, save_curve
        self._is_interrupted = is_interrupted
        self.curve = curve

    def on_step(self, event: StepDone) -> None:
        """Raise KeyboardInterrupt if the worker was interrupted."""
        self._check_interrupt()

    def on_evaluation(self, event: Evaluated) -> None:
        """Save the loss. Raises StopTraining if the rule applies."""
        loss = list(event.layer_losses.values())[-1]
        self.curve[event.update] = loss
        self._save_curve(self.curve)
        self._check_interrupt()
        updates, margin = self._settings.budget.updates, self._settings.stop_margin
        if event.update < updates / 2 or event.update >= updates:
            return
        better = sum(
            all(theirs <= ours for theirs, ours in zip(other.costs, self._costs, strict=True))
            and other.curve.get(event.update, loss) < loss * (1 - margin)
            for other in self._read_finished()
        )
        if better >= self._settings.stop_after:
            raise StopTraining(f"at update {event.update} {better} cheaper trials were {margin:.0%} better")

    def _check_interrupt(self) -> None:
        if self._is_interrupted():
            raise KeyboardInterrupt


class RunTrial(Protocol):
    """Trains and probes one student in `folder`, with `rule` as a listener; returns figures by name.

    The figures are the objectives of `sweep.objectives` that are not costs, and any others.
    """

    def __call__(self, name: str, student: StudentParams, folder: Path, rule: StoppingRule) -> dict[str, float]: ...


#: Keys of `distill` that the budget of a trial sets.
_OF_BUDGET = ("seed", "updates", "dev_every_updates", "checkpoint_every_updates")


def _train(
    trial: Trial, params: Params, data: TrainingData, folder: Path, listeners: Iterable[TrainingListener]
) -> TrainResult:
    budget = trial.budget
    schedule = params.distill.model_copy(
        update={
            "seed": trial.seed,
            "updates": budget.updates,
            "dev_every_updates": budget.dev_every_updates,
            "checkpoint_every_updates": budget.dev_every_updates,
        }
    )
    seconds = min(trial.student.init_seconds, budget.init_seconds)
    # The budget decides, whatever the student has of its own.
    own = {key: value for key, value in trial.student.distill.items() if key not in _OF_BUDGET}
    short = trial.student.model_copy(update={"init_seconds": seconds, "updates": None, "distill": own})
    return train_student(short, schedule, data, folder, TrainingOptions(listeners))


def _probe(trial: Trial, model: ReadOut, params: Params, manifest: Manifest, folder: Path) -> dict[str, TaskScore]:
    """The scores of the budget's tasks that the corpus can score. The features in `folder` are deleted at the end."""
    budget = trial.budget
    if not budget.tasks:
        return {}
    kinds = {task_kind(task) for task in budget.tasks}
    probed = manifest if None in kinds else manifest.select(kind={kind for kind in kinds if kind is not None})
    # No two trials share the seed of a head.
    seeds = range(trial.seed * budget.probe_seeds, (trial.seed + 1) * budget.probe_seeds)
    settings = ExtractSettings(layers="all", with_waveform=False, **params.extract.model_dump())
    extract_features(model, probed, folder, settings)
    store = FeatureStore.open(folder)
    scores = {}
    for task, task_budget in budget.tasks.items():
        result = run_task(task, store, probed, task_budget, seeds)
        if result.reason is None:
            scores[task] = TaskScore(result.dev, result.metrics, result.intervals)
    shutil.rmtree(folder)
    return scores


def _identify(trial: Trial, params: Params, data: TrialData) -> str:
    """A digest of everything that decides the result."""
    training = data.training
    return digest_json(
        {
            "student": trial.student.model_dump(mode="json"),
            "budget": trial.budget.model_dump(mode="json"),
            "distill": params.distill.model_dump(mode="json"),
            "extract": params.extract.model_dump(mode="json"),
            "seed": trial.seed,
            "corpus": data.manifest.fingerprint,
            "teacher": training.teacher and training.teacher.fingerprint,
            "targets": [training.train.fingerprint, training.dev.fingerprint],
            "code": code_version(__name__),
        }
    )
