"""What a feature store costs and loses, from the footers of its shards."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fithubert.frames import SAMPLE_RATE_HZ
from fithubert.store.format import StoreInfo
from fithubert.store.shards import PlannedShard
from fithubert.store.write import read_summary, relative_error


@dataclass(frozen=True)
class LayerReport:
    """What one layer costs and loses.

    `relative_error`: root of the squared coding error over the squared distance from each utterance's channel means.
    `worst_channel_error`: the largest such ratio of one channel in one shard.
    """

    layer: int
    width: int
    bytes_per_audio_hour: float
    relative_error: float
    worst_channel_error: float
    saturated_share: float


@dataclass(frozen=True)
class ExtractReport:
    """What the store (with more than one worker: this worker's part) holds; equal however often it was interrupted.

    `written` and `kept`: names of the shards of this run alone. `problems`: why an existing shard was written again.
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
        """Bytes on disk, waveform and footers included, of an hour of audio."""
        return self.num_bytes / self.audio_seconds * 3600 if self.audio_seconds else 0.0

    def describe(self, directory: Path) -> str:
        """What this run did to the store in `directory`, a line for each file that it wrote again."""
        reasons = {**dict.fromkeys(self.written, "it was missing"), **self.problems}
        lines = [f"{directory / name}: {reason}; written again" for name, reason in sorted(reasons.items())]
        return "\n".join(
            [*lines, f"{directory}: {len(self.kept)} of {len(self.kept) + len(self.written)} shards were whole"]
        )

    def metrics(self) -> dict[str, Any]:
        """What belongs in a metrics file: the same for a run that was killed and resumed."""
        return {
            "codec": self.info.codec,
            "model": self.info.model,
            "fingerprint": self.info.fingerprint,
            "utterances": self.utterances,
            "audio_seconds": self.audio_seconds,
            "bytes": self.num_bytes,
            "bytes_per_audio_hour": self.bytes_per_audio_hour,
            "relative_error": max(layer.relative_error for layer in self.layers),
            "layers": {
                str(layer.layer): {
                    "bytes_per_audio_hour": layer.bytes_per_audio_hour,
                    "relative_error": layer.relative_error,
                    "worst_channel_error": layer.worst_channel_error,
                    "saturated_share": layer.saturated_share,
                }
                for layer in self.layers
            },
        }


def report_shards(
    out_dir: Path,
    info: StoreInfo,
    shards: Sequence[PlannedShard],
    written: tuple[str, ...],
    kept: tuple[str, ...],
    problems: dict[str, str],
) -> ExtractReport:
    """The report over `shards`, from their footers, so that kept and written ones count alike."""
    summaries = [read_summary(out_dir / shard.name) for shard in shards]
    parts = [summary.statistics for summary in summaries]
    seconds = sum(part.num_samples for part in parts) / SAMPLE_RATE_HZ
    layers = []
    for place, (layer, width) in enumerate(zip(info.layers, info.widths, strict=True)):
        of_layer = [part.layers[place] for part in parts]
        layers.append(
            LayerReport(
                layer,
                width,
                sum(summary.layer_bytes[place] for summary in summaries) / seconds * 3600 if seconds else 0.0,
                relative_error(sum(s.error for s in of_layer), sum(s.spread for s in of_layer)),
                max((s.worst_channel_error for s in of_layer), default=0.0),
                sum(s.saturated for s in of_layer) / max(sum(s.values for s in of_layer), 1),
            )
        )
    return ExtractReport(
        info=info,
        utterances=sum(part.utterances for part in parts),
        audio_seconds=seconds,
        num_bytes=sum((out_dir / shard.name).stat().st_size for shard in shards),
        layers=tuple(layers),
        written=written,
        kept=kept,
        problems=problems,
    )
