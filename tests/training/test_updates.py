"""The updates of a training: planned and split, read ahead, and applied at a rate."""

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fithubert.data.batching import Crop
from fithubert.errors import UserError
from fithubert.training.updates import (
    OptimizerSettings,
    PlannedUpdate,
    Standing,
    build_optimizer,
    derive_seed,
    learning_rate_share,
    prefetch,
    split_update,
)

_CROPS = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 50)), min_size=1, max_size=12)


@given(pairs=_CROPS, parts=st.integers(1, 6))
def test_the_parts_of_an_update_are_its_crops_and_weigh_one(pairs: list[tuple[int, int]], parts: int) -> None:
    update = PlannedUpdate(0, 0, 0, tuple(Crop(index, 0, frames) for index, frames in pairs))
    split = split_update(update, parts)
    assert [part.index for part in split] == list(range(parts))
    assert all(part.crops == update.crops[part.rows] != () for part in split)
    assert sum(part.weight for part in split) == pytest.approx(1)
    assert tuple(crop for part in split if part.weight > 0 for crop in part.crops) == update.crops


def test_updates_resume_at_any_place_of_any_epoch() -> None:
    plan = lambda epoch: [[Crop(epoch, place, 2), Crop(epoch, place, 1)] for place in range(3)]  # noqa: E731
    whole = list(Standing().plan_rest(plan, 8))
    assert [update.number for update in whole] == list(range(8))
    assert whole[0].crops == (Crop(0, 0, 1), Crop(0, 0, 2))
    standing = Standing()
    for done, update in enumerate(whole):
        assert list(standing.plan_rest(plan, 8)) == whole[done:]
        standing.advance(update)
    with pytest.raises(UserError, match="no training audio"):
        next(Standing().plan_rest(lambda epoch: [], 1))


def test_seeds_differ_by_seed_update_and_purpose() -> None:
    assert len({derive_seed(*key) for key in [(1, 2, 3), (2, 2, 3), (1, 3, 3), (1, 2, 4), (1, 2, "mask")]}) == 5


def test_the_rate_warms_up_linearly_and_then_falls_linearly() -> None:
    shares = [learning_rate_share(update, 10, 4) for update in range(10)]
    assert shares == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
    assert [learning_rate_share(update, 2, 0) for update in range(2)] == [1.0, 0.5]


@given(updates=st.integers(1, 5000), warmup=st.floats(0, 0.99))
def test_the_rate_is_never_zero_and_never_above_its_peak(updates: int, warmup: float) -> None:
    places = {0, updates // 2, updates - 1}
    assert all(0 < learning_rate_share(update, updates, round(warmup * updates)) <= 1 for update in places)


def test_weight_decay_is_for_matrices_only() -> None:
    optimizer = build_optimizer(nn.Linear(3, 2), OptimizerSettings(1e-3, 0.1))
    assert [(group["weight_decay"], len(group["params"])) for group in optimizer.param_groups] == [(0.1, 1), (0.0, 1)]


def reading_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.mark.parametrize("depth", [1, 3, 100])
def test_order_is_kept(depth: int) -> None:
    assert list(prefetch(range(50), depth)) == list(range(50))
    assert reading_threads() == []


def test_exception_comes_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield from (1, 2)
        raise KeyError("third")

    ahead = prefetch(items(), 5)
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(KeyError, match="third"):
        next(ahead)
    assert reading_threads() == []


def test_stopping_early_ends_the_thread_and_makes_no_more() -> None:
    made = []

    def items() -> Iterator[int]:
        for item in range(10_000):
            made.append(item)
            yield item

    ahead = prefetch(items(), 2)
    assert next(ahead) == 0
    ahead.close()  # type: ignore[attr-defined]
    assert reading_threads() == []
    assert len(made) < 20


def test_it_reads_ahead() -> None:
    third = threading.Event()

    def items() -> Iterator[int]:
        yield from (0, 1)
        third.set()
        yield 2

    ahead = prefetch(items(), 2)
    assert next(ahead) == 0
    assert third.wait(timeout=10)
    assert list(ahead) == [1, 2]
