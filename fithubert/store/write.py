"""Writing shards, whole or absent, with page checksums and the measured coding error; checking existing shards."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from fithubert.files import open_atomically
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
from fithubert.store.report import EncodedLayer, LayerTotals, ShardStatistics
from fithubert.store.shards import PlannedShard, index_table


@dataclass(frozen=True)
class EncodedRow:
    """One utterance, encoded. `waveform`: int16 bytes, or None in a store without waveforms."""

    id: str
    num_samples: int
    num_frames: int
    waveform: bytes | None
    layers: tuple[EncodedLayer, ...]


def encode_layer(hidden_states: Tensor, codec: Codec) -> EncodedLayer:
    """`hidden_states` (time, feature), finite, as an EncodedLayer; computed on their own device."""
    # Only CPU and CUDA have float64.
    states = hidden_states if hidden_states.device.type in ("cpu", "cuda") else hidden_states.cpu()
    states = states.float().contiguous()
    value, saturated = codec.encode(states)
    decoded = torch.empty_like(states)
    codec.decode(value, 0, decoded)
    # In float64, because the square of a large float32 number is out of the range of float32.
    error = states.double().sub_(decoded).square_().sum(0)
    exact = states.double()
    spread = exact.sub_(exact.mean(0)).square_().sum(0)
    return EncodedLayer(value.cpu().numpy().tobytes(), error.cpu(), spread.cpu(), saturated)


def write_index(directory: Path, shards: tuple[PlannedShard, ...], info: StoreInfo, index: IndexInfo) -> None:
    """Write the index of a store; its bytes depend on the arguments alone."""
    with open_atomically(directory / INDEX_NAME) as file:
        pq.write_table(index_table(shards, info, index), file, compression="zstd", write_page_checksum=True)


def write_shard(directory: Path, shard: PlannedShard, info: StoreInfo, rows: Iterable[EncodedRow]) -> None:
    """Write `rows`, in the planned order, as one shard, whole or not at all.

    Raises UserError if the disk is full, ValueError if the rows are not those of the plan.
    """
    schema = shard_schema(info, shard.key)
    source = iter(rows)
    totals = [LayerTotals(layer, width) for layer, width in zip(info.layers, info.widths, strict=True)]
    with open_atomically(directory / shard.name) as file, _open_writer(file, schema, info) as writer:
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
        writer.add_key_value_metadata({STATISTICS_KEY: statistics.to_json()})


def describe_foreign(path: Path, shard: PlannedShard, info: StoreInfo) -> str | None:
    """Why the shard in `path` belongs to another store, by its footer; None if it does not or cannot be read."""
    try:
        metadata = pq.read_metadata(path).metadata or {}
    except (OSError, pa.ArrowException, ValueError):
        return None
    return _find_foreign(metadata, shard, info)


def find_problem(path: Path, shard: PlannedShard, info: StoreInfo) -> str | None:
    """Why the shard in `path` cannot be used, after reading every page; None if it is whole and of this store."""
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
        return "it holds other utterances or has other axes"
    return difference


def describe_error(error: Exception) -> str:
    """The reason why a Parquet file could not be read, in a few words."""
    message = " ".join(str(error).split())
    return "a page fails its checksum" if "CRC" in message else message.split(" Is this a 'parquet' file?")[0][:160]


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
    # Column statistics of binary columns would copy whole values into the footer. Audio does not compress.
    return pq.ParquetWriter(
        file,
        schema,
        use_dictionary=False,
        compression={name: pages if name in layers else "none" for name in schema.names},
        write_statistics=["id", "num_samples", "num_frames"],
        write_page_checksum=True,
    )
