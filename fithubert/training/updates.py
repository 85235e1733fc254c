"""The updates of a training: their crops, reading ahead of them, their place in the run, the optimiser and its rate.

The crops are a pure function of the seed, whatever the number of ranks and forward passes.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from fithubert.data.batching import Crop
from fithubert.errors import UserError
from fithubert.files import digest

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Item = TypeVar("Item")
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


@dataclass
class Standing:
    """The position of a training, without its tensors: `update` updates of `frames` frames are done.

    The next batch is number `position` in the plan of `epoch`. `seconds`: wall time of the processes before this one.
    """

    update: int = 0
    epoch: int = 0
    position: int = 0
    frames: int = 0
    seconds: float = 0.0

    def plan_rest(self, plan_epoch: EpochPlan, updates: int) -> Iterator[PlannedUpdate]:
        """The updates that are left of `updates`; raises UserError if an epoch has no batch."""
        number, epoch, position = self.update, self.epoch, self.position
        while number < updates:
            batches = plan_epoch(epoch)
            if not batches:
                raise UserError("there is no training audio; check the train split of the corpus and batch_seconds")
            for place in range(position, min(len(batches), position + updates - number)):
                crops = sorted(batches[place], key=lambda crop: (crop.num_frames, crop.index, crop.start_frame))
                yield PlannedUpdate(number, epoch, place, tuple(crops))
                number += 1
            epoch, position = epoch + 1, 0

    def advance(self, update: PlannedUpdate) -> None:
        """Count `update` as done."""
        self.update, self.epoch, self.position = update.number + 1, update.epoch, update.position + 1
        self.frames += update.num_frames


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


def prefetch(items: Iterable[Item], depth: int = 2) -> Generator[Item, None, None]:
    """The items in order, up to `depth` of them computed ahead on a thread.

    An exception of `items` is raised instead of the item. The thread ends with the generator: at the end, at an
    exception, and when the consumer stops early and the generator is closed.
    """
    iterator, end = iter(items), object()
    thread = ThreadPoolExecutor(1, "prefetch")
    try:
        ahead = deque(thread.submit(next, iterator, end) for _ in range(depth))
        while (item := ahead.popleft().result()) is not end:
            ahead.append(thread.submit(next, iterator, end))
            yield item  # type: ignore[misc]
    finally:
        thread.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW's own arguments. `fused` must be off in fp16: a fused AdamW unscales gradients itself, after clipping."""

    lr: float
    weight_decay: float
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    fused: bool = True


def build_optimizer(
    model: nn.Module, settings: OptimizerSettings, others: Sequence[Mapping[str, Any]] = ()
) -> torch.optim.AdamW:
    """AdamW over the trainable parameters, with weight decay on matrices only, not on biases, norms and gains.

    `others`: groups with arguments of their own, in or outside the model. Differs: fairseq decays every parameter.
    """
    apart = {id(parameter) for group in others for parameter in group["params"]}
    trainable = [p for p in model.parameters() if p.requires_grad and id(p) not in apart]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trainable if p.ndim > 1]},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
        *map(dict, others),
    ]
    return torch.optim.AdamW(groups, **vars(settings))


def learning_rate_share(update: int, updates: int, warmup_updates: int) -> float:
    """The share of the peak learning rate at `update` (from 0) of `updates`: linear up to 1, then linear to 0.

    Source: s3prl `get_linear_schedule_with_warmup`; HuBERT (Hsu et al. 2021, section IV.C). Differs: counts from 1 in
    the warm-up, so that the first update does not have rate 0.
    """
    if update < warmup_updates:
        return (update + 1) / warmup_updates
    return (updates - update) / max(1, updates - warmup_updates)


class Optimiser:
    """AdamW for the weights of `model`. `wrapped` is the model as Fabric runs it, on its device and over all ranks.

    `others`: groups as in `build_optimizer`, whose learning rates stay as they are.
    """

    def __init__(
        self,
        fabric: "Fabric",
        model: nn.Module,
        settings: OptimizerSettings,
        others: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self._fabric, self._model = fabric, model
        self._adam = build_optimizer(model, settings, others)
        self._scheduled = len(self._adam.param_groups) - len(others)
        self.wrapped, self._step = fabric.setup(model, self._adam)

    def clip(self, max_norm: float) -> Tensor:
        """Scale the gradients to a norm of at most `max_norm`; the norm before."""
        norm = self._fabric.clip_gradients(self.wrapped, self._step, max_norm=max_norm, error_if_nonfinite=False)
        assert norm is not None  # Fabric returns it if max_norm is given.
        return norm

    def apply(self, learning_rate: float) -> None:
        """One step with the current gradients, which are deleted."""
        for group in self._adam.param_groups[: self._scheduled]:
            group["lr"] = learning_rate
        self._step.step()
        self._step.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """The weights, the moments of AdamW and the scale of the loss, for a checkpoint."""
        scaler = self._fabric.strategy.precision.state_dict()
        return {"model": self._model.state_dict(), "optimizer": self._adam.state_dict(), "scaler": scaler}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned; other keys are ignored."""
        self._model.load_state_dict(state["model"])
        self._adam.load_state_dict(state["optimizer"])
        # Pre-trainings of earlier versions, which never scale, did not write it.
        self._fabric.strategy.precision.load_state_dict(state.get("scaler", {}))
