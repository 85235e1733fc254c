"""The metrics files of the stages, `reports/metrics/**.json`: one record per stage.

A stage writes its record; the report, the tracker and the commands read it. The JSON keys are the names of the fields.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from fithubert.records.base import HeadKey, Record, SecondsKey


@dataclass(frozen=True)
class SkippedRecording(Record):
    """A recording that is not in the corpus; `path` is relative to its folder."""

    path: str
    reason: str


@dataclass(frozen=True)
class CorpusSummary(Record):
    """The corpus. `splits`: split -> its utterances, hours, speakers and number of utterances of each kind."""

    source: str
    fingerprint: str
    utterances: int
    hours: float
    speakers: int
    splits: Mapping[str, Mapping[str, int | float]]


@dataclass(frozen=True)
class PrepareMetrics(CorpusSummary):
    """The corpus with its skipped recordings, and notes on the others."""

    omit_none: ClassVar[bool] = True

    skipped: tuple[SkippedRecording, ...]
    seconds: float
    notes: tuple[str, ...] | None = None


@dataclass(frozen=True)
class PhoneProbe(Record):
    """Percent of dev frames whose phone a linear probe names.

    `layers`: teacher layer -> percent. `untrained`: the same for random weights. `fbank`: log-mel filter banks.
    """

    layers: Mapping[int, float]
    untrained: Mapping[int, float]
    fbank: float
    train_utterances: int
    dev_utterances: int


@dataclass(frozen=True)
class TeacherMetrics(Record):
    """The teacher. `layers`: transformer layers. `probe`: None for a corpus without phones."""

    source: str
    name: str
    fingerprint: str
    layers: int
    width: int
    params: int
    probe: PhoneProbe | None
    seconds: float

    def note_on(self, corpus: str) -> str | None:
        """What to know of this teacher on a corpus of that source; None if nothing."""
        if self.source != "mini" or corpus == "synthetic":
            return None
        return (
            "the teacher mini has been trained on synthetic speech alone: on recordings of people filter banks may "
            "score better; take a teacher of human speech, such as torchaudio:HUBERT_BASE"
        )


@dataclass(frozen=True)
class StoredLayer(Record):
    """Size and coding error of one layer in a feature store.

    `relative_error`: root of the squared error over the squared distance from each utterance's channel means.
    `worst_channel_error`: the largest such ratio of one channel in one shard. `saturated_share`: values that were
    clipped, 0 to 1.
    """

    bytes_per_audio_hour: float
    relative_error: float
    worst_channel_error: float
    saturated_share: float


@dataclass(frozen=True)
class StoreMetrics(Record):
    """A feature store. `relative_error`: the largest one of its layers. `layers`: layer -> its size and error."""

    codec: str
    model: str
    fingerprint: str
    utterances: int
    audio_seconds: float
    bytes: int
    bytes_per_audio_hour: float
    relative_error: float
    layers: Mapping[int, StoredLayer]


@dataclass(frozen=True)
class CacheMetrics(StoreMetrics):
    """The cached teacher. The inherited fields describe the train split; `splits` has the dev split."""

    splits: Mapping[str, StoreMetrics]
    seconds: float


@dataclass(frozen=True)
class ExtractMetrics(StoreMetrics):
    """The hidden states of one model for SUPERB. `readout`: the states that are read of a student, else None."""

    omit_none: ClassVar[bool] = True

    seconds: float
    readout: str | None = None


@dataclass(frozen=True)
class CurvePoint(Record):
    """One evaluation of a training on dev.

    `train_loss`: mean since the evaluation before; None at update 0. `audio_seconds`: unpadded audio trained on so far.
    `seconds`: wall time so far. `layer_losses`: head -> its own dev loss.
    """

    update: int
    audio_seconds: float
    seconds: float
    train_loss: float | None
    dev_loss: float
    layer_losses: Mapping[HeadKey, float]


@dataclass(frozen=True)
class TrainedParameters(Record):
    """Parameters of a student by use. `unused_in_reference`: in the authors' code, never run and not in ours."""

    trunk: int
    readout: int
    training_only: int
    unused_in_reference: int


@dataclass(frozen=True)
class DistillMetrics(Record):
    """One trained student. `end`: why training ended. `wait_share`: share of the time spent waiting for batches."""

    recipe: str
    init: str
    readout: str
    fingerprint: str
    params: TrainedParameters
    end: str
    updates: int
    best_update: int
    best_dev_loss: float
    audio_hours: float
    seconds: float
    wait_share: float
    curve: tuple[CurvePoint, ...]


@dataclass(frozen=True)
class Parameters(Record):
    """Parameters of a model by use; `total` is the trunk and the read-out, which downstream use loads and runs."""

    trunk: int
    readout: int
    training_only: int
    total: int


@dataclass(frozen=True)
class PartCost(Record):
    """Parameters of one part of a model, and its multiply-accumulates for one utterance."""

    params: int
    macs: int


@dataclass(frozen=True)
class Ratio(Record):
    """The median of a ratio over rounds, and the 95 % bootstrap interval of that median."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class ModelCost(Record):
    """The cost of one model. Ratios are to the reference model; times are medians over rounds.

    `time_shares`: part -> its share of the time. `macs_per_second`: multiply-accumulates per second of audio. `rtf`:
    seconds of computing per second of audio. `peak_memory_bytes`: weights and what the longest utterance adds, None if
    the system cannot measure it. `export_latency_ratios`: `onnx` and `onnx_int8` -> its graph's, if graphs were timed.
    """

    omit_none: ClassVar[bool] = True

    params: Parameters
    parts: Mapping[str, PartCost]
    time_shares: Mapping[str, float]
    macs_per_second: float
    latency_seconds: Mapping[SecondsKey, float]
    rtf_by_seconds: Mapping[SecondsKey, float]
    latency_ratio_by_seconds: Mapping[SecondsKey, Ratio]
    rtf: float
    size_ratio: float | None
    macs_ratio: float | None
    latency_ratio: float
    latency_ratio_ci: tuple[float, float]
    weight_bytes: int
    fingerprint: str
    peak_memory_bytes: int | None = None
    export_latency_ratios: Mapping[str, Ratio] | None = None


@dataclass(frozen=True)
class Machine(Record):
    """What times depend on."""

    processor: str
    cores: int
    torch: str


@dataclass(frozen=True)
class ModelCosts(Record):
    """Models that were timed in turn in one process; `reference_seconds`: the audio of one utterance.

    `superb_macs`: model -> multiply-accumulates on SUPERB's 32 utterances; None in older files.
    """

    omit_none: ClassVar[bool] = True

    models: Mapping[str, ModelCost]
    reference: str
    reference_seconds: float
    rounds: int
    threads: int
    machine: Machine
    superb_macs: Mapping[str, int] | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class ProfileMetrics(ModelCosts):
    """The costs of all models of the workspace; `paper_size`: those of the published shapes, if they were timed."""

    seconds: float
    paper_size: ModelCosts | None = None
