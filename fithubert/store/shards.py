"""The utterances of each shard, and hidden states: whole recordings in batches, long ones window by window."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from fithubert.data import Utterance
from fithubert.data.batching import group_consecutive
from fithubert.data.listing import ListedRecordings
from fithubert.data.manifest import Manifest
from fithubert.errors import UserError
from fithubert.files import digest, require_regular
from fithubert.frames import SAMPLE_RATE_HZ, count_frames, pad_waveforms
from fithubert.models.speech_model import SpeechModel
from fithubert.models.windows import Windows, needed_context, stream
from fithubert.store import (
    INDEX_NAME,
    WAVEFORM_SCALE,
    IndexInfo,
    StoreInfo,
    describe_error,
    parse_index,
    parse_info,
    shard_name,
)
from fithubert.store.codec import Basis, layer_codecs

#: Encoded bytes of a row group. Reading in order is equally fast from 2 to 32 MiB; reading one utterance at random is
#: 2.4 times as fast with 2 MiB as with 8.
ROW_GROUP_BYTES = 2 * 2**20
#: Padded audio in one forward pass on a CPU: more pads more, and takes more memory and time (experiments/LOG.md).
CPU_BATCH_SECONDS = 16.0


@dataclass(frozen=True)
class PlannedRow:
    """One utterance: its place in the manifest, its size, and its place in the shard, where rows count by row group."""

    index: int
    id: str
    num_samples: int
    num_frames: int
    row_group: int = 0
    row: int = 0


@dataclass(frozen=True)
class PlannedShard:
    """The rows of one shard, longest first, so that batches need little padding.

    `num_bytes`: the size on disk without the footer, an estimate if pages are compressed. `key`: a digest of the rows,
    of the store that they belong to, and of the code.
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
        return count_seconds(self.rows)


@dataclass(frozen=True)
class UtteranceStates:
    """One utterance: its hidden states, (time, feature) for each layer, on the model's device.

    `samples`: the waveform as it is stored, (samples,) int16, or None.
    """

    row: PlannedRow
    samples: Tensor | None
    hidden_states: tuple[Tensor, ...]


#: A recording, and the states (time, feature) of some or all of its frames, one for each layer.
Piece = tuple[PlannedRow, tuple[Tensor, ...]]
#: The hidden states of rows, which are sorted by length.
Compute = Callable[[Sequence[PlannedRow]], Iterable[UtteranceStates]]


def choose_layers(model: SpeechModel, layers: Literal["all"] | Sequence[int]) -> tuple[int, ...]:
    """`layers` of `model` in ascending order; raises UserError if one does not exist or there is none."""
    last = len(model.widths) - 1
    chosen = range(last + 1) if layers == "all" else sorted(set(layers))
    if not chosen or chosen[0] < 0 or chosen[-1] > last:
        raise UserError(f"layers: {model.name} has layers 0 to {last}; given {list(layers)}")
    return tuple(chosen)


def plan_rows(utterances: Iterable[Utterance], model: SpeechModel | StoreInfo) -> list[PlannedRow]:
    """The utterances of a manifest in its order, without row groups."""
    return [
        PlannedRow(place, u.id, u.num_samples, count_frames(u.num_samples, model.convolutions, model.frame_multiple))
        for place, u in enumerate(utterances)
    ]


def count_seconds(rows: Iterable[PlannedRow]) -> float:
    """The audio of `rows`."""
    return sum(row.num_samples for row in rows) / SAMPLE_RATE_HZ


def order_rows(rows: Sequence[PlannedRow]) -> list[PlannedRow]:
    """The utterances of a corpus in the order of a digest of their ids.

    The order is the same for every worker, and any part of it is a random sample of the corpus. Raises UserError if
    there is no utterance, two share an id, or one is shorter than a frame.
    """
    if not rows:
        raise UserError("the manifest holds no utterance of this selection, so there is nothing to extract")
    ((name, times),) = Counter(row.id for row in rows).most_common(1)
    if times > 1:
        raise UserError(f"the manifest names the utterance {name} twice; every id must be unique")
    for row in rows:
        if not row.num_frames:
            raise UserError(f"utterance {row.id} has {row.num_samples} samples, less than one frame; remove it")
    return sorted(rows, key=lambda row: digest(row.id))


def sort_by_length(rows: Iterable[PlannedRow]) -> list[PlannedRow]:
    """`rows`, the longest first, as `compute_hidden_states` wants them."""
    return sorted(rows, key=lambda row: (-row.num_samples, row.id))


