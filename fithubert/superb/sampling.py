"""Order of training batches and windows of long recordings."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np

from fithubert.superb.metrics import IntArray


class ShuffledBatches:
    """Shuffled epochs, without the last incomplete batch unless `keep_last`; with `weights`, draws by weight instead.

    Draws by weight are with replacement.
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
        """The same one after the other, without end."""
        while True:
            yield self.next_batch()


class Variants:
    """Items of which several are one utterance: its stored crops. An epoch sees every utterance once, by one crop."""

    def __init__(self, utterances: Sequence[str], seed: int) -> None:
        """`utterances` (item,): what each item is a crop of."""
        owners = np.unique(np.array(utterances), return_inverse=True)[1]
        self._order = np.argsort(owners, kind="stable")
        self._counts = np.bincount(owners)
        self._starts = np.cumsum(self._counts) - self._counts
        self._generator = np.random.default_rng([seed, 2])

    def __len__(self) -> int:
        """How many utterances there are."""
        return len(self._counts)

    def draw(self, utterances: IntArray) -> IntArray:
        """(utterance,) an item of each of these utterances by number."""
        return self._order[self._starts[utterances] + self._generator.integers(0, self._counts[utterances])]


#: (first, last) of the windows of one epoch, from (utterance,) samples and the size of a batch.
ListWindows = Callable[[IntArray, int], list[tuple[int, int]]]

#: s3prl's `half_batch_size_wav_len`.
LONG_SAMPLES = 300_000


def list_starts(samples: IntArray, batch: int) -> list[tuple[int, int]]:
    """A window from every start that leaves it whole."""
    return [(first, first + batch) for first in range(len(samples) - batch + 1)]


def list_clamped_starts(samples: IntArray, batch: int) -> list[tuple[int, int]]:
    """A window for every utterance: those near the end of s3prl's descending order share the last whole one."""
    return [(max(0, last - batch), max(batch, last)) for last in range(1, len(samples) + 1)]


def list_disjoint(samples: IntArray, batch: int) -> list[tuple[int, int]]:
    """Every utterance in one window; the shortest ones fill what remains."""
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
    """The same windows, of which one keeps its longer half where its last utterance has over LONG_SAMPLES."""

    def listed(samples: IntArray, batch: int) -> list[tuple[int, int]]:
        windows = list_windows(samples, batch)
        halved = []
        for first, last in windows:
            long = last - first > 1 and samples[last - 1] > LONG_SAMPLES
            halved.append((last - (last - first) // 2 if long else first, last))
        return halved

    return listed


class WindowOrder:
    """The windows in shuffled epochs, by seed."""

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
        """The utterances of one batch after the other, without end."""
        while True:
            yield range(*self.next_window())


def _halve(window: tuple[int, int]) -> list[tuple[int, int]]:
    first, last = window
    # Of an odd bucket s3prl's first half, the longer utterances, is the smaller one.
    middle = last - (last - first) // 2
    return [edge for edge in ((first, middle), (middle, last)) if edge[0] < edge[1]]
