"""One trial: a student trained for a small budget and probed, as a result that is kept and never made twice."""

import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fithubert.config.ablation import TrialBudget
from fithubert.config.params import Params
from fithubert.config.students import StudentParams
from fithubert.data.manifest import Manifest
from fithubert.distill.targets import Targets, TrainingData
from fithubert.distill.train import TrainingOptions, TrainResult, train_student
from fithubert.files import digest, digest_json, read_json, write_json
from fithubert.frames import SAMPLE_RATE_HZ
from fithubert.models.hubert import HubertTeacher
from fithubert.models.readout import ReadOut
from fithubert.models.recipes import resolve
from fithubert.models.runtime import choose_device
from fithubert.models.weights import load_student
from fithubert.profile.counts import analytic_macs
from fithubert.profile.run import REFERENCE_SECONDS
from fithubert.store.extract import ExtractSettings, extract_features
from fithubert.store.read import FeatureStore
from fithubert.superb.learners import task_kind
from fithubert.superb.run import NotScorable, TaskResult, run_task
from fithubert.training.events import TrainingListener

#: The rooms and files whose code decides what a trial comes to.
_ROOMS = (
    "config",
    "data",
    "distill",
    "frames.py",
    "importers",
    "models",
    "profile/counts.py",
    "records",
    "search/__init__.py",
    "search/trial.py",
    "store",
    "superb",
    "tasks.py",
    "training",
)
_PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class TrialData:
    """What all trials share: the corpus, the teacher, and its hidden states on train and dev."""

    manifest: Manifest
    teacher: HubertTeacher
    train: Targets
    dev: Targets


@dataclass(frozen=True)
class TaskScore:
    """One probed task. `dev`: the metric that selects, by name; `test`: its metrics, with `intervals` (low, high)."""

    dev: dict[str, float]
    test: dict[str, float]
    intervals: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class TrialResult:
    """What one trial came to.

    `curve`: (update, dev loss) of every evaluation. `tasks`: task -> scores, without those that the corpus cannot
    score. `parameters`: trunk and read-out, what downstream use loads; `macs_per_second`: multiply-accumulates of a
    second of audio, on 10 s. `train_seconds` is the training's own wall time, `seconds` that of all.
    """

    name: str
    seed: int
    dev_loss: float
    curve: tuple[tuple[int, float], ...]
    tasks: dict[str, TaskScore]
    parameters: int
    macs_per_second: float
    updates: int
    audio_hours: float
    train_seconds: float
    seconds: float


def run_trial(
    name: str,
    student: StudentParams,
    budget: TrialBudget,
    params: Params,
    data: TrialData,
    seed: int,
    directory: Path,
    listeners: Iterable[TrainingListener] = (),
) -> TrialResult:
    """Train `student` for `budget`, probe it, and keep the result in `directory`/trial.json.

    A result that is there and of the same student, budget, seed, data and code is returned as it is; any other is
    replaced. A trial that was killed goes on from its last checkpoint. What `budget` does not say (batches, schedule,
    codecs) is as `params` has it. Raises UserError where the student does not fit the teacher or training fails.
    """
    identity = _identity(student, budget, params, data, seed)
    record, mark = directory / "trial.json", directory / "identity.json"
    begun = time.monotonic()
    if not mark.is_file() or read_json(mark) != identity:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        write_json(mark, identity)
    elif record.is_file():
        return _from_json(read_json(record))
    trained = _train(student, budget, params, data, seed, directory, listeners)
    model = ReadOut(load_student(trained.directory), name).to(choose_device(params.teacher.device))
    tasks = _probe(model, budget, params, data.manifest, seed, directory / "features")
    seconds, ended = time.monotonic() - begun, trained.ended
    result = TrialResult(
        name=name,
        seed=seed,
        dev_loss=ended.best_dev_loss,
        curve=tuple((point.update, point.dev_loss) for point in ended.curve),
        tasks=tasks,
        parameters=sum(p.numel() for p in model.student.parameters()),
        macs_per_second=macs_per_second(student),
        updates=ended.updates,
        audio_hours=ended.audio_hours,
        train_seconds=ended.seconds,
        seconds=seconds,
    )
    write_json(record, asdict(result))
    return result


