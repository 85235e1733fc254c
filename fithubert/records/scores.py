"""Scores on SUPERB's tasks, `reports/metrics/superb/MODEL.json`, and the result of all stages, `reports/summary.json`.

The bootstrap values of scores are in `reports/resamples/MODEL.npz`, an archive of NumPy with one array (resample,)
float32 for each `TASK/SPLIT/METRIC`. Scores of two models pair resample by resample.
"""

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from pydantic import model_serializer

from fithubert.errors import UserError
from fithubert.files import atomic_file, require_regular
from fithubert.records.base import JsonObject, Record
from fithubert.records.metrics import CorpusSummary, Machine, Parameters, Ratio
from fithubert.records.results import AblationSummary


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


@dataclass(frozen=True)
class CostSummary(Record):
    """The cost of one model; a field is None, and not in the JSON, if it was not measured."""

    omit_none: ClassVar[bool] = True

    params: Parameters | None = None
    macs_per_second: float | None = None
    rtf: float | None = None
    size_ratio: float | None = None
    macs_ratio: float | None = None
    latency_ratio: float | None = None
    latency_ratio_ci: tuple[float, float] | None = None
    export_latency_ratios: Mapping[str, Ratio] | None = None
    peak_memory_bytes: int | None = None


@dataclass(frozen=True)
class ModelSummary(CostSummary):
    """One model: its cost, and task -> metric -> percent on test.

    `ci`: 95 % intervals. `unscored`: task -> why the corpus cannot score it. `official`: task scored by the official
    protocol -> its departures from it. `kept_by_task`, `kept`: share of the teacher's lead over filter banks, by task
    and as the mean over all tasks on which the teacher leads.
    """

    superb: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    unscored: Mapping[str, str] = field(default_factory=dict)
    ci: Mapping[str, Mapping[str, tuple[float, float]]] = field(default_factory=dict)
    chance: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    seeds: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    official: Mapping[str, tuple[str, ...]] | None = None
    readout: str | None = None
    init: str | None = None
    fingerprint: str | None = None
    kept_by_task: Mapping[str, float] | None = None
    kept: float | None = None

    def score(self, task: str, metric: str) -> float | None:
        """Percent on test; None if it was not measured."""
        return self.superb.get(task, {}).get(metric)

    def interval(self, task: str, metric: str) -> tuple[float, float] | None:
        """The 95 % interval of a score; None if there is none."""
        return self.ci.get(task, {}).get(metric)


@dataclass(frozen=True)
class PairedDifference(Record):
    """A score of `model` less that of `against`, in points of percent on the same test items.

    Task `all` and metric `kept`: the share of the teacher's lead, over all tasks on which it leads.
    `low`, `high`: 95 % over items and seeds. `p_holm`: two-sided, corrected by Holm over all differences to `against`.
    """

    task: str
    metric: str
    model: str
    against: str
    difference: float
    low: float
    high: float
    p_holm: float
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class KeptShare(Record):
    """The share of the teacher's lead that a model keeps, mean over `tasks`, with its 95 % interval."""

    value: float
    low: float
    high: float
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class DepthGate(Record):
    """Phone error rates of the teacher on test. `points`: that of its first states less that of all of them.

    A corpus and teacher with a small gate cannot tell methods apart. `best_layer`: the best single state on dev.
    """

    points: float
    per_all: float
    per_first_two: float
    best_layer: int | None


@dataclass(frozen=True)
class Lead(Record):
    """The tasks on which the teacher leads filter banks on dev beyond noise, and the other tasks that both have."""

    tasks: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Summary(Record):
    """The result of a workspace. `order`: the models in the order of the tables. `seconds`: DVC stage -> wall time.

    `controls`: models that are hidden states of the teacher. `kept`: model -> its share of the teacher's lead.
    `best_recipe`: the student that the results recommend, if the parameters name one. `corpus` and `machine` are None,
    `{}` in the JSON, if their stage has not run.
    """

    models: Mapping[str, ModelSummary]
    paper_size: Mapping[str, CostSummary] = field(default_factory=dict)
    ablations: Mapping[str, AblationSummary] = field(default_factory=dict)
    controls: tuple[str, ...] = ()
    depth_gate: DepthGate | None = None
    paired: tuple[PairedDifference, ...] = ()
    kept: Mapping[str, KeptShare] = field(default_factory=dict)
    lead: Lead = field(default_factory=Lead)
    best_recipe: str | None = None
    teacher: str = "teacher"
    baseline: str = "fbank"
    tasks: tuple[str, ...] = ()
    order: tuple[str, ...] = ()
    corpus: CorpusSummary | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Machine | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def ordered(self) -> dict[str, ModelSummary]:
        """The models by name, in the order of the tables."""
        return {name: self.models[name] for name in dict.fromkeys([*self.order, *self.models])}

    def to_json(self) -> JsonObject:
        """The summary as plain values."""
        values = super().to_json()
        return values | {name: values[name] or {} for name in ("corpus", "machine")}

    @classmethod
    def from_json(cls, values: object) -> Self:
        """The summary in `values`; raises UserError as every record does."""
        if isinstance(values, dict):
            values = values | {name: values.get(name) or None for name in ("corpus", "machine")}
        return super().from_json(values)


def load_summary(path: Path) -> Summary:
    """The summary in `path`. Raises UserError with the command that writes it if it is missing or broken."""
    if not path.exists():
        raise UserError(f"{path}: no such file; `fithubert report` (or `dvc repro`) writes it")
    try:
        return Summary.read(path)
    except UserError as error:
        reason = str(error).removesuffix("; run the stage that writes it again")
        raise UserError(f"{reason}; `fithubert report` (or `dvc repro`) writes it again") from None
