"""Writing shards, whole or absent, with page checksums and the measured coding error; checking existing shards."""

import errno
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import reduce
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from fithubert.errors import UserError
from fithubert.files import open_atomically, remove_leftovers, require_regular
from fithubert.frames import SAMPLE_RATE_HZ
from fithubert.records import StoredLayer, StoreMetrics
from fithubert.store import (
    BASIS_PATTERN,
    INDEX_NAME,
    SHARD_KEY,
    SHARD_PATTERN,
    STATISTICS_KEY,
    Commands,
    IndexInfo,
    StoreInfo,
    describe_difference,
    describe_error,
    index_schema,
    layer_column,
    parse_info,
    shard_schema,
)
from fithubert.store.basis import basis_name
from fithubert.store.codec import Basis, Codec, EncodedLayer, encode_layer, find_codec
from fithubert.store.shards import Compute, PlannedShard, UtteranceStates

MISSING = "it was missing"
#: Room besides the coded values: footers, page headers and the index.
_OVERHEAD, _SPARE_BYTES = 1.02, 4 * 2**20


def write_index(
    directory: Path,
    shards: Sequence[PlannedShard],
    info: StoreInfo,
    commands: Commands,
    shard_minutes: float,
    basis: Basis | None,
) -> None:
    """Write the index of a store, in the order of the manifest; its bytes depend on the arguments alone."""
    index = IndexInfo(
        tuple(shard.key for shard in shards), commands, None if basis is None else basis.digest, shard_minutes
    )
    places = [
        (row.index, row.id, row.num_samples, row.num_frames, shard.index, row.row_group, row.row)
        for shard in shards
        for row in shard.rows
    ]
    columns = list(zip(*sorted(places), strict=True))[1:]
    with open_atomically(directory / INDEX_NAME) as file:
        table = pa.table([list(column) for column in columns], schema=index_schema(info, index))
        pq.write_table(table, file, compression="zstd", write_page_checksum=True)


def write_shard(
    directory: Path,
    shard: PlannedShard,
    info: StoreInfo,
    codecs: Sequence[Codec],
    utterances: Iterable[UtteranceStates],
) -> None:
    """Encode `utterances`, in the planned order, and write them as one shard, whole or not at all.

    Raises UserError if the disk is full, ValueError if the utterances are not those of the plan.
    """
    schema = shard_schema(info, shard.key)
    source = iter(utterances)
    coded: list[list[EncodedLayer]] = [[] for _ in info.layers]
    layers, pages = {layer_column(layer) for layer in info.layers}, find_codec(info.codec).page_compression
    with (
        open_atomically(directory / shard.name) as file,
        pq.ParquetWriter(
            file,
            schema,
            use_dictionary=False,
            # Audio does not compress.
            compression={name: pages if name in layers else "none" for name in schema.names},
            # Statistics of binary columns would copy whole values into the footer.
            write_statistics=["id", "num_samples", "num_frames"],
            write_page_checksum=True,
        ) as writer,
    ):
        for _, planned in groupby(shard.rows, key=lambda row: row.row_group):
            rows = []
            for row in planned:
                states = next(source)
                if states.row.id != row.id:
                    raise ValueError(f"{shard.name}: rows out of the planned order")
                values: list[object] = [row.id, row.num_samples, row.num_frames]
                if states.samples is not None:
                    values.append(states.samples.numpy().astype("<i2").tobytes())
                for parts, hidden_states, codec in zip(coded, states.hidden_states, codecs, strict=True):
                    layer = encode_layer(hidden_states, codec)
                    values.append(layer.value)
                    parts.append(replace(layer, value=b""))
                rows.append(values)
            columns = [list(column) for column in zip(*rows, strict=True)]
            writer.write_table(pa.table(columns, schema=schema), row_group_size=len(rows))
        frames = sum(row.num_frames for row in shard.rows)
        statistics = {
            "utterances": len(shard.rows),
            "num_samples": sum(row.num_samples for row in shard.rows),
            "layers": [_add_up(layer, frames, parts) for layer, parts in zip(info.layers, coded, strict=True)],
        }
        writer.add_key_value_metadata({STATISTICS_KEY: json.dumps(statistics, sort_keys=True).encode()})


def _add_up(layer: int, frames: int, parts: Sequence[EncodedLayer]) -> dict[str, float]:
    """One layer over one shard: sums of squares as in EncodedLayer, and the largest relative error of any channel."""
    error = reduce(torch.add, (part.error for part in parts))
    spread = reduce(torch.add, (part.spread for part in parts))
    return {
        "layer": layer,
        "values": frames * len(error),
        "error": float(error.sum()),
        "spread": float(spread.sum()),
        "worst_channel_error": float(torch.where(spread > 0, error / spread, 0.0).max().sqrt()),
        "saturated": sum(part.saturated for part in parts),
    }


def remove_foreign(
    directory: Path, shards: Sequence[PlannedShard], own: Sequence[PlannedShard], info: StoreInfo
) -> dict[str, str]:
    """Delete leftovers of killed writers, foreign bases, shards that are not planned, and own shards of another store.

    This comes first, because their space is needed. The result has the reason for each deleted own shard.
    """
    remove_leftovers(directory)
    names = {shard.name for shard in shards} | {basis_name(info)}
    for path in [*directory.glob(SHARD_PATTERN), *directory.glob(BASIS_PATTERN)]:
        if path.name not in names:
            path.unlink(missing_ok=True)
    foreign = {}
    for shard in own:
        try:
            reason = _find_foreign(
                pq.read_metadata(require_regular(directory / shard.name)).metadata or {}, shard, info
            )
        except (OSError, pa.ArrowException, ValueError):
            continue
        if reason is not None:
            foreign[shard.name] = reason
            (directory / shard.name).unlink(missing_ok=True)
    return foreign


