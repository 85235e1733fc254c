"""The input of a training step: the order of batches, the windows of sequence tasks, and SpecAugment."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from fithubert.superb.metrics import IntArray


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


def list_halved_buckets(samples: IntArray, batch: int) -> list[tuple[int, int]]:
    """ASR's buckets, the full ones in two halves; a remainder of one utterance is dropped."""
    halved = [_halve(w) if w[1] - w[0] == batch else [w] for w in list_buckets(samples, batch)]
    return [window for windows in halved for window in windows]


def list_buckets(samples: IntArray, batch: int) -> list[tuple[int, int]]:
    """ASR's buckets whole; a remainder of one utterance is dropped."""
    return [(first, last) for first, last in list_disjoint(samples, batch) if last - first > 1]


def drop_half_of_long(list_windows: ListWindows) -> ListWindows:
    """The same windows; one whose last utterance has over LONG_SAMPLES keeps only the half of longer utterances."""

    def listed(samples: IntArray, batch: int) -> list[tuple[int, int]]:
        windows = list_windows(samples, batch)
        halved = []
        for first, last in windows:
            long = last - first > 1 and samples[last - 1] > LONG_SAMPLES
            halved.append((last - (last - first) // 2 if long else first, last))
        return halved

    return listed


class WindowOrder:
    """Windows in shuffled epochs, by seed."""

    def __init__(self, windows: list[tuple[int, int]], seed: int) -> None:
        self._windows = windows
        self._generator = np.random.default_rng(seed)
        self._queue = np.empty(0, dtype=np.int64)

    def next_window(self) -> tuple[int, int]:
        """(first, last) of the next batch."""
        if not len(self._queue):
            self._queue = self._generator.permutation(len(self._windows))
        index, self._queue = int(self._queue[0]), self._queue[1:]
        return self._windows[index]

    def windows(self) -> Iterator[range]:
        """The utterances of one batch after another, endlessly."""
        while True:
            yield range(*self.next_window())


def _halve(window: tuple[int, int]) -> list[tuple[int, int]]:
    first, last = window
    # In s3prl the half with the longer utterances is the smaller one of an odd bucket.
    middle = last - (last - first) // 2
    return [edge for edge in ((first, middle), (middle, last)) if edge[0] < edge[1]]


#: The centre of an utterance moves by at most so many frames. Masks over features and frames: number, upper bound of
#: the width.
WARP_FRAMES = 5
FEATURE_MASKS, FEATURE_WIDTH = 4, 50
TIME_MASKS, TIME_WIDTH_FRAMES = 2, 40
#: PyTorch's cubic convolution.
_CUBIC = -0.75


def augment(summed: Tensor, lengths: IntArray, generator: np.random.Generator) -> Tensor:
    """(head, frame, width) the weighted sums of utterances of `lengths` frames: warped in time, then masked with zeros.

    As s3prl applies it in ASR and SF: on the weighted sum of hidden states, in training. All heads share the draws.
    Non-adaptive; positions are drawn such that the widest mask of the batch fits.
    """
    taps, weights = warp_taps(lengths, *draw_warps(lengths, generator))
    pairs = zip(taps.to(summed.device), weights.to(summed), strict=True)
    warped = torch.stack([summed[:, tap] * w[:, None] for tap, w in pairs]).sum(0)
    features = draw_masks(len(lengths), FEATURE_MASKS, FEATURE_WIDTH, summed.shape[2], generator)
    frames = draw_masks(len(lengths), TIME_MASKS, TIME_WIDTH_FRAMES, int(lengths.max()), generator)
    owners = np.repeat(np.arange(len(lengths)), lengths)
    places = np.arange(len(owners)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    silent = features[owners] | frames[owners, places][:, None]
    return warped.masked_fill(torch.from_numpy(silent).to(summed.device), 0.0)


def draw_warps(lengths: IntArray, generator: np.random.Generator) -> tuple[IntArray, IntArray]:
    """(utterance,) a frame of each and its new position; utterances of at most 2 WARP_FRAMES are not changed."""
    able = lengths > 2 * WARP_FRAMES
    high = np.where(able, lengths - WARP_FRAMES, WARP_FRAMES + 1)
    centres = generator.integers(WARP_FRAMES, high)
    moved = centres + generator.integers(-WARP_FRAMES, WARP_FRAMES, len(lengths)) + 1
    return np.where(able, centres, lengths), np.where(able, moved, lengths)


def warp_taps(lengths: IntArray, centres: IntArray, moved: IntArray) -> tuple[Tensor, Tensor]:
    """(4, frame) the source frames of each warped frame, and their weights.

    The frames before the centre and the frames from the centre on are resized separately to their new lengths, by
    bicubic interpolation without aligned corners.
    """
    places = np.concatenate([np.arange(n) for n in lengths])
    length, centre, target = (np.repeat(x, lengths) for x in (lengths, centres, moved))
    right = places >= target
    first, sources = np.where(right, centre, 0), np.where(right, length - centre, centre)
    position, sizes = np.where(right, places - target, places), np.where(right, length - target, target)
    source = (position + 0.5) * sources / np.maximum(sizes, 1) - 0.5
    below = np.floor(source).astype(np.int64)
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths) + first
    taps = np.stack([starts + np.clip(below + k, 0, sources - 1) for k in (-1, 0, 1, 2)])
    share = source - below
    weights = np.stack([_cubic(np.abs(share - k)) for k in (-1, 0, 1, 2)])
    return torch.from_numpy(taps), torch.from_numpy(weights)


def draw_masks(items: int, masks: int, below: int, size: int, generator: np.random.Generator) -> np.ndarray:
    """(item, size) booleans: `masks` spans of each item, each narrower than `below`."""
    widths = generator.integers(0, below, (items, masks, 1))
    starts = generator.integers(0, max(1, size - int(widths.max())), (items, masks, 1))
    places = np.arange(size)
    inside: np.ndarray = (starts <= places) & (places < starts + widths)
    return np.logical_or.reduce(inside, axis=1)


def _cubic(distance: np.ndarray) -> np.ndarray:
    """The weight of a sample at a distance between 0 and 2."""
    near = ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance**2 + 1
    far = ((_CUBIC * distance - 5 * _CUBIC) * distance + 8 * _CUBIC) * distance - 4 * _CUBIC
    return np.where(distance <= 1, near, far)
