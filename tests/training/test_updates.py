"""Updates are planned and split the same from any place and for any number of parts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fithubert.data.batching import Crop
from fithubert.errors import UserError
from fithubert.training.updates import PlannedUpdate, derive_seed, planned_updates, split_update

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
    stream = planned_updates(plan)
    whole = [next(stream) for _ in range(8)]
    assert [update.number for update in whole] == list(range(8))
    assert whole[0].crops == (Crop(0, 0, 1), Crop(0, 0, 2))
    later = planned_updates(plan, 5, 1, 2)
    assert [next(later) for _ in range(3)] == whole[5:8]
    with pytest.raises(UserError, match="no training audio"):
        next(planned_updates(lambda epoch: []))


def test_seeds_differ_by_seed_update_and_purpose() -> None:
    assert len({derive_seed(*key) for key in [(1, 2, 3), (2, 2, 3), (1, 3, 3), (1, 2, 4), (1, 2, "mask")]}) == 5
