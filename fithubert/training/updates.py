"""The crops of every update: a pure function of the seed, whatever the number of ranks and forward passes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from fithubert.data.batching import Crop
from fithubert.errors import UserError
from fithubert.files import digest

#: The batches of an epoch, from its number.
EpochPlan = Callable[[int], Sequence[Sequence[Crop]]]


@dataclass(frozen=True)
class PlannedUpdate:
    """The crops of update `number`, over all ranks, shortest first; they are batch `position` of `epoch`."""

    number: int
    epoch: int
    position: int
    crops: tuple[Crop, ...]

    @property
    def num_frames(self) -> int:
        """Frames of the whole update at the teacher's rate, without padding."""
        return sum(crop.num_frames for crop in self.crops)


@dataclass(frozen=True)
class Part:
    """One forward pass of an update.

    `rows`: the place of `crops` in `PlannedUpdate.crops`. `weight`: their share of the update's frames; the weights of
    an update sum to 1. A part of weight 0 repeats a crop so that its rank has something to compute.
    """

    index: int
    rows: slice
    crops: tuple[Crop, ...]
    weight: float


def planned_updates(
    plan_epoch: EpochPlan, number: int = 0, epoch: int = 0, position: int = 0
) -> Iterator[PlannedUpdate]:
    """Endless updates from `number` on, which is batch `position` of `epoch`.

    Raises UserError if an epoch has no batch.
    """
    while True:
        batches = plan_epoch(epoch)
        if not batches:
            raise UserError("there is no training audio; check the train split of the corpus and batch_seconds")
        for place in range(position, len(batches)):
            crops = sorted(batches[place], key=lambda crop: (crop.num_frames, crop.index, crop.start_frame))
            yield PlannedUpdate(number, epoch, place, tuple(crops))
            number += 1
        epoch, position = epoch + 1, 0


def split_update(update: PlannedUpdate, parts: int) -> list[Part]:
    """`update` as `parts` forward passes, each of crops of similar lengths.

    Each part is weighted by its frames, so that the gradient is that of the whole batch in one pass. With fewer crops
    than parts, the surplus parts repeat the shortest crop with weight 0.
    """
    crops, total = update.crops, update.num_frames
    result = []
    for index in range(parts):
        rows = slice(index * len(crops) // parts, (index + 1) * len(crops) // parts)
        weight = sum(crop.num_frames for crop in crops[rows]) / total
        if rows.start == rows.stop:
            rows = slice(0, 1)
        result.append(Part(index, rows, crops[rows], weight))
    return result


def derive_seed(seed: int, update: int, purpose: int | str) -> int:
    """The seed of one purpose in one update: dropout and masks of a part (its index), or the mask of the update.

    It depends on nothing else, so that a resumed run and any split over ranks draw the same.
    """
    return int(digest(f"{seed} {update} {purpose}")[:15], 16)
