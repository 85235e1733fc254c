"""The utterances of each shard, and their hidden states, computed in batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import torch
from torch import Tensor

from fithubert.data.batching import group_consecutive
from fithubert.data.manifest import Manifest
from fithubert.errors import UserError
from fithubert.files import digest
from fithubert.frames import SAMPLE_RATE_HZ, count_frames, pad_waveforms
from fithubert.models.speech_model import SpeechModel
from fithubert.store.codec import Basis, Codec, layer_codecs
from fithubert.store.format import WAVEFORM_SCALE, IndexInfo, StoreInfo, index_schema, shard_name

#: Encoded bytes of a row group. Reading in order is equally fast from 2 to 32 MiB; reading one utterance at random is
#: 2.4 times as fast with 2 MiB as with 8.
ROW_GROUP_BYTES = 2 * 2**20
#: Padded audio in one forward pass on a CPU: more pads more, and takes more memory and time (experiments/LOG.md).
CPU_BATCH_SECONDS = 16.0


@dataclass(frozen=True)
class PlannedRow:
    """One utterance: its place in the manifest, its size, and its row group inside the shard."""

    index: int
    id: str
    num_samples: int
    num_frames: int
    row_group: int = 0


@dataclass(frozen=True)
class PlannedShard:
    """The rows of one shard, longest first, so that batches need little padding.

    `num_bytes`: the size on disk without the footer, an estimate if pages are compressed. `key`: a digest of the rows
    and of the store that they belong to.
    """

    index: int
    rows: tuple[PlannedRow, ...]
    num_bytes: int
    key: str

    @property
    def name(self) -> str:
        """The file name."""
        return shard_name(self.index)

    @property
    def seconds(self) -> float:
        """The audio in this shard."""
        return sum(row.num_samples for row in self.rows) / SAMPLE_RATE_HZ

    def row_groups(self) -> list[list[PlannedRow]]:
        """The rows by row group."""
        groups: list[list[PlannedRow]] = []
        for row in self.rows:
            if row.row_group == len(groups):
                groups.append([])
            groups[-1].append(row)
        return groups


def order_rows(ids: Sequence[str], num_samples: Sequence[int], info: StoreInfo) -> tuple[PlannedRow, ...]:
    """The utterances of a corpus in the order of a digest of their ids, without row groups.

    The order is the same for every worker, and any part of it is a random sample of the corpus. Raises UserError if
    there is no utterance, two share an id, or one is shorter than a frame.
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
    return tuple(PlannedRow(i, ids[i], num_samples[i], frames[i]) for i in shuffled)


def plan_shards(
    rows: Sequence[PlannedRow], info: StoreInfo, basis: Basis | None, shard_minutes: float
) -> tuple[PlannedShard, ...]:
    """The shards of a corpus, each at most `shard_minutes` of audio from `rows`, which `order_rows` ordered.

    A shard is a random sample of the corpus, so reading shard by shard is already a good shuffle.
    """
    members = group_consecutive(rows, lambda row: row.num_samples, shard_minutes * 60 * SAMPLE_RATE_HZ)
    codecs = layer_codecs(info.codec, info.layers, basis)
    store = digest(info.fingerprint, basis.digest) if basis is not None else info.fingerprint
    return tuple(
        _plan_shard(number, sort_by_length(shard_rows), info, codecs, store)
        for number, shard_rows in enumerate(members)
    )


def sort_by_length(rows: Sequence[PlannedRow]) -> list[PlannedRow]:
    """`rows`, the longest first, as `compute_hidden_states` wants them."""
    return sorted(rows, key=lambda row: (-row.num_samples, row.id))


def _plan_shard(
    number: int, rows: Sequence[PlannedRow], info: StoreInfo, codecs: Sequence[Codec], store: str
) -> PlannedShard:
    def sizes(row: PlannedRow) -> list[int]:
        return [codec.count_bytes(row.num_frames, width) for codec, width in zip(codecs, info.widths, strict=True)]

    def waveform_bytes(row: PlannedRow) -> int:
        return 2 * row.num_samples if info.with_waveform else 0

    # A row group is limited by its size in memory, where nothing is compressed.
    groups = group_consecutive(rows, lambda row: sum(sizes(row)) + waveform_bytes(row), ROW_GROUP_BYTES)
    placed = tuple(replace(row, row_group=number) for number, group in enumerate(groups) for row in group)
    stored = sum(
        sum(size * codec.stored_share for size, codec in zip(sizes(row), codecs, strict=True)) + waveform_bytes(row)
        for row in rows
    )
    parts = [part for row in placed for part in (row.id, str(row.num_samples), str(row.row_group))]
    return PlannedShard(number, placed, int(stored), digest(store, *parts))


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


@dataclass(frozen=True)
class UtteranceStates:
    """One utterance: its hidden states, (time, feature) for each layer, on the model's device.

    `samples`: the waveform as it is stored, (samples,) int16, or None.
    """

    row: PlannedRow
    samples: Tensor | None
    hidden_states: tuple[Tensor, ...]


def compute_hidden_states(
    model: SpeechModel,
    manifest: Manifest,
    rows: Sequence[PlannedRow],
    layers: Sequence[int],
    batch_seconds: float,
    with_waveform: bool = False,
) -> Iterator[UtteranceStates]:
    """The hidden states of `layers` (ascending) for `rows` (longest first), in order.

    Memory holds one batch of at most `batch_seconds` of padded audio. Raises UserError if audio is unreadable or a
    hidden state is not finite.
    """
    for batch in group_consecutive(rows, lambda row: row.num_samples, batch_seconds * SAMPLE_RATE_HZ, padded=True):
        waveforms = [_read(manifest, row) for row in batch]
        samples: list[Tensor | None] = [None] * len(batch)
        if with_waveform:
            rounded = [_to_int16(waveform) for waveform in waveforms]
            # The model reads the stored waveform, so that states and waveform belong together exactly.
            waveforms = [s.to(torch.float32) / WAVEFORM_SCALE for s in rounded]
            samples = [*rounded]
        yield from map(UtteranceStates, batch, samples, _run_batch(model, waveforms, batch, layers))


@torch.inference_mode()
def _run_batch(
    model: SpeechModel, waveforms: Sequence[Tensor], rows: Sequence[PlannedRow], layers: Sequence[int]
) -> list[tuple[Tensor, ...]]:
    """The hidden states of each of `waveforms` (samples,), without padding."""
    output = model(*pad_waveforms(waveforms), layers[-1])
    states = []
    for place, (row, frames) in enumerate(zip(rows, output.lengths.tolist(), strict=True)):
        if frames != row.num_frames:
            raise ValueError(f"{model.name}: {frames} frames of {row.id}, expected {row.num_frames}")
        own = tuple(output.hidden_states[layer][place, :frames] for layer in layers)
        for layer, values in zip(layers, own, strict=True):
            if not bool(torch.isfinite(values).all()):
                raise UserError(f"{row.id}: layer {layer} of {model.name} is NaN or infinite; fix the model")
        states.append(own)
    return states


def _read(manifest: Manifest, row: PlannedRow) -> Tensor:
    waveform = manifest.read(manifest.utterances[row.index])
    if waveform.shape != (row.num_samples,):
        raise UserError(
            f"utterance {row.id}: {row.num_samples} samples in the manifest, {len(waveform)} in the file; "
            "run `fithubert prepare` again"
        )
    return waveform


def _to_int16(waveform: Tensor) -> Tensor:
    return (waveform * WAVEFORM_SCALE).round().clamp(-WAVEFORM_SCALE, WAVEFORM_SCALE - 1).to(torch.int16)
