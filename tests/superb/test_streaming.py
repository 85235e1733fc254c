"""Features that do not fit in memory: the same results as those that do, and few of them in memory at a time."""

import threading
import weakref
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fithubert.data.manifest import Manifest
from fithubert.superb.bank import Bank, read_banks, read_layer, read_means
from fithubert.superb.learners import RunOptions
from fithubert.superb.learners.ctc import CtcLearner
from fithubert.superb.run import fit, run_task
from fithubert.tasks import TASKS
from tests.superb.fakes import OPEN, MemoryStore, Row, official, small

CORPUS_SIZES = (40, 48, 40, 24)
STREAM = RunOptions(memory_bytes=0)
SEQUENCES = ("pr", "asr", "sf", "sd", "asv")


def make_store(frames: list[int], layers: int = 2, width: int = 3) -> MemoryStore:
    """Random features of utterances of these lengths, some values beyond float16."""
    torch.manual_seed(len(frames))
    rows = {f"u{i}": {k: 1e4 * torch.randn(n, width) ** 3 for k in range(layers)} for i, n in enumerate(frames)}
    return MemoryStore(rows)


def both(store: MemoryStore) -> tuple[Bank, Bank]:
    ids = list(reversed(store.ids))
    held, streamed = (read_banks(store, {"all": ids}, limit)["all"] for limit in (1e9, -1))
    assert held.held is not None
    assert streamed.held is None
    return held, streamed


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(1, 4), st.integers(0, 99))
def test_a_streamed_bank_equals_one_in_memory(frames: list[int], chunk: int, seed: int) -> None:
    held, streamed = both(make_store(frames))
    for ours, theirs in ((streamed, held), (streamed.chunked(chunk), held.chunked(chunk))):
        assert ours.shape == theirs.shape == (2, 3)
        np.testing.assert_array_equal(ours.offsets, theirs.offsets)
        drawn = np.random.default_rng(seed).integers(0, max(1, len(ours)), 5) if len(ours) else np.empty(0, int)
        batches = [drawn, *(range(i, min(i + 2, len(ours))) for i in range(len(ours)))]
        for (_, mine), (_, other) in zip(ours.stream(batches), theirs.stream(batches), strict=True):
            assert torch.equal(mine, other)
            assert torch.isfinite(mine).all()


def test_one_layer_is_that_of_the_bank() -> None:
    store = make_store([4, 0, 7])
    held, _ = both(store)
    features, offsets = read_layer(store, list(reversed(store.ids)), 1)
    np.testing.assert_array_equal(offsets, held.offsets)
    assert torch.equal(features, held.gather(range(3))[1].float())


def test_splits_are_held_from_the_smallest_up() -> None:
    store = make_store([10, 30, 20])
    splits = {"train": ["u1"], "dev": ["u0"], "test": ["u2"]}
    for limit, held in ((0, ""), (119, ""), (120, "dev"), (359, "dev"), (360, "dev test"), (720, "train dev test")):
        found = read_banks(store, splits, limit)
        assert list(found) == list(splits)
        assert [name for name in found if found[name].held is not None] == held.split()


@pytest.mark.parametrize("official_protocol", [False, True])
@pytest.mark.parametrize("name", TASKS)
def test_results_do_not_depend_on_memory(
    name: str, official_protocol: bool, informed: MemoryStore, corpus: Manifest
) -> None:
    budget = small(name, steps=4, accumulate=2, learning_rates=(1e-2, 3e-2), search_steps=2)
    quirks = OPEN if official_protocol else None
    results = [run_task(name, informed, corpus, budget, (1, 2), quirks, r) for r in (RunOptions(), STREAM)]
    held, streamed = ({k: v for k, v in asdict(result).items() if k != "seconds"} for result in results)
    assert held == streamed


class HeldBytes:
    """The bytes of tensors that somebody still refers to, and the most there ever were."""

    def __init__(self) -> None:
        self.now = self.peak = self.largest = 0
        self._lock = threading.RLock()

    def count(self, tensor: Tensor) -> Tensor:
        num_bytes = tensor.untyped_storage().nbytes()
        self._add(num_bytes)
        self.largest = max(self.largest, num_bytes)
        weakref.finalize(tensor, self._add, -num_bytes)
        return tensor

    def _add(self, num_bytes: int) -> None:
        with self._lock:
            self.now += num_bytes
            self.peak = max(self.peak, self.now)


@pytest.mark.parametrize("name", SEQUENCES)
def test_few_batches_are_in_memory_at_a_time(
    name: str, informed: MemoryStore, corpus: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, plain = HeldBytes(), Bank.gather
    monkeypatch.setattr(Bank, "gather", lambda bank, items: held.count(plain(bank, items)))
    task, budget = official(name, asv_crops=False), small(name, steps=30)
    task = replace(task, eval_frames=100) if isinstance(task, CtcLearner) else task
    learner = task.bind(informed, corpus, budget, STREAM)
    fit(learner, task, budget, (1e-2,), seed=3)
    # Evaluation continues while training's next batches wait, whose sizes differ from those of evaluation.
    assert held.largest < held.peak <= 2 * 4 * held.largest
    assert held.peak < sum(2 * 3 * 24 * len(rows[0]) for rows in informed.rows.values())
    del learner
    assert held.now == 0
    assert not [t for t in threading.enumerate() if t.name == "prefetch"]


def test_pooled_means_hold_one_utterance_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    held, plain, store = HeldBytes(), MemoryStore.read, make_store([50] * 40)

    def read_copy(store: MemoryStore, row: str, *layers: object) -> Row:
        return Row({k: held.count(x.clone()) for k, x in plain(store, row, *layers).hidden_states.items()})

    monkeypatch.setattr(MemoryStore, "read", read_copy)
    means = read_means(store, list(store.ids))
    assert means.shape == (2, 40, 3)
    # One utterance has two layers; the next one is read before the last one is freed.
    assert held.peak <= 2 * 2 * held.largest
