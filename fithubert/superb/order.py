"""The seeded order in which training batches come."""

from collections.abc import Iterator, Sequence

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
