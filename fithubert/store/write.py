"""Writing shards, whole or absent, with page checksums and what was lost in coding; and checking those there are."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from fithubert.store.codec import Codec, find_codec
from fithubert.store.format import (
    INDEX_NAME,
    SHARD_KEY,
    STATISTICS_KEY,
    IndexInfo,
    StoreInfo,
    describe_difference,
    layer_column,
    parse_info,
    shard_schema,
)
from fithubert.store.shards import PlannedShard, index_table, locked_aside


@dataclass(frozen=True)
class EncodedLayer:
    """One layer of one utterance as bytes, and what coding lost.

    `error` and `spread`: (feature,) float64 sums over time of the squared coding error and of the squared distance from
    the channel's mean in this utterance. `saturated`: numbers that were clipped.
    """

    value: bytes
    error: Tensor
    spread: Tensor
    saturated: int


@dataclass(frozen=True)
class EncodedRow:
    """One utterance, ready to be written. `waveform`: int16 bytes, or None in a store without."""

    id: str
    num_samples: int
    num_frames: int
    waveform: bytes | None
    layers: tuple[EncodedLayer, ...]


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
    """What a shard holds, from its footer."""

    utterances: int
    num_samples: int
    layers: tuple[LayerStatistics, ...]


@dataclass(frozen=True)
class ShardSummary:
    """The statistics of a shard, and what each of its layers takes on disk."""

    statistics: ShardStatistics
    layer_bytes: tuple[int, ...]


def encode_layer(hidden: Tensor, codec: Codec) -> EncodedLayer:
    """`hidden` (time, feature), finite, as an EncodedLayer; the work is done on the device of `hidden`."""
    # Other accelerators have no float64.
    hidden = hidden if hidden.device.type in ("cpu", "cuda") else hidden.cpu()
    hidden = hidden.float().contiguous()
    value, saturated = codec.encode(hidden)
    decoded = torch.empty_like(hidden)
    codec.decode(value, 0, decoded)
    # float64, since the squares of large float32 numbers are not float32 numbers.
    error = hidden.double().sub_(decoded).square_().sum(0)
    exact = hidden.double()
    spread = exact.sub_(exact.mean(0)).square_().sum(0)
    return EncodedLayer(value.cpu().numpy().tobytes(), error.cpu(), spread.cpu(), saturated)


def relative_error(error: float, spread: float) -> float:
    """Root of coding error over spread; 0 where nothing was lost, even of a constant."""
    return (error / spread) ** 0.5 if spread > 0 else 0.0


def write_index(directory: Path, shards: tuple[PlannedShard, ...], info: StoreInfo, index: IndexInfo) -> None:
    """Write the index of a store; its bytes depend on nothing but the arguments."""
    with locked_aside(directory / INDEX_NAME) as file:
        pq.write_table(index_table(shards, info, index), file, compression="zstd", write_page_checksum=True)


def write_shard(directory: Path, shard: PlannedShard, info: StoreInfo, rows: Iterable[EncodedRow]) -> None:
    """Write `rows`, in the order of the plan, as one shard, renamed to its name when it is whole.

    Raises UserError where the disk is full, ValueError where the rows are not those of the plan.
    """
    schema = shard_schema(info, shard.key)
    source = iter(rows)
    totals = [_LayerTotals(layer, width) for layer, width in zip(info.layers, info.widths, strict=True)]
    with locked_aside(directory / shard.name) as file, _open_writer(file, schema, info) as writer:
        for planned in shard.row_groups():
            group = [next(source) for _ in planned]
            if [row.id for row in group] != [row.id for row in planned]:
                raise ValueError(f"{shard.name}: rows out of the planned order")
            for row in group:
                for total, layer in zip(totals, row.layers, strict=True):
                    total.add(layer)
            writer.write_table(_table(group, schema, info), row_group_size=len(group))
        frames = sum(row.num_frames for row in shard.rows)
        samples = sum(row.num_samples for row in shard.rows)
        statistics = ShardStatistics(len(shard.rows), samples, tuple(total.result(frames) for total in totals))
        writer.add_key_value_metadata({STATISTICS_KEY: json.dumps(asdict(statistics), sort_keys=True).encode()})


def read_summary(path: Path) -> ShardSummary:
    """The ShardSummary in a shard's footer; the shard has to be valid."""
    footer = pq.read_metadata(path)
    values = json.loads(footer.metadata[STATISTICS_KEY])
    layers = tuple(LayerStatistics(**layer) for layer in values["layers"])
    places = [footer.schema.names.index(layer_column(layer.layer)) for layer in layers]
    layer_bytes = tuple(
        sum(footer.row_group(group).column(place).total_compressed_size for group in range(footer.num_row_groups))
        for place in places
    )
    return ShardSummary(ShardStatistics(values["utterances"], values["num_samples"], layers), layer_bytes)


