"""`reports/summary.json`: the result of all stages."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Self

from fithubert.errors import UserError
from fithubert.records.base import JsonObject, Record
from fithubert.records.metrics import CorpusSummary, Machine, Parameters
from fithubert.records.results import AblationSummary


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
