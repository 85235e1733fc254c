"""Laws of the batch plans."""

from collections import Counter
from itertools import pairwise
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from fithubert.data.batching import draw_sample, group_consecutive, padded_frames, plan_batches, plan_eval_batches

lengths = st.lists(st.integers(0, 400), max_size=60)
budgets = st.integers(1, 1200)


@st.composite
def plans(draw: st.DrawFn) -> dict:
    num_frames = draw(lengths)
    groups = st.lists(st.integers(0, 4), min_size=len(num_frames), max_size=len(num_frames))
    return {
        "num_frames": num_frames,
        "batch_frames": draw(budgets),
        "crop_frames": draw(st.none() | st.integers(1, 300)),
        "seed": draw(st.integers(0, 3)),
        "epoch": draw(st.integers(0, 3)),
        "group_of": draw(st.none() | groups),
    }


@given(plans())
def test_every_utterance_comes_once_inside_its_length_and_within_the_budget(arguments: dict) -> None:
    batches = plan_batches(**arguments)
    num_frames, crop_frames = arguments["num_frames"], arguments["crop_frames"]
    counts = Counter(crop.index for batch in batches for crop in batch)
    assert counts == Counter(i for i, n in enumerate(num_frames) if n > 0)
    for batch in batches:
        assert padded_frames(batch) <= arguments["batch_frames"] or len(batch) == 1
        for crop in batch:
            assert 0 <= crop.start_frame <= num_frames[crop.index] - crop.num_frames
            assert crop.num_frames == min(num_frames[crop.index], crop_frames or num_frames[crop.index])


@given(plans())
def test_the_same_arguments_give_the_same_plan(arguments: dict) -> None:
    assert plan_batches(**arguments) == plan_batches(**arguments)


@given(lengths, budgets)
def test_evaluation_takes_whole_utterances_once_within_the_budget(num_frames: list[int], batch_frames: int) -> None:
    batches = plan_eval_batches(num_frames, batch_frames=batch_frames)
    crops = [crop for batch in batches for crop in batch]
    assert sorted((c.index, c.num_frames) for c in crops) == [(i, n) for i, n in enumerate(num_frames) if n > 0]
    assert all(crop.start_frame == 0 for crop in crops)
    assert all(padded_frames(batch) <= batch_frames or len(batch) == 1 for batch in batches)


@given(lengths, st.none() | st.integers(1, 2000), st.randoms())
def test_a_sample_is_as_long_as_requested_and_does_not_depend_on_the_order(
    num_frames: list[int], most_frames: int | None, random: Random
) -> None:
    ids = [f"utterance {number}" for number in range(len(num_frames))]
    kept = draw_sample(ids, num_frames, most_frames)
    assert all(own in (0, whole) for own, whole in zip(kept, num_frames, strict=True))
    missing = sum(num_frames) - sum(kept)
    if most_frames is None:
        assert missing == 0
    else:
        assert not missing or most_frames <= sum(kept) < most_frames + max(kept)
    order = random.sample(range(len(ids)), len(ids))
    again = draw_sample([ids[n] for n in order], [num_frames[n] for n in order], most_frames)
    assert again == [kept[n] for n in order]


def test_another_epoch_and_another_seed_give_another_plan() -> None:
    arguments = {"num_frames": list(range(20, 220)), "batch_frames": 900, "crop_frames": 100}
    first = plan_batches(**arguments, seed=1, epoch=0)
    assert first != plan_batches(**arguments, seed=1, epoch=1)
    assert first != plan_batches(**arguments, seed=2, epoch=0)


def test_groups_are_read_one_after_the_other() -> None:
    group_of = [index // 50 for index in range(400)]
    num_frames = [40 + index * 7 % 160 for index in range(400)]
    batches = plan_batches(num_frames, batch_frames=1000, crop_frames=None, seed=1, epoch=0, group_of=group_of)
    spans = [{group_of[crop.index] for crop in batch} for batch in batches]
    order = list(dict.fromkeys(next(iter(span)) for span in spans if len(span) == 1))
    assert sorted(order) == list(range(8))
    assert order != sorted(order)
    for span in spans:
        # A remainder may join the next group, never one further on.
        places = sorted(order.index(group) for group in span)
        assert places[-1] - places[0] <= 1
    latest = [max(order.index(group) for group in span) for span in spans]
    assert all(after >= before - 1 for before, after in pairwise(latest))


def test_crops_of_one_length_are_shuffled_among_each_other() -> None:
    plan = plan_batches([400] * 3000, batch_frames=1600, crop_frames=300, seed=1, epoch=0)
    order = [crop.index for batch in plan for crop in batch]
    # A perfect shuffle has a third of the corpus between neighbours.
    assert sum(abs(a - b) for a, b in pairwise(order)) / len(order) > 0.9 * len(order) / 3


def test_padding_stays_small() -> None:
    num_frames = [40 + index * 37 % 360 for index in range(600)]
    batches = plan_batches(num_frames, batch_frames=1600, crop_frames=None, seed=1, epoch=0)
    assert sum(num_frames) / sum(padded_frames(batch) for batch in batches) > 0.95


@given(lengths, budgets, st.booleans())
def test_groups_keep_the_order_and_are_as_full_as_the_limit_allows(sizes: list[int], limit: int, padded: bool) -> None:
    groups = group_consecutive(sizes, float, limit, padded=padded)
    assert [size for group in groups for size in group] == sizes

    def cost(group: list[int]) -> int:
        return max(group) * len(group) if padded else sum(group)

    assert all(len(group) == 1 or cost(group) <= limit for group in groups)
    assert all(cost([*group, after[0]]) > limit for group, after in pairwise(groups))
