"""Frozen features in memory or streamed from the feature store, and the batches in which heads are trained on them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
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


@dataclass(frozen=True)
class Bank:
    """The frames of some items, one after another, as float16: item i has the frames offsets[i]..offsets[i + 1].

    Half the bytes of float32, and more exact than any codec; arithmetic is float32. `held` (layer, frame, width) are
    the frames in memory. Without it they are read from the feature store, with the same values: item i begins at frame
    `starts[i]` of `ids[i]`. An utterance of a large model is a row group of its own, so it is read without others. A
    thread reads ahead: at most four batches are in memory at a time (one in reading, two waiting, one in use).
    """

    source: FeatureStore
    ids: tuple[str, ...]
    starts: IntArray
    offsets: IntArray
    #: (layers, width)
    shape: tuple[int, int]
    held: Tensor | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> IntArray:
        """(item,) frames."""
        return np.diff(self.offsets)

    def frames_of(self, items: IntArray) -> IntArray:
        """(frame,) the numbers of the frames of these items, in this order."""
        return ragged_arange(self.offsets[items], self.lengths[items])

    def gather(self, items: Items) -> Tensor:
        """(layer, frame, width) of these items, one after another; a view for neighbours in memory."""
        if self.held is not None:
            if isinstance(items, range):
                return self.held[:, int(self.offsets[items.start]) : int(self.offsets[items.stop])]
            return self.held[:, torch.from_numpy(self.frames_of(items))]
        lengths = self.lengths[np.asarray(items)]
        features = torch.empty((self.shape[0], int(lengths.sum()), self.shape[1]), dtype=torch.float16)
        for part, item in zip(features.split(lengths.tolist(), 1), items, strict=True):
            start = int(self.starts[item])
            part.copy_(_stack_layers(self.source, self.ids[item])[:, start : start + part.shape[1]])
        return features

    def stream(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Tensor]]:
        """Each batch of items with its `gather`; reads from the store are ahead, on a thread that ends with this."""
        gathered = ((batch, self.gather(batch)) for batch in batches)
        return prefetch(gathered, _BATCHES_AHEAD) if self.held is None else gathered

    def chunked(self, frames: int) -> "Bank":
        """The same frames with every item cut into chunks of `frames`, the last one as long as it is."""
        edges = zip(self.offsets[:-1], self.offsets[1:], strict=True)
        offsets = np.concatenate([*(np.arange(a, b, frames) for a, b in edges), self.offsets[-1:]])
        owners = np.searchsorted(self.offsets, offsets[:-1], side="right") - 1
        starts = self.starts[owners] + offsets[:-1] - self.offsets[owners]
        return replace(self, ids=tuple(self.ids[i] for i in owners), starts=starts, offsets=offsets)


def read_banks(source: FeatureStore, splits: Mapping[str, Sequence[str]], memory_bytes: float) -> dict[str, Bank]:
    """The bank of each split, in the order of its ids: the smallest splits in memory, up to `memory_bytes`.

    The others are streamed, with the same values. Raises UserError if the layers differ in width or an id is missing,
    ValueError if a split is empty.
    """
    located = {name: _locate(source, ids) for name, ids in splits.items()}
    layers, _, width = _stack_layers(source, next(iter(splits.values()))[0]).shape
    banks: dict[str, Bank] = {}
    left = memory_bytes
    for name in sorted(splits, key=lambda name: int(located[name][1][-1])):
        order, offsets = located[name]
        ids = tuple(splits[name])
        num_bytes = 2 * layers * width * int(offsets[-1])
        held = None
        if num_bytes <= left:
            left -= num_bytes
            held = torch.empty((layers, int(offsets[-1]), width), dtype=torch.float16)
            for position in order:
                held[:, int(offsets[position]) : int(offsets[position + 1])] = _stack_layers(source, ids[position])
        banks[name] = Bank(source, ids, np.zeros(len(ids), dtype=np.int64), offsets, (layers, width), held)
    return {name: banks[name] for name in splits}


def read_layer(source: FeatureStore, ids: Sequence[str], layer: int) -> tuple[Tensor, IntArray]:
    """(frame, width) float32 of one layer of `ids`, one after another, rounded as a bank is, and their offsets."""
    order, offsets = _locate(source, ids)
    features = torch.empty(int(offsets[-1]), _stack_layers(source, ids[0], (layer,)).shape[2])
    for position in order:
        row = _stack_layers(source, ids[position], (layer,))[0]
        features[int(offsets[position]) : int(offsets[position + 1])] = row.half()
    return features, offsets


def read_means(source: FeatureStore, ids: Sequence[str]) -> Tensor:
    """(layer, utterance, width) float32 means over the true length of each utterance; 0 if it has no frame.

    Everything between features and mean pooling is linear in SUPERB's utterance-level heads, so pooling first is exact.
    """
    order, _ = _locate(source, ids)
    layers, _, width = _read_layers(source, ids[0]).shape
    means = torch.zeros(layers, len(ids), width)
    for position in order:
        row = _read_layers(source, ids[position])
        if row.shape[1]:
            means[:, position] = row.mean(1)
    return means


def ragged_arange(starts: IntArray, lengths: IntArray) -> IntArray:
    """starts[0], starts[0] + 1, .. (lengths[0] numbers), then those of the next start, as one array."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))


