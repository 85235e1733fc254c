"""The seeded order in which training batches come."""

import numpy as np

from fithubert.superb.metrics import IntArray


class ShuffledBatches:
    """Shuffled epochs without the last incomplete batch; with `weights`, draws with replacement by weight instead."""

    def __init__(self, items: int, batch: int, seed: int, weights: np.ndarray | None = None) -> None:
        self._items, self._batch = items, min(batch, items)
        self._generator = np.random.default_rng(seed)
        self._shares = None if weights is None else weights / weights.sum()
        self._queue = np.empty(0, dtype=np.int64)

    def next_batch(self) -> IntArray:
        """(batch,) numbers of items."""
        if len(self._queue) < self._batch:
            if self._shares is None:
                self._queue = self._generator.permutation(self._items)
            else:
                self._queue = self._generator.choice(self._items, self._items, p=self._shares)
        batch, self._queue = self._queue[: self._batch], self._queue[self._batch :]
        return batch