def plan_shards(
    rows: Sequence[PlannedRow], info: StoreInfo, basis: Basis | None, shard_minutes: float
) -> tuple[PlannedShard, ...]:
    """The shards of a corpus, each at most `shard_minutes` of audio from `rows`, which `order_rows` ordered.

    A shard is a random sample of the corpus, so reading shard by shard is already a good shuffle.
    """
    codecs = layer_codecs(info.codec, info.layers, basis)
    store = digest(info.fingerprint, basis.digest if basis else "", info.code_version or "")

    def count_bytes(row: PlannedRow, compressed: bool = False) -> float:
        waveform = 2 * row.num_samples if info.with_waveform else 0
        return waveform + sum(
            codec.count_bytes(row.num_frames, width) * (codec.stored_share if compressed else 1)
            for codec, width in zip(codecs, info.widths, strict=True)
        )

    shards: list[PlannedShard] = []
    for members in group_consecutive(rows, lambda row: row.num_samples, shard_minutes * 60 * SAMPLE_RATE_HZ):
        # A row group is limited by its size in memory, where nothing is compressed.
        groups = group_consecutive(sort_by_length(members), count_bytes, ROW_GROUP_BYTES)
        placed = [
            replace(row, row_group=n, row=place) for n, group in enumerate(groups) for place, row in enumerate(group)
        ]
        parts = [part for row in placed for part in (row.id, str(row.num_samples), str(row.row_group))]
        num_bytes = int(sum(count_bytes(row, compressed=True) for row in placed))
        shards.append(PlannedShard(len(shards), tuple(placed), num_bytes, digest(store, *parts)))
    return tuple(shards)


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
        waveforms = [manifest.read(manifest.utterances[row.index]) for row in batch]
        samples: list[Tensor | None] = [None] * len(batch)
        if with_waveform:
            largest = WAVEFORM_SCALE - 1
            rounded = [(w * WAVEFORM_SCALE).round().clamp(-largest - 1, largest).to(torch.int16) for w in waveforms]
            # The model reads the stored waveform, so that states and waveform belong together exactly.
            waveforms = [s.to(torch.float32) / WAVEFORM_SCALE for s in rounded]
            samples = [*rounded]
        yield from map(UtteranceStates, batch, samples, _run_batch(model, waveforms, batch, layers))


@torch.inference_mode()
def _run_batch(
    model: SpeechModel, waveforms: Sequence[Tensor], rows: Sequence[PlannedRow], layers: Sequence[int]
) -> list[tuple[Tensor, ...]]:
    """The hidden states of each of `waveforms` (samples,), without padding."""
    for waveform, row in zip(waveforms, rows, strict=True):
        if waveform.shape != (row.num_samples,):
            raise UserError(
                f"utterance {row.id}: {row.num_samples} samples in the manifest, {len(waveform)} in the file; "
                "run `fithubert prepare` again"
            )
    output = model(*pad_waveforms(waveforms), layers[-1])
    states = []
    for place, (row, frames) in enumerate(zip(rows, output.lengths.tolist(), strict=True)):
        if frames != row.num_frames:
            raise ValueError(f"{model.name}: {frames} frames of {row.id}, expected {row.num_frames}")
        own = tuple(output.hidden_states[layer][place, :frames] for layer in layers)
        check_finite(own, model, row, layers)
        states.append(own)
    return states


def check_finite(states: Sequence[Tensor], model: SpeechModel, row: PlannedRow, layers: Sequence[int]) -> None:
    """Raise UserError if one of the `states` of `layers` holds NaN or infinite values."""
    for layer, values in zip(layers, states, strict=True):
        if not bool(torch.isfinite(values).all()):
            raise UserError(f"{row.id}: layer {layer} of {model.name} is NaN or infinite; fix the model")


def compute_pieces(
    model: SpeechModel,
    recordings: ListedRecordings,
    rows: Sequence[PlannedRow],
    layers: Sequence[int],
    batch_seconds: float,
    windows: Windows,
    on_frames: Callable[[int], object],
) -> Iterator[Piece]:
    """The hidden states of `layers` (ascending) of `rows`: first all that run whole, then the others.

    The pieces of one recording follow one another and are together its states. Memory holds one batch, or one window
    with its context. `on_frames` gets the frames of each piece. Raises UserError if audio is unreadable or a hidden
    state is not finite.
    """
    whole = sort_by_length(row for row in rows if not windows.cut(row.num_samples))
    for utterance in compute_hidden_states(model, recordings, whole, layers, batch_seconds):
        on_frames(utterance.row.num_frames)
        yield utterance.row, utterance.hidden_states
    for row in sort_by_length(row for row in rows if windows.cut(row.num_samples)):
        blocks = recordings.read_blocks(recordings.utterances[row.index])
        for states in stream(model, blocks, windows.window_seconds, windows.context_seconds, layers):
            check_finite(states, model, row, layers)
            on_frames(len(states[0]))
            yield row, states


def show_frames(
    rows: Sequence[PlannedRow], on_progress: Callable[[float, float], None] | None
) -> Callable[[int], None]:
    """A function that is called with the frames of every piece of `rows` and passes on the seconds done, and all."""
    seconds, num_frames, done = count_seconds(rows), sum(row.num_frames for row in rows), 0

    def show(frames: int) -> None:
        nonlocal done
        done += frames
        if on_progress is not None:
            on_progress(done / num_frames * seconds, seconds)

    return show


def used_windows(model: SpeechModel, recordings: ListedRecordings, windows: Windows) -> Windows | None:
    """`windows` with the context of `model` if one of `recordings` is cut into them, as it is written to metadata."""
    if not any(windows.cut(utterance.num_samples) for utterance in recordings):
        return None
    return replace(windows, context_seconds=needed_context(model)) if windows.context_seconds is None else windows


def read_index(directory: Path) -> tuple[pa.Table, StoreInfo, IndexInfo]:
    """The index of the store in `directory`; raises UserError if it is missing or not readable."""
    path = directory / INDEX_NAME
    # Without an index only the place tells which stage makes the store: data/extract/MODEL or data/cache/SPLIT.
    command = f"fithubert extract {directory.name}" if directory.parent.name == "extract" else "fithubert cache"
    if not path.is_file():
        raise UserError(f"{directory}: no feature store ({INDEX_NAME} is missing); run `{command}` first")
    try:
        table = pq.read_table(require_regular(path), page_checksum_verification=True)
        return table, parse_info(table.schema.metadata), parse_index(table.schema.metadata)
    except (OSError, pa.ArrowException, ValueError, KeyError) as error:
        raise UserError(
            f"{path}: not readable as a feature store ({describe_error(error)}); run `{command}` again"
        ) from None
