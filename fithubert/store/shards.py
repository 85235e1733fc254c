"""Which utterances a shard holds, and temporary files next to it."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import pyarrow as pa

from fithubert.data.batching import group_consecutive
from fithubert.errors import UserError
from fithubert.files import atomic_file, digest
from fithubert.frames import SAMPLE_RATE_HZ, count_frames
from fithubert.store.codec import Basis, Codec, layer_codecs
from fithubert.store.format import IndexInfo, StoreInfo, index_schema, shard_name

try:
    import fcntl
except ImportError:  # Windows: leftovers of killed writers stay until they are deleted by hand.
    fcntl = None  # type: ignore[assignment]


@contextmanager
def locked_aside(path: Path, replace: bool = True) -> Iterator[IO[bytes]]:
    """A file that becomes `path` at the end, locked until then; without `replace` a `path` that is there stays."""
    file: IO[bytes] | None = None
    try:
        with atomic_file(path, replace) as aside:
            while True:
                file = aside.open("wb")
                if not _lock(file, wait=True) or os.fstat(file.fileno()).st_nlink:
                    break
                file.close()  # deleted as a leftover before it was locked
            yield file
            file.flush()
            if fcntl is None:
                file.close()
    finally:
        if file is not None:
            file.close()


def remove_leftovers(directory: Path) -> None:
    """Delete what killed writers left beside their files; a living writer holds a lock on its own."""
    for aside in directory.glob(".*.parquet.*.part"):
        with suppress(OSError), aside.open("rb+") as file:
            if _lock(file, wait=False):
                aside.unlink()


def _lock(file: IO[bytes], wait: bool) -> bool:
    """Whether this process now holds the lock on `file`, until the file is closed."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


#: Encoded bytes of a row group: long enough to stream (measured equal from 2 to 32 MiB), short enough that an utterance
#: read at random brings few others with it (2 MiB 2.4 times as fast as 8 MiB).
ROW_GROUP_BYTES = 2 * 2**20


@dataclass(frozen=True)
class PlannedRow:
    """One utterance: its place in the manifest, its size, and its row group inside the shard."""

    index: int
    id: str
    num_samples: int
    num_frames: int
    row_group: int


@dataclass(frozen=True)
class PlannedShard:
    """The rows of one shard, longest first, so that neighbours pad little. `num_bytes`: on disk, without footer; of
    compressed pages an estimate."""

    index: int
    rows: tuple[PlannedRow, ...]
    num_bytes: int
    key: str

    @property
    def name(self) -> str:
        """The file name."""
        return shard_name(self.index)

    def row_groups(self) -> list[list[PlannedRow]]:
        """The rows by row group."""
        groups: list[list[PlannedRow]] = []
        for row in self.rows:
            if row.row_group == len(groups):
                groups.append([])
            groups[-1].append(row)
        return groups


def order_rows(ids: Sequence[str], num_samples: Sequence[int], info: StoreInfo) -> tuple[PlannedRow, ...]:
    """The utterances of a corpus in the order of a digest of their ids, not yet in row groups.

    Any stretch of it is a random sample of the corpus, and every worker orders alike. Raises UserError where there is
    no utterance, two share an id, or one is shorter than a frame.
    """
    if not ids:
        raise UserError("the manifest holds no utterance of this selection, so there is nothing to extract")
    if len(set(ids)) != len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise UserError(f"the manifest names the utterance {twice} twice; every id must be unique")
    frames = [count_frames(n, info.convolutions) for n in num_samples]
    if 0 in frames:
        short = frames.index(0)
        raise UserError(f"utterance {ids[short]} has {num_samples[short]} samples, less than one frame; remove it")
    shuffled = sorted(range(len(ids)), key=lambda i: digest(ids[i]))
    return tuple(PlannedRow(i, ids[i], num_samples[i], frames[i], 0) for i in shuffled)


def plan_shards(
    rows: Sequence[PlannedRow], info: StoreInfo, basis: Basis | None, shard_minutes: float
) -> tuple[PlannedShard, ...]:
    """The shards of a corpus, each about `shard_minutes` of audio from `rows`, as `order_rows` orders them.

    A shard is thus a random sample of the corpus, so that reading shard by shard is already a good shuffle.
    """
    members = group_consecutive(rows, lambda row: row.num_samples, shard_minutes * 60 * SAMPLE_RATE_HZ)
    codecs = layer_codecs(info.codec, info.layers, basis)
    store = digest(info.fingerprint, basis.digest) if basis is not None else info.fingerprint
    shards = []
    for number, group in enumerate(members):
        group.sort(key=lambda row: (-row.num_samples, row.id))
        shards.append(_plan_shard(number, group, info, codecs, store))
    return tuple(shards)


def plan_batches_by_length(rows: Sequence[PlannedRow], batch_seconds: float) -> list[list[PlannedRow]]:
    """Consecutive rows (longest first) in batches of at most `batch_seconds` of padded audio, at least one row each."""
    return group_consecutive(rows, lambda row: row.num_samples, batch_seconds * SAMPLE_RATE_HZ, padded=True)


def index_table(shards: Sequence[PlannedShard], info: StoreInfo, index: IndexInfo) -> pa.Table:
    """The index of a store, in the order of the manifest."""
    places = []
    for shard in shards:
        for group in shard.row_groups():
            places += [(row, shard.index, position) for position, row in enumerate(group)]
    places.sort(key=lambda place: place[0].index)
    columns = [
        [row.id for row, _, _ in places],
        [row.num_samples for row, _, _ in places],
        [row.num_frames for row, _, _ in places],
        [shard for _, shard, _ in places],
        [row.row_group for row, _, _ in places],
        [position for _, _, position in places],
    ]
    return pa.table(columns, schema=index_schema(info, index))


def _plan_shard(
    number: int, group: Sequence[PlannedRow], info: StoreInfo, codecs: Sequence[Codec], store: str
) -> PlannedShard:
    rows, total, row_group, filled = [], 0.0, 0, 0
    for row in group:
        sizes = [codec.count_bytes(row.num_frames, width) for codec, width in zip(codecs, info.widths, strict=True)]
        waveform = 2 * row.num_samples if info.with_waveform else 0
        # Row groups are bounded by what they take in memory, where nothing is compressed.
        if filled and filled + sum(sizes) + waveform > ROW_GROUP_BYTES:
            row_group, filled = row_group + 1, 0
        rows.append(replace(row, row_group=row_group))
        filled += sum(sizes) + waveform
        total += sum(size * codec.stored_share for size, codec in zip(sizes, codecs, strict=True)) + waveform
    parts = [part for row in rows for part in (row.id, str(row.num_samples), str(row.row_group))]
    return PlannedShard(number, tuple(rows), int(total), digest(store, *parts))
