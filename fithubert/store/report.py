"""The size and coding error of a feature store, measured as it is written and kept in the footers of its shards."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow.parquet as pq
import torch
from torch import Tensor

from fithubert.frames import SAMPLE_RATE_HZ
from fithubert.records import StoredLayer, StoreMetrics
from fithubert.store.format import STATISTICS_KEY, StoreInfo, layer_column
from fithubert.store.shards import PlannedShard


@dataclass(frozen=True)
class EncodedLayer:
    """One layer of one utterance as bytes, and its coding error.

    `error` and `spread`: (feature,) float64 sums over time of the squared coding error and of the squared distance from
    the channel's mean in this utterance. `saturated`: the number of elements that were clipped.
    """

    value: bytes
    error: Tensor
    spread: Tensor
    saturated: int


@dataclass(frozen=True)
class LayerStatistics:
    """One layer over one shard: sums of squares as in EncodedLayer, and the largest relative error of any channel."""

    layer: int
    values: int
    error: float
    spread: float
    worst_channel_error: float
    saturated: int


@dataclass(frozen=True)
class ShardStatistics:
    """The contents of a shard, as its footer has them."""

    utterances: int
    num_samples: int
    layers: tuple[LayerStatistics, ...]

    def to_json(self) -> bytes:
        """The statistics as they are written to the footer."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    @classmethod
    def from_json(cls, text: bytes) -> "ShardStatistics":
        """The statistics in a footer."""
        values = json.loads(text)
        layers = tuple(LayerStatistics(**layer) for layer in values["layers"])
        return cls(values["utterances"], values["num_samples"], layers)


class LayerTotals:
    """Sums of one layer over a shard."""

    def __init__(self, layer: int, width: int) -> None:
        self.layer, self.width = layer, width
        self.saturated = 0
        self.error = torch.zeros(width, dtype=torch.float64)
        self.spread = torch.zeros(width, dtype=torch.float64)

    def add(self, layer: EncodedLayer) -> None:
        """Count one utterance."""
        self.error += layer.error
        self.spread += layer.spread
        self.saturated += layer.saturated

    def result(self, frames: int) -> LayerStatistics:
        """The sums so far, over `frames` frames."""
        worst = torch.where(self.spread > 0, self.error / self.spread, 0.0).max().sqrt()
        return LayerStatistics(
            self.layer,
            frames * self.width,
            float(self.error.sum()),
            float(self.spread.sum()),
            float(worst),
            self.saturated,
        )


@dataclass(frozen=True)
class LayerReport:
    """The size and coding error of one layer.

    `relative_error`: the root of the squared coding error over the squared distance from each utterance's channel
    means. `worst_channel_error`: the largest such ratio of one channel in one shard.
    """

    layer: int
    width: int
    bytes_per_audio_hour: float
    relative_error: float
    worst_channel_error: float
    saturated_share: float


@dataclass(frozen=True)
class ExtractReport:
    """The contents of a store (with several workers: of this worker's shards), however often it was interrupted.

    `written` and `kept`: names of the shards that this run wrote or kept. `problems`: why it replaced an existing file.
    """

    info: StoreInfo
    utterances: int
    audio_seconds: float
    num_bytes: int
    layers: tuple[LayerReport, ...]
    written: tuple[str, ...]
    kept: tuple[str, ...]
    problems: dict[str, str]

    @property
    def bytes_per_audio_hour(self) -> float:
        """Bytes on disk for an hour of audio, waveforms and footers included."""
        return self.num_bytes / self.audio_seconds * 3600 if self.audio_seconds else 0.0

    def describe(self, directory: Path) -> str:
        """A line for each file that this run replaced or added in `directory`, and one for those that it kept."""
        reasons = {**dict.fromkeys(self.written, "it was missing"), **self.problems}
        lines = [f"{directory / name}: {reason}; written again" for name, reason in sorted(reasons.items())]
        total = len(self.kept) + len(self.written)
        return "\n".join([*lines, f"{directory}: {len(self.kept)} of {total} shards were whole"])

    def metrics(self) -> StoreMetrics:
        """The content of a metrics file; equal for a run that was killed and resumed."""
        return StoreMetrics(
            codec=self.info.codec,
            model=self.info.model,
            fingerprint=self.info.fingerprint,
            utterances=self.utterances,
            audio_seconds=self.audio_seconds,
            bytes=self.num_bytes,
            bytes_per_audio_hour=self.bytes_per_audio_hour,
            relative_error=max(layer.relative_error for layer in self.layers),
            layers={
                layer.layer: StoredLayer(
                    layer.bytes_per_audio_hour,
                    layer.relative_error,
                    layer.worst_channel_error,
                    layer.saturated_share,
                )
                for layer in self.layers
            },
        )


def report_shards(
    out_dir: Path,
    info: StoreInfo,
    shards: Sequence[PlannedShard],
    written: tuple[str, ...],
    kept: tuple[str, ...],
    problems: dict[str, str],
) -> ExtractReport:
    """The report over `shards`, from their footers, so that kept and written shards count alike."""
    footers = [pq.read_metadata(out_dir / shard.name) for shard in shards]
    statistics = [ShardStatistics.from_json(footer.metadata[STATISTICS_KEY]) for footer in footers]
    seconds = sum(shard.num_samples for shard in statistics) / SAMPLE_RATE_HZ
    layers = []
    for place, (layer, width) in enumerate(zip(info.layers, info.widths, strict=True)):
        own = [shard.layers[place] for shard in statistics]
        num_bytes = sum(_count_layer_bytes(footer, layer) for footer in footers)
        error, spread = sum(s.error for s in own), sum(s.spread for s in own)
        layers.append(
            LayerReport(
                layer,
                width,
                num_bytes / seconds * 3600 if seconds else 0.0,
                # A constant layer is coded without an error.
                (error / spread) ** 0.5 if spread > 0 else 0.0,
                max((s.worst_channel_error for s in own), default=0.0),
                sum(s.saturated for s in own) / max(sum(s.values for s in own), 1),
            )
        )
    return ExtractReport(
        info=info,
        utterances=sum(shard.utterances for shard in statistics),
        audio_seconds=seconds,
        num_bytes=sum((out_dir / shard.name).stat().st_size for shard in shards),
        layers=tuple(layers),
        written=written,
        kept=kept,
        problems=problems,
    )


def _count_layer_bytes(footer: pq.FileMetaData, layer: int) -> int:
    column = footer.schema.names.index(layer_column(layer))
    return sum(footer.row_group(group).column(column).total_compressed_size for group in range(footer.num_row_groups))
