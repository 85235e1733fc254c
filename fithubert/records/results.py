"""The metrics files of ablations, of the sweep and of compressions; the record of a trained head that is kept."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from fithubert.config.search import COSTS
from fithubert.config.students import TimeReductionConfig
from fithubert.records.base import Record


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
    choices: Mapping[str, bool | int | float | str | None]
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
class CompressJob(Record):
    """The request to `fithubert compress`: a folder that another request began is not continued.

    `teacher`: the fingerprint of its weights. `recordings`: a digest of the files' names, sizes and times. `updates`:
    None: as many as `hours_budget` allows.
    """

    teacher: str
    recordings: str
    size: float
    recipe: str
    hours_budget: float
    updates: int | None


@dataclass(frozen=True)
class SpeakerScores(Record):
    """Speakers told apart by a linear classifier of recordings, in percent of `recordings` held out of `speakers`."""

    teacher: float
    student: float
    recordings: int
    speakers: int


@dataclass(frozen=True)
class CompressMetrics(Record):
    """A compressed teacher. Multiply-accumulates are those of 10 s of speech.

    `relative_error`: teacher layer -> the error of its prediction on dev, as a share of the layer's spread (root mean
    square distance from each utterance's channel means). It is that of the heads, of which only those that are read are
    in the student. `speakers`: None, and not in the JSON, if the recordings do not name enough of them.
    """

    omit_none: ClassVar[bool] = True

    teacher: str
    fingerprint: str
    parameters: int
    teacher_parameters: int
    macs: int
    teacher_macs: int
    updates: int
    relative_error: Mapping[int, float]
    speakers: SpeakerScores | None = None


PROBE_FILE = "probe.json"
#: How frames become one output: the mean of all, none (an output for each frame), or mean and deviation.
Pooling = Literal["mean", "frames", "statistics"]


@dataclass(frozen=True)
class ProbeGraph(Record):
    """The graph next to the record. `max_difference`: from torch, relative to the largest output (at least 1)."""

    sha256: str
    bytes: int
    max_difference: float


@dataclass(frozen=True)
class ProbeRecord(Record):
    """A trained head of `task` on the states `layers` of `model`, which are summed with `layer_weights`.

    `fingerprint`: of the model's weights; `features`, `corpus`: of the stored features and the labels that it was
    trained on; `codec`: of these features; `identity`: of all that decides the score. `labels`: the names of the
    outputs, slot after slot, "" for one that is no symbol; none of an embedding. `dev`, `test`: the values of this very
    head, in percent; those of a score over several seeds are their means. `seed`: of the several, the best on dev.
    `weights`: a digest of the head's tensors. `graph`: None without one.
    """

    omit_none: ClassVar[bool] = True

    format: Literal["fithubert-probe-1"]
    task: str
    model: str
    fingerprint: str
    features: str
    corpus: str
    codec: str
    identity: str
    layers: tuple[int, ...]
    layer_weights: tuple[float, ...]
    pooling: Pooling
    labels: tuple[tuple[str, ...], ...]
    dev: Mapping[str, float]
    test: Mapping[str, float]
    seed: int
    weights: str
    sampling_rate: int
    shortest_samples: int
    field_samples: int
    stride_samples: int
    graph: ProbeGraph | None = None
