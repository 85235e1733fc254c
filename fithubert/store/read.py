"""Reading hidden states from a feature store, whole utterances or batches of crops."""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from fithubert.data.batching import Crop
from fithubert.errors import UserError
from fithubert.files import require_regular
from fithubert.frames import count_samples, pad_waveforms, receptive_field
from fithubert.store import (
    SHARD_KEY,
    SHARD_PATTERN,
    WAVEFORM_SCALE,
    Expected,
    describe_error,
    describe_mismatch,
    layer_column,
    shard_name,
)
from fithubert.store.basis import basis_name, read_basis
from fithubert.store.codec import Basis, find_codec, layer_codecs
from fithubert.store.shards import read_index

#: Of one column and row group: (bytes,) uint8 for each row.
Rows = list[Tensor]

CACHE_BYTES = 512 * 2**20
_OPEN_SHARDS = 16


@dataclass(frozen=True)
class FeatureRow:
    """One whole utterance.

    `waveform`: (samples,) float32 at 16 kHz, or None. `hidden_states`: layer -> (time, feature) float32.
    """

    id: str
    waveform: Tensor | None
    hidden_states: dict[int, Tensor]


@dataclass(frozen=True)
class HiddenStateBatch:
    """Crops of several utterances, padded with zeros at the end.

    `waveforms`: (batch, samples) float32 at 16 kHz, or None. `lengths`: (batch,) samples. `hidden_states`: layer ->
    (batch, time, feature) float32. `frame_lengths`: (batch,) frames. `masked`: (batch, time) bool, the frames that a
    student must predict without reading them, or None.
    """

    ids: tuple[str, ...]
    waveforms: Tensor | None
    lengths: Tensor
    hidden_states: dict[int, Tensor]
    frame_lengths: Tensor
    masked: Tensor | None = None

    def to(self, device: torch.device) -> "HiddenStateBatch":
        """The same batch with its tensors on `device`."""

        def move(tensor: Tensor) -> Tensor:
            # The copy from pinned memory overlaps with the computation.
            return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)

        tensors = {name: move(value) for name, value in vars(self).items() if isinstance(value, Tensor)}
        states = {layer: move(value) for layer, value in self.hidden_states.items()}
        return replace(self, hidden_states=states, **tensors)  # type: ignore[arg-type]


class HiddenStates:
    """Utterances with hidden states on disk: `ids` and `num_frames`, one for each; `layers` and their `widths`."""

    def __init__(self, path: Path, width_of: dict[int, int], ids: Sequence[str], frames: Sequence[int]) -> None:
        self.path, self._width_of = path, width_of
        self.layers, self.widths = tuple(width_of), tuple(width_of.values())
        self.ids, self.num_frames = tuple(ids), tuple(frames)
        self._place_of = {name: index for index, name in enumerate(self.ids)}

    def __len__(self) -> int:
        return len(self.ids)

    def _find(self, utterance: str | int) -> int:
        """The place of an utterance; raises UserError for an unknown id, IndexError for an unknown place."""
        place = self._place_of.get(utterance) if isinstance(utterance, str) else range(len(self.ids))[utterance]
        if place is None:
            raise UserError(f"{self.path}: no utterance {utterance!r}")
        return place

    def _check_layers(self, layers: Sequence[int] | None) -> tuple[int, ...]:
        """`layers`, None for all; raises UserError if one is not stored."""
        missing = sorted(set(layers or ()) - set(self.layers))
        if missing:
            raise UserError(f"{self.path}: layers {missing} are missing; it holds {list(self.layers)}")
        return self.layers if layers is None else tuple(layers)