def check_space(directory: Path, shards: Sequence[PlannedShard]) -> None:
    """Raise UserError if those of `shards` that do not exist do not fit on the disk."""
    missing = [shard for shard in shards if not (directory / shard.name).exists()]
    if missing and shutil.disk_usage(directory).free < _count_bytes(missing):
        raise _no_space(directory, missing)


def _no_space(directory: Path, missing: Sequence[PlannedShard]) -> UserError:
    kept = len(list(directory.glob(SHARD_PATTERN)))
    return UserError(
        f"{directory}: not enough disk space: {len(missing)} shards need {_count_bytes(missing) / 1e9:.3f} GB and "
        f"{shutil.disk_usage(directory).free / 1e9:.3f} GB are free; the {kept} existing shards are kept: "
        "free some space and run the same command again, or store fewer layers or use a smaller codec"
    )


def _count_bytes(shards: Sequence[PlannedShard]) -> int:
    return int(sum(shard.num_bytes for shard in shards) * _OVERHEAD) + _SPARE_BYTES


def write_missing(
    directory: Path, shards: Sequence[PlannedShard], info: StoreInfo, codecs: Sequence[Codec], compute: Compute
) -> Iterator[tuple[PlannedShard, str | None]]:
    """Write each of `shards` that is not whole; yields it with the reason, None if it was whole.

    Raises UserError if the disk is full.
    """
    for place, shard in enumerate(shards):
        problem = find_problem(directory / shard.name, shard, info)
        if problem is not None:
            try:
                write_shard(directory, shard, info, codecs, compute(shard.rows))
            except UserError as error:
                if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.ENOSPC:
                    raise _no_space(directory, shards[place:]) from error
                raise
        yield shard, problem


def find_problem(path: Path, shard: PlannedShard, info: StoreInfo) -> str | None:
    """Why the shard in `path` cannot be used, after reading every page; None if it is whole and of this store."""
    try:
        metadata = read_pages(path)
    except FileNotFoundError:
        return MISSING
    except (OSError, pa.ArrowException, ValueError) as error:
        return describe_error(error)
    return _find_foreign(metadata, shard, info) or (None if STATISTICS_KEY in metadata else "it is incomplete")


def read_pages(path: Path) -> dict[bytes, bytes]:
    """The metadata of a Parquet file, after reading every page.

    Raises OSError, ArrowException or ValueError if the file is missing or damaged.
    """
    with pq.ParquetFile(require_regular(path), page_checksum_verification=True) as file:
        for group in range(file.num_row_groups):
            file.read_row_group(group)
        return file.metadata.metadata or {}


def _find_foreign(metadata: dict[bytes, bytes], shard: PlannedShard, info: StoreInfo) -> str | None:
    try:
        difference = describe_difference(parse_info(metadata), info)
    except ValueError as error:
        return str(error)
    if difference is None and metadata.get(SHARD_KEY) != shard.key.encode():
        return "it holds other utterances or has other axes"
    return difference


def measure_shards(directory: Path, names: Sequence[str], info: StoreInfo) -> StoreMetrics:
    """Size and coding error of the shards called `names`, from their footers, so that kept and written ones are alike.

    A killed and resumed run gives the same.
    """
    statistics, layer_bytes = [], dict.fromkeys(info.layers, 0)
    for name in names:
        # One at a time: the footers of a large store together take gigabytes.
        footer = pq.read_metadata(directory / name)
        statistics.append(json.loads(footer.metadata[STATISTICS_KEY]))
        for layer in info.layers:
            layer_bytes[layer] += _count_layer_bytes(footer, layer)
    seconds = sum(shard["num_samples"] for shard in statistics) / SAMPLE_RATE_HZ

    def per_hour(num_bytes: int) -> float:
        return num_bytes / seconds * 3600 if seconds else 0.0

    layers = {}
    for place, layer in enumerate(info.layers):
        parts = [shard["layers"][place] for shard in statistics]
        error, spread, saturated, values = (
            sum(part[name] for part in parts) for name in ("error", "spread", "saturated", "values")
        )
        layers[layer] = StoredLayer(
            bytes_per_audio_hour=per_hour(layer_bytes[layer]),
            # A constant layer is coded without an error.
            relative_error=(error / spread) ** 0.5 if spread > 0 else 0.0,
            worst_channel_error=max((part["worst_channel_error"] for part in parts), default=0.0),
            saturated_share=saturated / max(values, 1),
        )
    num_bytes = sum((directory / name).stat().st_size for name in names)
    return StoreMetrics(
        codec=info.codec,
        model=info.model,
        fingerprint=info.fingerprint,
        utterances=sum(shard["utterances"] for shard in statistics),
        audio_seconds=seconds,
        bytes=num_bytes,
        bytes_per_audio_hour=per_hour(num_bytes),
        relative_error=max(layer.relative_error for layer in layers.values()),
        layers=layers,
    )


def _count_layer_bytes(footer: pq.FileMetaData, layer: int) -> int:
    column = footer.schema.names.index(layer_column(layer))
    return sum(footer.row_group(group).column(column).total_compressed_size for group in range(footer.num_row_groups))
