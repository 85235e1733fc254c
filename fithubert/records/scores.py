"""The scores of one model on SUPERB's tasks, `reports/metrics/superb/MODEL.json`, and their bootstrap values.

The values are in `reports/resamples/MODEL.npz`, an archive of NumPy with one array (resample,) float32 for each
`TASK/SPLIT/METRIC`. Scores of two models pair resample by resample.
"""

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import model_serializer

from fithubert.errors import UserError
from fithubert.files import atomic_file, require_regular
from fithubert.records.base import JsonObject, Record


@dataclass(frozen=True)
class Candidate(Record):
    """One learning rate (or, without training, one layer) and its best value on dev."""

    setting: float
    dev: float


@dataclass(frozen=True)
class SuperbMetrics(Record):
    """One model on one task, in percent by metric; or the `reason` why the corpus cannot score the task.

    `metrics`: on test. `intervals`: 95 % over the test items. `seed_deviation`: standard deviation over seeds. `dev`:
    the metric that selects. `chance`: the score without any information from the model. `layer_weights`: learnt weight
    of each hidden state, sum 1. `selected_steps`: the step whose parameters were kept, per seed. `departures`:
    differences from SUPERB's official protocol. `identity`: a digest of all that decides the result. `resamples`:
    `test/METRIC` and `dev/METRIC` -> the bootstrap values, which are not in the JSON (`write_resamples`).
    """

    task: str
    model: str
    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    seed_deviation: Mapping[str, float] = field(default_factory=dict)
    dev: Mapping[str, float] = field(default_factory=dict)
    chance: Mapping[str, float] = field(default_factory=dict)
    protocol: str = "mini"
    departures: tuple[str, ...] = ()
    corpus: str = ""
    learning_rate: float | None = None
    candidates: tuple[Candidate, ...] = ()
    layer_weights: tuple[float, ...] = ()
    steps: int = 0
    selected_steps: tuple[int, ...] = ()
    seeds: tuple[int, ...] = ()
    num_train: int = 0
    num_dev: int = 0
    num_test: int = 0
    seconds: float | None = None
    identity: str = ""
    reason: str | None = None
    resamples: Mapping[str, tuple[float, ...]] = field(default_factory=dict, compare=False, repr=False)

    @model_serializer(mode="wrap")
    def _serialize(self, serialize: Callable[["SuperbMetrics"], JsonObject]) -> JsonObject:
        """All fields but `reason` and `resamples`; of a task that could not be scored only its names and the reason."""
        if self.reason is not None:
            kept = {"task": self.task, "model": self.model, "metrics": {}, "reason": self.reason}
            return kept | ({"identity": self.identity} if self.identity else {})
        values = serialize(replace(self, resamples={}))
        return {name: value for name, value in values.items() if name not in ("reason", "resamples")}


@dataclass(frozen=True)
class ModelScores(Record):
    """The stage `superb` of one model: task -> its scores."""

    model: str
    tasks: Mapping[str, SuperbMetrics]

    @property
    def seconds(self) -> float:
        """The time that the tasks took, added up."""
        return sum(score.seconds or 0.0 for score in self.tasks.values())


@dataclass(frozen=True)
class LayerScore(Record):
    """The phone error rate of one hidden state alone, in percent; `interval`: 95 % on test."""

    dev: float
    test: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class DepthMetrics(Record):
    """Phone recognition from each of the teacher's hidden states alone, with one head; `best_layer`: on dev.

    `reason`: why the corpus cannot be scored; then there is no layer.
    """

    omit_none: ClassVar[bool] = True

    layers: Mapping[int, LayerScore]
    seeds: tuple[int, ...]
    seconds: float
    best_layer: int | None = None
    reason: str | None = None


def write_resamples(scores: ModelScores, path: Path) -> None:
    """Write the resamples of all tasks of `scores` to `path`, whole or not at all."""
    arrays = {
        f"{task}/{name}": np.array(values, dtype=np.float32)
        for task, score in scores.tasks.items()
        for name, values in score.resamples.items()
    }
    with atomic_file(path) as temporary, temporary.open("wb") as written:
        np.savez_compressed(written, **arrays)  # type: ignore[arg-type]


def add_resamples(scores: ModelScores, path: Path) -> ModelScores:
    """`scores` with the resamples in `path`, or unchanged if it does not exist. Raises UserError if it is broken."""
    if not path.exists():
        return scores
    require_regular(path)
    found: dict[str, dict[str, tuple[float, ...]]] = {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            for name in archive.files:
                task, _, rest = name.partition("/")
                found.setdefault(task, {})[rest] = tuple(archive[name].tolist())
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: damaged ({error}); delete it and run `superb` again") from None
    tasks = {task: replace(score, resamples=found.get(task, {})) for task, score in scores.tasks.items()}
    return replace(scores, tasks=tasks)