class FeatureStore(HiddenStates):
    """The hidden states of a corpus, in the order of its manifest. Open one with `FeatureStore.open`.

    `shards` of the utterances: crops from one are read fastest. `info`: the store's origin. `cached_bytes`: of encoded
    columns in memory. Several threads may read at once; a copy sent to another process opens the store again.
    """

    def __init__(self, path: Path, cache_bytes: int, layers: Sequence[int] | None = None) -> None:
        table, self.info, self._index = read_index(path)
        columns = {name: tuple(table.column(name).to_pylist()) for name in table.schema.names}
        width_of = dict(zip(self.info.layers, self.info.widths, strict=True))
        super().__init__(path, width_of, columns["id"], columns["num_frames"])
        self.layers = self._check_layers(layers)
        self.widths = tuple(width_of[layer] for layer in self.layers)
        self.num_samples: tuple[int, ...] = columns["num_samples"]
        self.shards: tuple[int, ...] = columns["shard"]
        self._places = list(zip(columns["shard"], columns["row_group"], columns["row"], strict=True))
        codecs = layer_codecs(self.info.codec, self.info.layers, self._read_basis())
        self._codec_of = dict(zip(self.info.layers, codecs, strict=True))
        self._stride = receptive_field(self.info.convolutions)[1]
        # (shard, row group, column) -> rows; the least recently used column comes first.
        self._columns: OrderedDict[tuple[int, int, str], Rows] = OrderedDict()
        self._limit_bytes, self.cached_bytes = cache_bytes, 0
        self._open_shard = lru_cache(_OPEN_SHARDS)(self._check_shard)
        self._lock = threading.Lock()

    @classmethod
    def open(
        cls,
        path: Path | str,
        expect: Expected | None = None,
        cache_bytes: int = CACHE_BYTES,
        layers: Sequence[int] | None = None,
    ) -> "FeatureStore":
        """The store in the directory `path`, with all of its layers or only these.

        `cache_bytes` bounds the encoded columns that stay in memory. Raises UserError if there is no store, a shard or
        a layer is missing, or the store differs from `expect`.
        """
        path = Path(path)
        store = cls(path, cache_bytes, layers)
        commands = store._index.commands
        mismatch = describe_mismatch(store.info, expect) if expect else None
        if mismatch:
            raise UserError(f"{path}: another feature store: {mismatch}; run `{commands.rebuild}` again")
        present = {shard.name for shard in path.glob(SHARD_PATTERN)}
        count = len(store._index.shard_keys)
        missing = [name for name in map(shard_name, range(count)) if name not in present]
        if missing:
            raise UserError(
                f"{path / missing[0]}: missing, as {len(missing)} of {count} shards are; "
                f"run `{commands.repair}`, which writes only what is missing"
            )
        return store

    def __reduce__(self) -> tuple[Any, ...]:
        return FeatureStore.open, (self.path, None, self._limit_bytes, self.layers)

    def read(self, utterance: str | int, layers: Sequence[int] | None = None) -> FeatureRow:
        """One whole utterance, by its id or its place; `layers` None means all.

        Raises UserError if the id or a layer is not in the store, or the shard is damaged.
        """
        index, layers = self._find(utterance), self._check_layers(layers)
        states = {layer: torch.empty(self.num_frames[index], self._width_of[layer]) for layer in layers}
        waveform = self._fill(index, 0, states, self.num_samples[index])
        return FeatureRow(self.ids[index], waveform, states)

    def read_batch(self, crops: Sequence[Crop], layers: Sequence[int] | None = None) -> HiddenStateBatch:
        """The crops as one padded batch; only the frames of the crops are decoded.

        A crop of n frames from frame s has the samples that these frames cover: `frames.count_samples(n)` samples from
        s * stride on. Raises UserError as `read` does, ValueError if a crop exceeds its utterance.
        """
        layers = self._check_layers(layers)
        longest = max(crop.num_frames for crop in crops)
        states = {layer: torch.zeros(len(crops), longest, self._width_of[layer]) for layer in layers}
        waveforms, lengths = [], []
        for place, crop in enumerate(crops):
            end, last = crop.start_frame + crop.num_frames, self.num_frames[crop.index]
            if crop.start_frame < 0 or crop.num_frames < 1 or end > last:
                raise ValueError(f"{crop} exceeds utterance {self.ids[crop.index]} ({last} frames)")
            wanted = {layer: out[place, : crop.num_frames] for layer, out in states.items()}
            num_samples = count_samples(crop.num_frames, self.info.convolutions)
            waveform = self._fill(crop.index, crop.start_frame, wanted, num_samples)
            waveforms += [] if waveform is None else [waveform]
            lengths.append(num_samples)
        return HiddenStateBatch(
            tuple(self.ids[crop.index] for crop in crops),
            pad_waveforms(waveforms)[0] if waveforms else None,
            torch.tensor(lengths),
            states,
            torch.tensor([crop.num_frames for crop in crops]),
        )

    def _fill(self, index: int, start_frame: int, states: dict[int, Tensor], num_samples: int) -> Tensor | None:
        """Decode frames from `start_frame` on into `states`; as many samples of the waveform, None if not stored."""
        columns, row = self._find_columns(index, list(states)), self._places[index][2]
        for layer, out in states.items():
            self._codec_of[layer].decode(columns[layer_column(layer)][row], start_frame, out)
        if not self.info.with_waveform:
            return None
        start = 2 * start_frame * self._stride
        samples = columns["waveform"][row][start : start + 2 * num_samples].view(torch.int16)
        return samples.to(torch.float32).div_(WAVEFORM_SCALE)

    def _read_basis(self) -> Basis | None:
        """The basis of the codec, None if it needs none; raises UserError if it is not the one of the shards."""
        if not find_codec(self.info.codec).fitted:
            return None
        with self._repairable(self.path / basis_name(self.info), "fits it again"):
            basis = read_basis(self.path, self.info)
            if basis.digest == self._index.basis_digest:
                return basis
            raise ValueError("not the basis of these shards")

    @contextmanager
    def _repairable(self, path: Path, outcome: str) -> Iterator[None]:
        """Errors of reading `path` as UserErrors that name the command of the repair, which has this `outcome`."""
        try:
            yield
        except FileNotFoundError:
            reason = "missing"
        except (OSError, pa.ArrowException, ValueError, KeyError, IndexError) as error:
            reason = f"damaged ({describe_error(error)})"
        else:
            return
        raise UserError(f"{path}: {reason}; run `{self._index.commands.repair}`, which {outcome}")

    def _find_columns(self, index: int, layers: Sequence[int]) -> dict[str, Rows]:
        """The columns of an utterance's row group, from memory or from its shard."""
        shard, row_group, _ = self._places[index]
        names = ["waveform"] if self.info.with_waveform else []
        names += [layer_column(layer) for layer in layers]
        with self._lock:
            missing = [name for name in names if (shard, row_group, name) not in self._columns]
            for name, rows in self._load(shard, row_group, missing).items() if missing else ():
                self._columns[shard, row_group, name] = rows
                self.cached_bytes += sum(map(len, rows))
            found = {name: self._columns[shard, row_group, name] for name in names}
            for name in names:
                self._columns.move_to_end((shard, row_group, name))
            while self.cached_bytes > self._limit_bytes and len(self._columns) > 1:
                self.cached_bytes -= sum(map(len, self._columns.popitem(last=False)[1]))
        return found

    def _load(self, shard: int, row_group: int, names: Sequence[str]) -> dict[str, Rows]:
        with self._repairable(self.path / shard_name(shard), "writes only such shards again"):
            table = self._open_shard(shard).read_row_group(row_group, columns=list(names), use_threads=False)
            return {name: _split_rows(table.column(name)) for name in names}

    def _check_shard(self, shard: int) -> pq.ParquetFile:
        """A shard, open for reading; raises ValueError if it belongs to another store."""
        # Not memory-mapped: the pages would count as memory, and an unreadable shard would be a SIGBUS, not a message.
        path = require_regular(self.path / shard_name(shard))
        file = pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=True)
        if (file.metadata.metadata or {}).get(SHARD_KEY) != self._index.shard_keys[shard].encode():
            file.close()
            raise ValueError("it belongs to another store")
        return file


def _split_rows(column: pa.ChunkedArray) -> Rows:
    """The rows of a binary column, copied, so that Arrow's own memory can be freed.

    Chunks stay apart: offsets count bytes in 32 bits, and a column may have more.
    """
    rows: Rows = []
    for chunk in column.chunks:
        _, offset_buffer, values = chunk.buffers()
        offsets = np.frombuffer(offset_buffer, np.int32)[chunk.offset : chunk.offset + len(chunk) + 1].tolist()
        begin = offsets[0]
        # Arrow's buffers may be longer than their content.
        data = torch.frombuffer(bytearray(memoryview(values)[begin : offsets[-1]]), dtype=torch.uint8)
        rows += [data[first - begin : last - begin] for first, last in pairwise(offsets)]
    return rows
