"""Which crops every update sees: a pure function of the seed, whatever the number of ranks and micro-batches."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from fithubert.data.batching import Crop
from fithubert.errors import UserError
from fithubert.files import digest

#: The batches of an epoch, from its number.
EpochPlan = Callable[[int], Sequence[Sequence[Crop]]]


@dataclass(frozen=True)
class PlannedUpdate:
    """The crops of one update, over all ranks, and its place: batch `position` of `epoch`."""

    epoch: int
    position: int
    crops: tuple[Crop, ...]

    @property
    def num_frames(self) -> int:
        """Unpadded teacher frames of the whole update."""
        return sum(crop.num_frames for crop in self.crops)


@dataclass(frozen=True)
class Part:
    """What one forward pass sees. `weight`: its share of the update's frames; the weights of an update sum to 1."""

    index: int
    crops: tuple[Crop, ...]
    weight: float


def planned_updates(plan_epoch: EpochPlan, epoch: int, position: int) -> Iterator[PlannedUpdate]:
    """Endless updates, from batch `position` of `epoch` on; raises UserError where an epoch has no batch."""
    while True:
        batches = plan_epoch(epoch)
        if not batches:
            raise UserError("distill: there is no training audio; check the train split and distill.batch_seconds")
        for place in range(position, len(batches)):
            yield PlannedUpdate(epoch, place, tuple(batches[place]))
        epoch, position = epoch + 1, 0


def split_update(update: PlannedUpdate, parts: int) -> list[Part]:
    """`update` as `parts` forward passes of similar lengths each.

    Each part is weighted by its frames, so that the gradient is that of the whole batch in one pass. Where there are
    fewer crops than parts, the surplus parts repeat the shortest crop with weight 0: every rank has something to do.
    """
    ordered = sorted(update.crops, key=lambda crop: (crop.num_frames, crop.index, crop.start_frame))
    total = update.num_frames
    result = []
    for index in range(parts):
        chunk = tuple(ordered[index * len(ordered) // parts : (index + 1) * len(ordered) // parts])
        weight = sum(crop.num_frames for crop in chunk) / total
        result.append(Part(index, chunk or (ordered[0],), weight))
    return result


def part_seed(seed: int, update: int, part: int) -> int:
    """The seed of dropout and masks for one forward pass, so that a resumed run and any split over ranks draw alike."""
    return int(digest(f"{seed} {update} {part}")[:15], 16)
