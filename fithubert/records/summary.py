"""`reports/summary.json`: the machine-readable result of everything that has run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Self

from fithubert.errors import UserError
from fithubert.records.base import JsonObject, Record
from fithubert.records.metrics import Machine, Parameters
from fithubert.records.search import Comparison, TimingSettings, VariantCost


@dataclass(frozen=True)
class CostSummary(Record):
    """The cost of one model; a field is None, and not in the JSON, if it was not measured."""

    omit_none: ClassVar[tuple[str, ...]] = (
        "params",
        "macs_per_second",
        "rtf",
        "size_ratio",
        "macs_ratio",
        "latency_ratio",
        "latency_ratio_ci",
        "peak_memory_bytes",
    )

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

    omit_none: ClassVar[tuple[str, ...]] = (
        *CostSummary.omit_none,
        "official",
        "readout",
        "init",
        "fingerprint",
        "kept_by_task",
        "kept",
    )

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
class Lead(Record):
    """The tasks on which the teacher leads filter banks beyond the intervals, and the other tasks that both have."""

    tasks: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class AblationSummary(Record):
    """An ablation without its single trials."""

    of: str
    updates: int
    seeds: tuple[int, ...]
    variants: Mapping[str, VariantCost]
    comparisons: Mapping[str, Comparison]
    profile: TimingSettings


@dataclass(frozen=True)
class CorpusSummary(Record):
    """The corpus without its skipped recordings."""

    source: str
    fingerprint: str
    utterances: int
    hours: float
    speakers: int
    splits: Mapping[str, Mapping[str, int | float]]


@dataclass(frozen=True)
class Summary(Record):
    """The result of a workspace. `order`: the models in the order of the tables. `seconds`: DVC stage -> wall time.

    `corpus` and `machine` are None, `{}` in the JSON, if their stage has not run.
    """

    models: Mapping[str, ModelSummary]
    paper_size: Mapping[str, CostSummary] = field(default_factory=dict)
    ablations: Mapping[str, AblationSummary] = field(default_factory=dict)
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
