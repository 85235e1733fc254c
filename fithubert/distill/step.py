"""One update and one dev evaluation, over all ranks, and what is wrong with an update."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fithubert.config.distill import DistillParams
from fithubert.distill.hints import HintLoss, HintLosses
from fithubert.distill.targets import DistillBatch
from fithubert.models.masking import draw_mask
from fithubert.models.student import Student
from fithubert.training.ranks import sum_over_ranks
from fithubert.training.schedule import WeightAverage, build_optimizer, set_learning_rate
from fithubert.training.updates import Part, PlannedUpdate, part_seed, split_update

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class HintForward(nn.Module):
    """A student whose forward pass is `Student.hints`, which is what DDP and mixed precision wrap."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(
        self, waveforms: Tensor, lengths: Tensor, heads: Sequence[int], masked: Tensor | None
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """The projections of `heads`, each (batch, time, feature), and their lengths (batch,) in frames."""
        return self.student.hints(waveforms, lengths, heads, masked)


@dataclass(frozen=True)
class UpdateLoss:
    """The losses of one update over all ranks: means over its frames.

    `heads`: head index -> its own loss, for the heads that were trained. `parts`: what each part adds to the total.
    """

    total: float
    heads: dict[int, float]
    parts: tuple[float, ...]
    #: Before clipping; None where gradients are scaled and not clipped.
    gradient_norm: float | None