def macs_per_second(student: StudentParams) -> float:
    """Multiply-accumulates of a second of audio, counted from the shape alone."""
    config = resolve(student.recipe, student.shape)
    return sum(analytic_macs(config, int(REFERENCE_SECONDS * SAMPLE_RATE_HZ)).values()) / REFERENCE_SECONDS


def _train(
    student: StudentParams,
    budget: TrialBudget,
    params: Params,
    data: TrialData,
    seed: int,
    directory: Path,
    listeners: Iterable[TrainingListener],
) -> TrainResult:
    schedule = params.distill.model_copy(
        update={
            "seed": seed,
            "updates": budget.updates,
            "dev_every_updates": budget.dev_every_updates,
            "checkpoint_every_updates": budget.dev_every_updates,
        }
    )
    short = student.model_copy(update={"init_seconds": min(student.init_seconds, budget.init_seconds)})
    targets = TrainingData(data.train, data.dev, data.teacher)
    return train_student(short, schedule, targets, directory / "student", TrainingOptions(listeners))


def _probe(
    model: ReadOut, budget: TrialBudget, params: Params, manifest: Manifest, seed: int, folder: Path
) -> dict[str, TaskScore]:
    """The tasks of `budget` on the model's features, which are written to `folder` and deleted at the end."""
    if not budget.tasks:
        return {}
    kinds = {task_kind(task) for task in budget.tasks}
    heard = manifest if None in kinds else manifest.select(kind={kind for kind in kinds if kind is not None})
    # No two trials share a head's seed.
    seeds = range(seed * budget.probe_seeds, (seed + 1) * budget.probe_seeds)
    settings = ExtractSettings(layers="all", with_waveform=False, **params.extract.model_dump())
    extract_features(model, heard, folder, settings)
    store = FeatureStore.open(folder)
    scores = {}
    for task, task_budget in budget.tasks.items():
        result = run_task(task, store, heard, task_budget, seeds)
        if not isinstance(result, NotScorable):
            scores[task] = _score(result)
    shutil.rmtree(folder)
    return scores


def _score(result: TaskResult) -> TaskScore:
    return TaskScore(
        dev=result.dev,
        test={name: score.value for name, score in result.metrics.items()},
        intervals={name: (score.low, score.high) for name, score in result.metrics.items()},
    )


def _identity(student: StudentParams, budget: TrialBudget, params: Params, data: TrialData, seed: int) -> str:
    """A digest of all that decides the result."""
    described: dict[str, Any] = {
        "student": student.model_dump(mode="json"),
        "budget": budget.model_dump(mode="json"),
        "distill": params.distill.model_dump(mode="json"),
        "extract": params.extract.model_dump(mode="json"),
        "seed": seed,
        "corpus": data.manifest.fingerprint,
        "teacher": data.teacher.fingerprint,
        "targets": [data.train.fingerprint, data.dev.fingerprint],
        "code": _digest_code(),
    }
    return digest_json(described)


@cache
def _digest_code() -> str:
    return digest(*(f"{path.relative_to(_PACKAGE)}\n{path.read_text()}" for path in list_code()))


def list_code() -> list[Path]:
    """The files whose change makes every trial another one, sorted."""
    files = (path.rglob("*.py") if path.is_dir() else (path,) for path in (_PACKAGE / room for room in _ROOMS))
    return sorted(path for found in files for path in found)


def _from_json(values: dict[str, Any]) -> TrialResult:
    tasks = {
        task: TaskScore(
            score["dev"], score["test"], {name: (low, high) for name, (low, high) in score["intervals"].items()}
        )
        for task, score in values["tasks"].items()
    }
    curve = tuple((int(update), float(loss)) for update, loss in values["curve"])
    return TrialResult(**{**values, "tasks": tasks, "curve": curve})
