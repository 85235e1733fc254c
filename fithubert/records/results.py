"""The metrics files of ablations and of the sweep, and `reports/summary.json`, the result of all stages."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Self

from fithubert.config.students import TimeReductionConfig
from fithubert.config.sweep import COSTS
from fithubert.errors import UserError
from fithubert.records.base import JsonObject, Record
from fithubert.records.metrics import CorpusSummary, Machine, Parameters


@dataclass(frozen=True)
class TaskScore(Record):
    """One probed task. `dev`: the metric that selects, by name; `test`: its metrics, with `intervals` (low, high)."""

    dev: Mapping[str, float]
    test: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class AblationTrial(Record):
    """One variant trained with one seed. `curve`: (update, dev loss). `tasks`: task -> its scores."""

    variant: str
    seed: int
    dev_loss: float
    curve: tuple[tuple[int, float], ...]
    tasks: Mapping[str, TaskScore]
    parameters: int
    macs_per_second: float
    updates: int
    audio_hours: float
    train_seconds: float
    seconds: float


@dataclass(frozen=True)
class VariantCost(Record):
    """The cost of one variant. Ratios are to the teacher; `train_seconds` is the mean over seeds."""

    time_reduction: TimeReductionConfig
    params: int
    size_ratio: float | None
    macs_per_second: float
    macs_ratio: float | None
    latency_ratio: float
    latency_ratio_ci: tuple[float, float]
    train_seconds: float
    audio_hours: float


@dataclass(frozen=True)
class Comparison(Record):
    """One figure over variants, each with one value per seed.

    `half_width`: half the 95 % interval of a variant's mean, from the deviation between seeds pooled over variants
    (Student's t); that of a difference of two variants is the root of 2 times as wide. `seed_deviation`: the pooled
    deviation. `f`, `p`: one-way analysis of variance. They are None without enough seeds.
    """

    means: Mapping[str, float]
    half_width: float | None
    seed_deviation: float | None
    f: float | None
    p: float | None


@dataclass(frozen=True)
class TimingSettings(Record):
    """How variants were timed: rounds, threads, and the seconds of audio of one utterance."""

    rounds: int
    threads: int
    seconds: float


@dataclass(frozen=True)
class AblationSummary(Record):
    """One ablation of the student `of`. `comparisons`: figure (`dev_loss`, `pr_per`) -> its comparison of variants."""

    of: str
    updates: int
    seeds: tuple[int, ...]
    variants: Mapping[str, VariantCost]
    comparisons: Mapping[str, Comparison]
    profile: TimingSettings


@dataclass(frozen=True)
class AblationMetrics(AblationSummary):
    """An ablation with every single trial."""

    trials: tuple[AblationTrial, ...]
    seconds: float

    @property
    def order(self) -> tuple[str, ...]:
        """The variants in the order of params.yaml, which the sorted keys of a JSON file lose."""
        return tuple(dict.fromkeys(trial.variant for trial in self.trials))


@dataclass(frozen=True)
class SweepPoint(Record):
    """A trained trial. `values` is empty if it was stopped early. `curve`: (update, dev loss of the last head)."""

    name: str
    on_front: bool
    choices: Mapping[str, bool | int | float | str]
    values: Mapping[str, int | float]
    metrics: Mapping[str, int | float]
    curve: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class SweepReference(Record):
    """What the shapes of a study are compared with.

    `student`: the name of the student that they vary. `trial`: the trial of its own shape; None if it was not trained.
    `params`, `macs_per_second`: of the teacher.
    """

    student: str
    trial: str | None
    params: int
    macs_per_second: float


@dataclass(frozen=True)
class SweepMetrics(Record):
    """A study of shapes. `choices`: names in order. `labels`: objective -> its axis label and if lower is better.

    `importance`: objective -> choice -> the share of the objective's variance that the choice explains. `reference` is
    None, and not in the JSON, for a study that did not store it.
    """

    omit_none: ClassVar[bool] = True

    study: str
    objectives: tuple[str, ...]
    choices: tuple[str, ...]
    points: tuple[SweepPoint, ...]
    labels: Mapping[str, tuple[str, bool]]
    importance: Mapping[str, Mapping[str, float]]
    reference: SweepReference | None = None

    def title(self, point: SweepPoint) -> str:
        """The name of a trial, with that of the student whose shape it has."""
        named = self.reference is not None and self.reference.trial == point.name
        return f"{point.name} ({self.reference.student})" if named and self.reference is not None else point.name

    @property
    def finished(self) -> list[SweepPoint]:
        """The trials that were not stopped early."""
        return [point for point in self.points if point.values]

    @property
    def front(self) -> list[SweepPoint]:
        """The trials on the Pareto front, the cheapest first."""
        cost = self.costs[0] if self.costs else self.objectives[0]
        return sorted((p for p in self.finished if p.on_front), key=lambda point: point.values[cost])

    @property
    def costs(self) -> list[str]:
        """The objectives that are costs."""
        return [name for name in self.objectives if name in COSTS]

    @property
    def qualities(self) -> list[str]:
        """The objectives that are not costs."""
        return [name for name in self.objectives if name not in COSTS]


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

    `controls`: models that are hidden states of the teacher. `kept`: model -> its share of the teacher's lead. `corpus`
    and `machine` are None, `{}` in the JSON, if their stage has not run.
    """

    models: Mapping[str, ModelSummary]
    paper_size: Mapping[str, CostSummary] = field(default_factory=dict)
    ablations: Mapping[str, AblationSummary] = field(default_factory=dict)
    controls: tuple[str, ...] = ()
    depth_gate: DepthGate | None = None
    paired: tuple[PairedDifference, ...] = ()
    kept: Mapping[str, KeptShare] = field(default_factory=dict)
    lead: Lead = field(default_factory=Lead)
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
