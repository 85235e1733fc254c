"""Frozen features for heads that sum over layers: in memory if they fit, else streamed from the feature store."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from fithubert.errors import UserError
from fithubert.store.read import FeatureStore
from fithubert.superb.metrics import IntArray
from fithubert.training.updates import prefetch

#: Numbers of items; neighbours as a range.
Items = IntArray | range
Batch = TypeVar("Batch", bound=Items)
#: The largest float16. A larger value would become infinite, and the weighted sum too.
_LARGEST = 65504
#: Batches that a streamed bank reads ahead.
_BATCHES_AHEAD = 2


class Bank(ABC):
    """The frames of some utterances, one after another, as float16: item i has the frames offsets[i]..offsets[i + 1].

    Half the bytes of float32, and more exact than any codec; arithmetic is float32.
    """

    offsets: IntArray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> IntArray:
        """(item,) frames."""
        return np.diff(self.offsets)

    def frames_of(self, items: IntArray) -> IntArray:
        """(frame,) the numbers of the frames of these items, in this order."""
        return ragged_arange(self.offsets[items], self.lengths[items])

    def chunk_offsets(self, frames: int) -> IntArray:
        """The offsets of the same frames with every item cut into chunks of `frames`, the last one as long as it is."""
        edges = zip(self.offsets[:-1], self.offsets[1:], strict=True)
        return np.concatenate([*(np.arange(a, b, frames) for a, b in edges), self.offsets[-1:]])

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(layers, width)."""

    @abstractmethod
    def gather(self, items: Items) -> Tensor:
        """(layer, frame, width) of these items, one after another."""

    @abstractmethod
    def chunked(self, frames: int) -> "Bank":
        """The same frames with every item cut into chunks of `frames`."""

    def stream(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Tensor]]:
        """Each batch of items with its `gather`, read ahead if reading takes time."""
        return ((batch, self.gather(batch)) for batch in batches)


@dataclass(frozen=True)
class FrameBank(Bank):
    """A bank in memory: `features` (layer, frame, width) float16."""

    features: Tensor
    offsets: IntArray

    @property
    def shape(self) -> tuple[int, int]:
        """(layers, width)."""
        return self.features.shape[0], self.features.shape[2]

    def gather(self, items: Items) -> Tensor:
        """(layer, frame, width) of these items, one after another; a view for neighbours."""
        if isinstance(items, range):
            return self.features[:, int(self.offsets[items.start]) : int(self.offsets[items.stop])]
        return self.features[:, torch.from_numpy(self.frames_of(items))]

    def chunked(self, frames: int) -> "FrameBank":
        """The same frames with every item cut into chunks of `frames`."""
        return FrameBank(self.features, self.chunk_offsets(frames))


@dataclass(frozen=True)
class StreamedBank(Bank):
    """A bank in the feature store, with the values of a FrameBank: item i begins at frame `starts[i]` of `ids[i]`.

    An utterance of a large model is a row group of its own, so it is read without others. A thread reads ahead: at most
    four batches are in memory at a time (one in reading, two waiting, one in use).
    """

    source: FeatureStore
    ids: tuple[str, ...]
    starts: IntArray
    offsets: IntArray
    layers: int
    width: int

    @property
    def shape(self) -> tuple[int, int]:
        """(layers, width)."""
        return self.layers, self.width

    def gather(self, items: Items) -> Tensor:
        """(layer, frame, width) of these items, one after another."""
        lengths = self.lengths[np.asarray(items)]
        features = torch.empty((self.layers, int(lengths.sum()), self.width), dtype=torch.float16)
        for part, item in zip(features.split(lengths.tolist(), 1), items, strict=True):
            start = int(self.starts[item])
            part.copy_(_stack_layers(self.source, self.ids[item])[:, start : start + part.shape[1]])
        return features

    def chunked(self, frames: int) -> "StreamedBank":
        """The same frames with every item cut into chunks of `frames`."""
        offsets = self.chunk_offsets(frames)
        owners = np.searchsorted(self.offsets, offsets[:-1], side="right") - 1
        starts = self.starts[owners] + offsets[:-1] - self.offsets[owners]
        return StreamedBank(self.source, tuple(self.ids[i] for i in owners), starts, offsets, *self.shape)

    def stream(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Tensor]]:
        """Each batch of items with its `gather`, read ahead on a thread that ends with the iterator."""
        return prefetch(super().stream(batches), _BATCHES_AHEAD)