class Stepper:
    """Owns the wrapped student, the optimiser and the moving average; runs updates and evaluations."""

    def __init__(self, fabric: "Fabric", student: Student, hint_loss: HintLoss, params: DistillParams) -> None:
        self.fabric, self.student, self.hint_loss, self.params = fabric, student, hint_loss, params
        forward = HintForward(student)
        self.optimizer = build_optimizer(forward, params)
        self._forward, self._step_optimizer = fabric.setup(forward, self.optimizer)
        self.average = WeightAverage(student, params.ema_decay) if params.ema_decay is not None else None
        self.parts = params.accumulate * fabric.world_size
        self.num_heads = len(hint_loss.layer_map)

    def my_parts(self, parts: list[Part]) -> list[Part]:
        """Those of an update's parts that this rank runs."""
        first = self.params.accumulate * self.fabric.global_rank
        return parts[first : first + self.params.accumulate]

    def heads_of(self, epoch: int, update: int) -> tuple[int, ...]:
        """The heads that `update`, of `epoch`, trains."""
        return self.hint_loss.choose_heads(self.params.seed, epoch, update / self.params.updates)

    def hide_frames(self, update: int, part: Part, batch: DistillBatch) -> DistillBatch:
        """`batch` with the frames that student and teacher are not to hear, where the teacher hears masked speech."""
        masking = self.student.config.masking
        if not self.hint_loss.params.masked_teacher or masking is None:
            return batch
        generator = torch.Generator().manual_seed(part_seed(self.params.seed, update, part.index))
        lengths = batch.target_lengths
        return replace(batch, masked=draw_mask(lengths, int(lengths.max()), masking, generator))

    def backward(self, update: int, heads: Sequence[int], batches: Iterable[tuple[Part, DistillBatch]]) -> UpdateLoss:
        """Gradients of this rank's `batches`, synchronised once, after the last of them."""
        self._forward.train()
        table = torch.zeros(self.parts, 1 + len(heads), dtype=torch.float64, device=self.fabric.device)
        for number, (part, batch) in enumerate(batches, start=1):
            torch.manual_seed(part_seed(self.params.seed, update, part.index))
            with self._hold_back(number < self.params.accumulate):
                projections, lengths = self._forward(batch.waveforms, batch.lengths, heads, batch.masked)
                losses = self.hint_loss(projections, lengths, batch.targets, heads)
                # DDP takes the mean over ranks; the parts' weights already sum to 1 over all of them.
                self.fabric.backward(losses.total * (part.weight * self.fabric.world_size))
            table[part.index] = part.weight * _as_row(losses)
        table = sum_over_ranks(self.fabric, table)
        norm = self._clip()
        sums, parts = table.sum(0), table[:, 0]
        # One copy from the device for all numbers.
        *numbers, norm_value = torch.cat([sums, parts, _scalar(norm, table)]).tolist()
        total, *layers = numbers[: len(sums)]
        return UpdateLoss(
            total,
            dict(zip(heads, layers, strict=True)),
            tuple(numbers[len(sums) :]),
            None if norm is None else norm_value,
        )

    def apply(self, learning_rate: float) -> None:
        """The optimiser's step with the gradients at hand."""
        set_learning_rate(self.optimizer, learning_rate)
        self._step_optimizer.step()
        self._step_optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.student)

    @torch.no_grad()
    def evaluate(self, batches: Iterable[DistillBatch]) -> tuple[float, dict[int, float]]:
        """The total loss, and head index -> its own loss, over the frames of all ranks' `batches`."""
        self.student.eval()
        sums = torch.zeros(2 + self.num_heads, dtype=torch.float64, device=self.fabric.device)
        with self._averaged():
            for batch in batches:
                with self.fabric.autocast():
                    projections, lengths = self.student.hints(batch.waveforms, batch.lengths)
                losses = self.hint_loss([y.float() for y in projections], lengths, batch.targets)
                frames = batch.target_lengths.sum().double()
                sums += torch.cat([frames[None], frames * _as_row(losses)])
        frames_seen, *totals = sum_over_ranks(self.fabric, sums).tolist()
        total, *heads = (value / frames_seen for value in totals)
        return total, dict(enumerate(heads))

    def weights(self) -> dict[str, Tensor]:
        """A copy on the CPU of the weights that evaluation sees."""
        state = self.student.state_dict() if self.average is None else self.average.weights
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}

    def _hold_back(self, hold: bool) -> AbstractContextManager[None]:
        """A block in which gradients stay on their rank, where `hold` and there are several ranks."""
        if not hold or self.fabric.world_size == 1:
            return nullcontext()
        return self.fabric.no_backward_sync(self._forward)

    def _clip(self) -> Tensor | None:
        """The norm of the gradients, clipped where that is asked for; None where they are scaled and not clipped."""
        if self.params.gradient_clip is not None:
            return self.fabric.clip_gradients(
                self._forward,
                self._step_optimizer,
                max_norm=self.params.gradient_clip,
                error_if_nonfinite=False,
            )
        if self.params.precision == "16-mixed":
            return None
        return torch.nn.utils.get_total_norm([p.grad for p in self.student.parameters() if p.grad is not None])

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The student with the averaged weights inside the block, where an average is kept."""
        if self.average is None:
            yield
            return
        own = {name: tensor.detach().clone() for name, tensor in self.student.state_dict().items()}
        self.student.load_state_dict(self.average.weights)
        try:
            yield
        finally:
            self.student.load_state_dict(own)


def _as_row(losses: HintLosses) -> Tensor:
    """(1 + heads,) the total loss and those of the heads."""
    return torch.stack([losses.total.detach(), *losses.layers.values()]).double()


def _scalar(value: Tensor | None, like: Tensor) -> Tensor:
    return like.new_zeros(1) if value is None else value.to(like)[None]


def find_problem(loss: UpdateLoss, params: DistillParams, first_loss: float) -> str | None:
    """Why this update must not be applied, or None.

    In fp16 a gradient that is not finite is no problem: the loss scaler leaves that update out and goes on.
    """
    if not isfinite(loss.total):
        return f"the loss is {loss.total}"
    norm = loss.gradient_norm
    if norm is not None and not isfinite(norm) and params.precision != "16-mixed":
        return f"the norm of the gradient is {norm}"
    if loss.total > params.explosion_factor * first_loss:
        return f"the loss is {loss.total:.4g}, more than {params.explosion_factor:g} times the first"
    return None


def describe_update(number: int, planned: PlannedUpdate, loss: UpdateLoss, ids: tuple[str, ...]) -> dict[str, Any]:
    """Update `number` as a JSON-able record: for each forward pass its loss, utterances and crops."""
    return {
        "update": number,
        "epoch": planned.epoch,
        "loss": repr(loss.total),
        "gradient_norm": repr(loss.gradient_norm),
        "parts": [
            {
                "weighted_loss": repr(value),
                "utterances": [ids[crop.index] for crop in part.crops],
                "start_frames": [crop.start_frame for crop in part.crops],
                "num_frames": [crop.num_frames for crop in part.crops],
            }
            for part, value in zip(split_update(planned, len(loss.parts)), loss.parts, strict=True)
        ],
    }