def describe_foreign(path: Path, shard: PlannedShard, info: StoreInfo) -> str | None:
    """Why the shard in `path` belongs to another store, from its footer; None where it does not or cannot be read."""
    try:
        metadata = pq.read_metadata(path).metadata or {}
    except (OSError, pa.ArrowException, ValueError):
        return None
    return _find_foreign(metadata, shard, info)


def find_problem(path: Path, shard: PlannedShard, info: StoreInfo) -> str | None:
    """Why the shard in `path` cannot be used, after reading every page of it; None where it is whole and right."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            metadata = file.metadata.metadata or {}
            foreign = _find_foreign(metadata, shard, info)
            if foreign is not None:
                return foreign
            ids = []
            for group in range(file.num_row_groups):
                ids += file.read_row_group(group).column("id").to_pylist()
            if ids != [row.id for row in shard.rows] or STATISTICS_KEY not in metadata:
                return "it is incomplete"
    except FileNotFoundError:
        return "it is missing"
    except (OSError, pa.ArrowException, ValueError) as error:
        return describe_error(error)
    return None


def _find_foreign(metadata: dict[bytes, bytes], shard: PlannedShard, info: StoreInfo) -> str | None:
    try:
        difference = describe_difference(parse_info(metadata), info)
    except ValueError as error:
        return str(error)
    if difference is None and metadata.get(SHARD_KEY) != shard.key.encode():
        return "it holds other utterances or is coded along other axes"
    return difference


def describe_error(error: Exception) -> str:
    """Why a file could not be read, in a few words."""
    words = " ".join(str(error).split())
    return "a page fails its checksum" if "CRC" in words else words.split(" Is this a 'parquet' file?")[0][:160]


class _LayerTotals:
    """Sums of one layer over a shard."""

    def __init__(self, layer: int, width: int) -> None:
        self.layer, self.width = layer, width
        self.saturated = 0
        self.error, self.spread = (torch.zeros(width, dtype=torch.float64) for _ in range(2))

    def add(self, layer: EncodedLayer) -> None:
        """Count one utterance."""
        self.error += layer.error
        self.spread += layer.spread
        self.saturated += layer.saturated

    def result(self, frames: int) -> LayerStatistics:
        """The sums so far, of `frames` frames."""
        worst = torch.where(self.spread > 0, self.error / self.spread, 0.0).max().sqrt()
        return LayerStatistics(
            self.layer,
            frames * self.width,
            float(self.error.sum()),
            float(self.spread.sum()),
            float(worst),
            self.saturated,
        )


def _table(rows: list[EncodedRow], schema: pa.Schema, info: StoreInfo) -> pa.Table:
    columns: dict[str, list[object]] = {
        "id": [row.id for row in rows],
        "num_samples": [row.num_samples for row in rows],
        "num_frames": [row.num_frames for row in rows],
        "waveform": [row.waveform for row in rows],
    }
    for place, layer in enumerate(info.layers):
        columns[layer_column(layer)] = [row.layers[place].value for row in rows]
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def _open_writer(file: IO[bytes], schema: pa.Schema, info: StoreInfo) -> pq.ParquetWriter:
    layers = {layer_column(layer) for layer in info.layers}
    pages = find_codec(info.codec).page_compression
    # Statistics of binary columns would copy whole values into the footer; audio does not compress.
    return pq.ParquetWriter(
        file,
        schema,
        use_dictionary=False,
        compression={name: pages if name in layers else "none" for name in schema.names},
        write_statistics=["id", "num_samples", "num_frames"],
        write_page_checksum=True,
    )