def read_banks(source: FeatureStore, splits: Mapping[str, Sequence[str]], memory_bytes: float) -> dict[str, Bank]:
    """The bank of each split, in the order of its ids: the smallest splits in memory, up to `memory_bytes`.

    The others are streamed, with the same values. Raises UserError if the layers differ in width or an id is missing,
    ValueError if a split is empty.
    """
    offsets = {name: _count_offsets(source, ids) for name, ids in splits.items()}
    layers, _, width = _stack_layers(source, next(iter(splits.values()))[0]).shape
    banks: dict[str, Bank] = {}
    left = memory_bytes
    for name in sorted(splits, key=lambda name: int(offsets[name][-1])):
        num_bytes = 2 * layers * width * int(offsets[name][-1])
        if num_bytes <= left:
            left -= num_bytes
            banks[name] = _read_frames(source, splits[name], offsets[name], (layers, width))
        else:
            starts = np.zeros(len(splits[name]), dtype=np.int64)
            banks[name] = StreamedBank(source, tuple(splits[name]), starts, offsets[name], layers, width)
    return {name: banks[name] for name in splits}


def read_layer(source: FeatureStore, ids: Sequence[str], layer: int) -> tuple[Tensor, IntArray]:
    """(frame, width) float32 of one layer of `ids`, one after another, rounded as a bank is, and their offsets."""
    offsets = _count_offsets(source, ids)
    features: Tensor | None = None
    for position in _reading_order(source, ids):
        row = source.read(ids[position], (layer,)).hidden_states[layer]
        if features is None:
            features = torch.empty(int(offsets[-1]), row.shape[1])
        features[int(offsets[position]) : int(offsets[position + 1])] = row.clamp(-_LARGEST, _LARGEST).half()
    if features is None:
        raise ValueError("no utterances to read")
    return features, offsets


def read_means(source: FeatureStore, ids: Sequence[str]) -> Tensor:
    """(layer, utterance, width) float32 means over the true length of each utterance; 0 if it has no frame.

    Everything between features and mean pooling is linear in SUPERB's utterance-level heads, so pooling first is exact.
    """
    means: Tensor | None = None
    for position in _reading_order(source, ids):
        row = _read_layers(source, ids[position])
        if means is None:
            means = torch.zeros(row.shape[0], len(ids), row.shape[2])
        if row.shape[1]:
            means[:, position] = row.mean(1)
    if means is None:
        raise ValueError("no utterances to read")
    return means


def ragged_arange(starts: IntArray, lengths: IntArray) -> IntArray:
    """starts[0], starts[0] + 1, .. (lengths[0] numbers), then those of the next start, as one array."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))


def _count_offsets(source: FeatureStore, ids: Sequence[str]) -> IntArray:
    _check_present(source, ids)
    counts = dict(zip(source.ids, source.num_frames, strict=True))
    return np.concatenate([[0], np.cumsum([int(counts[i]) for i in ids])]).astype(np.int64)


def _read_frames(source: FeatureStore, ids: Sequence[str], offsets: IntArray, shape: tuple[int, int]) -> FrameBank:
    features = torch.empty((shape[0], int(offsets[-1]), shape[1]), dtype=torch.float16)
    for position in _reading_order(source, ids):
        features[:, int(offsets[position]) : int(offsets[position + 1])] = _stack_layers(source, ids[position])
    return FrameBank(features, offsets)


def _stack_layers(source: FeatureStore, row_id: str) -> Tensor:
    """(layer, time, width) float32 within the range of float16."""
    return _read_layers(source, row_id).clamp(-_LARGEST, _LARGEST)


def _read_layers(source: FeatureStore, row_id: str) -> Tensor:
    """(layer, time, width) float32, layers in ascending order."""
    hidden = source.read(row_id).hidden_states
    layers = [hidden[layer] for layer in sorted(hidden)]
    widths = {layer.shape[1] for layer in layers}
    if len(widths) != 1:
        raise UserError(f"features of {row_id}: layers of different widths {sorted(widths)} cannot be summed")
    return torch.stack(layers).float()


def _reading_order(source: FeatureStore, ids: Sequence[str]) -> list[int]:
    """The positions in `ids`, shard by shard. Raises UserError if the store lacks one of them."""
    _check_present(source, ids)
    shard_of = dict(zip(source.ids, source.shards, strict=True))
    return sorted(range(len(ids)), key=lambda position: shard_of[ids[position]])


def _check_present(source: FeatureStore, ids: Sequence[str]) -> None:
    missing = sorted(set(ids) - set(source.ids))
    if missing:
        raise UserError(
            f"the feature store lacks {len(missing)} utterances of the manifest, first {missing[0]}; extract them again"
        )
