"""The batches of an epoch: crops of utterances, grouped by length.

Pure functions of their arguments: a resumed run plans the same batches and skips those it has done.
All lengths are frames. The cost of a batch is its size after padding: its longest crop times its number of crops.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from fithubert.files import digest

Item = TypeVar("Item")

#: Crops that are sorted by length together, in batches; a larger number pads less and mixes less.
_POOL_BATCHES = 32


@dataclass(frozen=True)
class Crop:
    """`num_frames` frames of utterance `index`, from `start_frame` on."""

    index: int
    start_frame: int
    num_frames: int


def group_consecutive(
    items: Iterable[Item], size_of: Callable[[Item], float], limit: float, *, padded: bool = False
) -> list[list[Item]]:
    """`items` in order, cut into groups of at most `limit` together; an item that is larger is a group of its own.

    A group's size is the sum of its items' sizes or, if `padded`, that of its largest item times their number.
    """
    groups: list[list[Item]] = []
    total = largest = 0.0
    for item in items:
        size = size_of(item)
        filled = max(largest, size) * (len(groups[-1]) + 1) if padded and groups else total + size
        if groups and filled <= limit:
            total, largest = total + size, max(largest, size)
            groups[-1].append(item)
        else:
            total = largest = size
            groups.append([item])
    return groups


def plan_batches(
    num_frames: Sequence[int],
    *,
    batch_frames: int,
    crop_frames: int | None,
    seed: int,
    epoch: int,
    group_of: Sequence[int] | None = None,
) -> list[list[Crop]]:
    """The batches of one epoch, in order: every utterance of at least one frame once.

    Utterances longer than `crop_frames` are cropped at a random frame. Neighbours in length share a batch, whose padded
    cost is at most `batch_frames`; a longer utterance is a batch of its own. With `group_of` (the shard of each
    utterance) the groups come one after the other in a random order, so that reading stays local, and no batch spans
    two of them unless it would be less than half full.
    """
    rng = random.Random(f"batches/{seed}/{epoch}")
    groups: dict[int, list[int]] = defaultdict(list)
    for index, frames in enumerate(num_frames):
        if frames > 0:
            groups[group_of[index] if group_of is not None else 0].append(index)
    order = sorted(groups)
    rng.shuffle(order)
    batches: list[list[Crop]] = []
    carried: list[Crop] = []
    for group in order:
        members = groups[group]
        rng.shuffle(members)
        crops = carried + [_crop(rng, index, num_frames[index], crop_frames) for index in members]
        made = _pool_batches(crops, batch_frames)
        # A shard rarely ends with a full batch; a batch that is mostly empty joins the next shard's, once.
        before = {crop.index for crop in carried}
        candidates = [b for b in made if before.isdisjoint(crop.index for crop in b)] if group != order[-1] else []
        carried = min(candidates, key=padded_frames, default=[])
        if carried and 2 * padded_frames(carried) < batch_frames:
            made.remove(carried)
        else:
            carried = []
        rng.shuffle(made)
        batches += made
    return batches


def plan_eval_batches(num_frames: Sequence[int], *, batch_frames: int) -> list[list[Crop]]:
    """Batches of whole utterances in order of length, the longest first; every one of at least one frame once."""
    crops = [Crop(index, 0, frames) for index, frames in enumerate(num_frames) if frames > 0]
    return _fill(sorted(crops, key=lambda crop: (-crop.num_frames, crop.index)), batch_frames)


def draw_sample(ids: Sequence[str], num_frames: Sequence[int], most_frames: int | None) -> list[int]:
    """`num_frames` of utterances with 0 for those that a sample leaves out: the same for the same `ids`, in any order.

    Utterances are drawn in the order of a digest of their ids until the sample has `most_frames`; None draws all.
    """
    if most_frames is None:
        return list(num_frames)
    kept, held = [0] * len(ids), 0
    for index in sorted(range(len(ids)), key=lambda index: digest(ids[index])):
        if held >= most_frames:
            break
        kept[index] = num_frames[index]
        held += num_frames[index]
    return kept


def padded_frames(batch: Sequence[Crop]) -> int:
    """The cost of a batch: its longest crop times its number of crops."""
    return max(crop.num_frames for crop in batch) * len(batch)


def _crop(rng: random.Random, index: int, frames: int, crop_frames: int | None) -> Crop:
    if crop_frames is None or frames <= crop_frames:
        return Crop(index, 0, frames)
    return Crop(index, rng.randrange(frames - crop_frames + 1), crop_frames)


def _pool_batches(crops: list[Crop], batch_frames: int) -> list[list[Crop]]:
    """Sort by length within pools of about `_POOL_BATCHES` batches of the shuffled crops, and fill batches."""
    batches: list[list[Crop]] = []
    pool: list[Crop] = []
    size = 0
    for crop in crops:
        pool.append(crop)
        size += crop.num_frames
        if size >= _POOL_BATCHES * batch_frames:
            batches += _fill(sorted(pool, key=_by_length), batch_frames)
            pool, size = [], 0
    return batches + _fill(sorted(pool, key=_by_length), batch_frames)


def _by_length(crop: Crop) -> int:
    # Crops of equal length stay shuffled: most have the largest length, and corpora list a speaker's together.
    return -crop.num_frames


def _fill(crops: list[Crop], batch_frames: int) -> list[list[Crop]]:
    return group_consecutive(crops, lambda crop: crop.num_frames, batch_frames, padded=True)