class ShuffledBatches:
    """Shuffled epochs, without the last incomplete batch unless `keep_last`.

    With `weights`, items are drawn by weight instead, with replacement.
    """

    def __init__(
        self, items: int, batch: int, seed: int, weights: np.ndarray | None = None, keep_last: bool = False
    ) -> None:
        self._items, self._batch = items, min(batch, items)
        self._least = 1 if keep_last else self._batch
        self._generator = np.random.default_rng(seed)
        self._shares = None if weights is None else weights / weights.sum()
        self._queue = np.empty(0, dtype=np.int64)

    def next_batch(self) -> IntArray:
        """(batch,) numbers of items."""
        if len(self._queue) < self._least:
            if self._shares is None:
                self._queue = self._generator.permutation(self._items)
            else:
                self._queue = self._generator.choice(self._items, self._items, p=self._shares)
        batch, self._queue = self._queue[: self._batch], self._queue[self._batch :]
        return batch

    def batches(self) -> Iterator[IntArray]:
        """An endless sequence of batches."""
        while True:
            yield self.next_batch()


class Variants:
    """Items that are stored crops of utterances. An epoch reads one crop of every utterance."""

    def __init__(self, utterances: Sequence[str], seed: int) -> None:
        """`utterances` (item,): the utterance of each item."""
        owners = np.unique(np.array(utterances), return_inverse=True)[1]
        self._order = np.argsort(owners, kind="stable")
        self._counts = np.bincount(owners)
        self._starts = np.cumsum(self._counts) - self._counts
        self._generator = np.random.default_rng([seed, 2])

    def __len__(self) -> int:
        """The number of utterances."""
        return len(self._counts)

    def draw(self, utterances: IntArray) -> IntArray:
        """(utterance,) the number of one item of each of these utterances."""
        return self._order[self._starts[utterances] + self._generator.integers(0, self._counts[utterances])]


#: (first, last) of the windows of one epoch, from (utterance,) samples and the size of a batch.
ListWindows = Callable[[IntArray, int], list[tuple[int, int]]]

#: s3prl's `half_batch_size_wav_len`.
LONG_SAMPLES = 300_000


def list_starts(samples: IntArray, batch: int) -> list[tuple[int, int]]:
    """A window from every start at which a whole one fits."""
    return [(first, first + batch) for first in range(len(samples) - batch + 1)]


def list_clamped_starts(samples: IntArray, batch: int) -> list[tuple[int, int]]:
    """A window for every utterance: those near the end of s3prl's descending order share the last whole one."""
    return [(max(0, last - batch), max(batch, last)) for last in range(1, len(samples) + 1)]


def list_disjoint(samples: IntArray, batch: int) -> list[tuple[int, int]]:
    """Every utterance in one window; the last, incomplete window holds the shortest ones."""
    edges = sorted({0, *range(len(samples), 0, -batch)})
    return list(pairwise(edges))


def list_buckets(samples: IntArray, batch: int) -> list[tuple[int, int]]:
    """ASR's buckets whole; a remainder of one utterance is dropped."""
    return [(first, last) for first, last in list_disjoint(samples, batch) if last - first > 1]


def list_halved_buckets(samples: IntArray, batch: int) -> list[tuple[int, int]]:
    """ASR's buckets, the full ones in two halves; a remainder of one utterance is dropped."""
    windows = []
    for first, last in list_buckets(samples, batch):
        # In s3prl the half with the longer utterances is the smaller one of an odd bucket.
        middle = last - batch // 2 if last - first == batch else first
        windows += [edges for edges in ((first, middle), (middle, last)) if edges[0] < edges[1]]
    return windows


def keep_longer_halves(windows: Sequence[tuple[int, int]], samples: IntArray) -> list[tuple[int, int]]:
    """The same windows; one whose last utterance has over LONG_SAMPLES keeps only the half of longer utterances."""
    kept = []
    for first, last in windows:
        long = last - first > 1 and samples[last - 1] > LONG_SAMPLES
        kept.append((last - (last - first) // 2 if long else first, last))
    return kept


def _stack_layers(source: FeatureStore, row_id: str, layers: tuple[int, ...] | None = None) -> Tensor:
    """(layer, time, width) float32 within the range of float16."""
    return _read_layers(source, row_id, layers).clamp(-_LARGEST, _LARGEST)


def _read_layers(source: FeatureStore, row_id: str, wanted: tuple[int, ...] | None = None) -> Tensor:
    """(layer, time, width) float32 of the `wanted` layers, None for all, in ascending order."""
    hidden = source.read(row_id, wanted).hidden_states
    layers = [hidden[layer] for layer in sorted(hidden)]
    widths = {layer.shape[1] for layer in layers}
    if len(widths) != 1:
        raise UserError(f"features of {row_id}: layers of different widths {sorted(widths)} cannot be summed")
    return torch.stack(layers).float()


def _locate(source: FeatureStore, ids: Sequence[str]) -> tuple[list[int], IntArray]:
    """The positions in `ids` shard by shard, and the offsets of the frames. Raises UserError if the store lacks one."""
    missing = sorted(set(ids) - set(source.ids))
    if missing:
        raise UserError(
            f"the feature store lacks {len(missing)} utterances of the manifest, first {missing[0]}; extract them again"
        )
    shard_of = dict(zip(source.ids, source.shards, strict=True))
    counts = dict(zip(source.ids, source.num_frames, strict=True))
    order = sorted(range(len(ids)), key=lambda position: shard_of[ids[position]])
    return order, np.cumsum([0, *(int(counts[i]) for i in ids)], dtype=np.int64)
