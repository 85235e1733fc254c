"""Which utterances are batched together: length buckets under a frame budget, planned ahead for a whole epoch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Groups (shards of a store) that are open at a time while their utterances are mixed.
_OPEN_GROUPS = 4
#: Lengths are compared after a random factor of up to this share, so that batches differ between epochs.
_LENGTH_JITTER = 0.1


@dataclass(frozen=True)
class Crop:
    """The frames `start_frame` .. `start_frame + num_frames` of utterance number `index`."""

    index: int
    start_frame: int
    num_frames: int


def plan_batches(
    num_frames: Sequence[int],
    *,
    batch_frames: int,
    crop_frames: int | None,
    seed: int,
    epoch: int,
    group_of: Sequence[int] | None = None,
) -> list[list[Crop]]:
    """The batches of one epoch: every utterance once, at most `batch_frames` frames a batch with its padding.

    A pure function of its arguments: a resumed epoch is the same plan with its first batches skipped. An utterance
    longer than `crop_frames` is cropped at a random frame; one longer than the budget is a batch of its own. With
    `group_of` (the shard of each utterance) the plan goes through a few groups at a time, so that reading stays local.
    """
    rng = np.random.default_rng([seed, epoch])
    lengths = np.asarray(num_frames, dtype=np.int64)
    kept = lengths if crop_frames is None else np.minimum(lengths, crop_frames)
    starts = (rng.random(len(lengths)) * (lengths - kept + 1)).astype(np.int64)
    batches: list[list[Crop]] = []
    for window in _windows(len(lengths), group_of, rng):
        jitter = 1 + _LENGTH_JITTER * rng.random(len(window))
        window = window[np.argsort(kept[window] * jitter, kind="stable")]
        cut = _fill_batches(kept[window], batch_frames)
        for batch in rng.permutation(len(cut)):
            chosen = window[cut[batch]]
            batches.append([Crop(int(i), int(starts[i]), int(kept[i])) for i in chosen])
    return batches


def plan_eval_batches(num_frames: Sequence[int], *, batch_frames: int) -> list[list[Crop]]:
    """Whole utterances in batches of similar length, always the same, under the budget of `plan_batches`."""
    lengths = np.asarray(num_frames, dtype=np.int64)
    order = np.argsort(lengths, kind="stable")
    cut = _fill_batches(lengths[order], batch_frames)
    return [[Crop(int(i), 0, int(lengths[i])) for i in order[batch]] for batch in cut]


def _windows(count: int, group_of: Sequence[int] | None, rng: np.random.Generator) -> list[np.ndarray]:
    """Shuffled numbers of utterances, in windows that span a few groups each (one window without groups)."""
    if group_of is None:
        return [rng.permutation(count)]
    groups = np.asarray(group_of)
    order = rng.permutation(np.unique(groups))
    opened = [order[at : at + _OPEN_GROUPS] for at in range(0, len(order), _OPEN_GROUPS)]
    return [rng.permutation(np.flatnonzero(np.isin(groups, some))) for some in opened]


def _fill_batches(lengths: np.ndarray, batch_frames: int) -> list[slice]:
    """Consecutive runs of `lengths` whose longest times their number stays within the budget."""
    runs, start, longest = [], 0, 0
    for at, length in enumerate(lengths):
        longest = max(longest, int(length))
        if at > start and longest * (at + 1 - start) > batch_frames:
            runs.append(slice(start, at))
            start, longest = at, int(length)
    if start < len(lengths):
        runs.append(slice(start, len(lengths)))
    return runs
