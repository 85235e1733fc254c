"""One update and one dev evaluation, over all ranks, and the check of an update before it is applied."""

from collections.abc import Iterable, Sequence
from contextlib import closing
from copy import deepcopy
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fithubert.config.params import DistillParams
from fithubert.data.batching import plan_eval_batches
from fithubert.distill.hints import HintLoss, HintLosses
from fithubert.distill.pruning import GatedStudent, Pruning
from fithubert.distill.targets import Request, Targets
from fithubert.frames import draw_mask
from fithubert.models.student import Hinted, Student
from fithubert.records import Head
from fithubert.store.read import HiddenStateBatch
from fithubert.training import delay_gradient_sync, sum_over_ranks
from fithubert.training.units import Codebook
from fithubert.training.updates import (
    Optimiser,
    OptimizerSettings,
    Part,
    PlannedUpdate,
    derive_seed,
    prefetch,
    split_update,
)

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Job:
    """One update as this rank runs it. `heads`: the indices of the trained heads; one request for each part."""

    update: PlannedUpdate
    heads: tuple[int, ...]
    parts: tuple[Part, ...]
    requests: tuple[Request, ...]


@dataclass(frozen=True)
class UpdateLoss:
    """The losses of one update over all ranks: means over its frames.

    `heads`: the loss of each trained head without its weight. `parts`: the share of each part in the total.
    """

    total: float
    heads: dict[Head, float]
    parts: tuple[float, ...]
    #: Before clipping; None if gradients are scaled and not clipped.
    gradient_norm: float | None


class Stepper:
    """Owns the wrapped student, the optimiser and the moving average; runs updates and evaluations.

    `student`: with gates if there is a `pruning`.
    """

    def __init__(
        self,
        fabric: "Fabric",
        student: Student | GatedStudent,
        hint_loss: HintLoss,
        params: DistillParams,
        pruning: Pruning | None = None,
    ) -> None:
        self.fabric, self.student, self.hint_loss, self.params = fabric, student, hint_loss, params
        self.pruning = pruning
        settings = OptimizerSettings(
            params.learning_rate, params.weight_decay, params.betas, params.epsilon, params.precision != "16-mixed"
        )
        if pruning is not None:
            pruning.multipliers.data = pruning.multipliers.data.to(fabric.device)
        self.optimiser = Optimiser(fabric, student, settings, [] if pruning is None else pruning.groups)
        self._wrapped = self.optimiser.wrapped
        self._wrapped.mark_forward_method("hints")
        #: The model that is evaluated: a moving average of the student, or the student itself.
        self.evaluated = student if params.ema_decay is None else deepcopy(student).requires_grad_(False)
        self.num_parts = params.accumulate * fabric.world_size

    def plan_job(self, update: PlannedUpdate) -> Job:
        """The part of `update` that this rank runs, with its heads and the frames that the teacher must not read."""
        heads = self.hint_loss.choose_heads(self.params.seed, update.epoch, update.number / self.params.updates)
        layers = self.hint_loss.layers_of(heads)
        first = self.params.accumulate * self.fabric.global_rank
        parts = split_update(update, self.num_parts)[first : first + self.params.accumulate]
        requests = tuple(Request(part.crops, layers, self._draw_mask(update, part)) for part in parts)
        return Job(update, heads, tuple(parts), requests)

    def backward(self, job: Job, batches: Iterable[HiddenStateBatch]) -> UpdateLoss:
        """Gradients of this rank's `batches`, one for each part, synchronised once, after the last of them."""
        self._wrapped.train()
        table = torch.zeros(self.num_parts, 1 + len(job.heads), dtype=torch.float64, device=self.fabric.device)
        for part, batch in zip(job.parts, batches, strict=True):
            torch.manual_seed(derive_seed(self.params.seed, job.update.number, part.index))
            with delay_gradient_sync(self.fabric, self._wrapped, part is not job.parts[-1]):
                masked = batch.masked if self._masks(job.update) else batch.lengths.new_zeros(1, 1, dtype=torch.bool)
                hinted = self._predict(self._wrapped, batch.waveforms, batch.lengths, job.heads, masked)
                losses = self.hint_loss(
                    hinted.projections, hinted.lengths, batch.hidden_states, job.heads, hinted.states, hinted.units
                )
                # DDP takes the mean over ranks; the parts' weights already sum to 1 over all of them.
                loss = losses.total * (part.weight * self.fabric.world_size)
                if self.pruning is not None:
                    # Whole on every rank, since DDP does not synchronise the multipliers.
                    loss = loss + self.pruning.penalty(job.update.number) / len(job.parts)
                self.fabric.backward(loss)
            table[part.index] = part.weight * _as_row(losses)
        table = sum_over_ranks(self.fabric, table)
        norm = self._clip()
        sums, parts = table.sum(0), table[:, 0]
        # One copy from the device for all numbers.
        norm_value = table.new_zeros(1) if norm is None else norm.to(table)[None]
        values: list[float] = torch.cat([sums, parts, norm_value]).tolist()
        names = [self.hint_loss.layer_map[head] for head in job.heads]
        return UpdateLoss(
            total=values[0],
            heads=dict(zip(names, values[1 : len(sums)], strict=True)),
            parts=tuple(values[len(sums) : -1]),
            gradient_norm=None if norm is None else values[-1],
        )

    def apply(self, learning_rate: float) -> None:
        """The optimiser's step with the current gradients."""
        self.optimiser.apply(learning_rate)
        if self.params.ema_decay is not None:
            for average, weight in zip(self.evaluated.parameters(), self.student.parameters(), strict=True):
                average.lerp_(weight.detach(), 1 - self.params.ema_decay)

    @torch.no_grad()
    def evaluate(self, dev: Targets, num_frames: Sequence[int], batch_frames: int) -> tuple[float, dict[Head, float]]:
        """The total loss, and each head's own, over utterances of `dev`, on the same batches every time.

        `num_frames`: of each utterance; one that has 0 is not read.
        """
        self.evaluated.eval()
        heads = self.hint_loss.layer_map
        layers = self.hint_loss.layers_of(range(len(heads)))
        plan = plan_eval_batches(num_frames, batch_frames=batch_frames)
        requests = (Request(tuple(crops), layers) for crops in plan[self.fabric.global_rank :: self.fabric.world_size])
        sums = torch.zeros(2 + len(heads), dtype=torch.float64, device=self.fabric.device)
        with closing(prefetch((request, dev.read(request)) for request in requests)) as stream:
            for request, read in stream:
                batch = dev.finish(read.to(self.fabric.device), request)
                assert batch.waveforms is not None  # Targets always give them.
                hinted = self._predict(self.evaluated, batch.waveforms, batch.lengths)
                losses = self.hint_loss(
                    hinted.projections, hinted.lengths, batch.hidden_states, None, hinted.states, hinted.units
                )
                frames = batch.frame_lengths.sum().double()
                sums += torch.cat([frames[None], frames * _as_row(losses)])
        frames_read, *totals = sum_over_ranks(self.fabric, sums).tolist()
        total, *losses_of_heads = (value / frames_read for value in totals)
        return total, dict(zip(heads, losses_of_heads, strict=True))

    def _predict(self, model: Any, *inputs: Any) -> Hinted:
        """`model.hints(*inputs)`, computed in the precision of the training, in float32."""
        # Fabric's wrapper does so for a method other than `forward` only if there are several ranks.
        with self.fabric.autocast():
            hinted: Hinted = model.hints(*inputs)
        projections, states = (tuple(x.float() for x in xs) for xs in (hinted.projections, hinted.states))
        return Hinted(projections, hinted.lengths, states, None if hinted.units is None else hinted.units.float())

    def weights(self) -> dict[str, Tensor]:
        """A copy on the CPU of the weights that evaluation uses."""
        return {name: tensor.to("cpu", copy=True) for name, tensor in self.evaluated.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs besides its place in the plan."""
        average = None if self.evaluated is self.student else self.evaluated.state_dict()
        codebook = self.hint_loss.codebook
        units = None if codebook is None else codebook.state_dict()
        multipliers = {} if self.pruning is None else {"multipliers": self.pruning.multipliers.data}
        return {**self.optimiser.state_dict(), "average": average, "units": units, **multipliers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the state that `state_dict` returned."""
        self.optimiser.load_state_dict(state)
        if self.pruning is not None:
            self.pruning.multipliers.data.copy_(state["multipliers"])
        if self.evaluated is not self.student:
            self.evaluated.load_state_dict(state["average"])
        if self.hint_loss.params.units is not None:
            self.hint_loss.codebook = Codebook.from_state(state["units"])

    def _masks(self, update: PlannedUpdate) -> bool:
        """Whether a student that masks frames does so in `update`."""
        return update.number >= self.hint_loss.params.masking_from * self.params.updates

    def _draw_mask(self, update: PlannedUpdate, part: Part) -> Tensor | None:
        """(batch, time) bool: frames that student and teacher do not read, if the teacher reads masked speech."""
        masking = self.student.config.masking
        if not self.hint_loss.params.masked_teacher or masking is None or not self._masks(update):
            return None
        generator = torch.Generator().manual_seed(derive_seed(self.params.seed, update.number, part.index))
        lengths = torch.tensor([crop.num_frames for crop in part.crops])
        return draw_mask(lengths, int(lengths.max()), masking, generator)

    def _clip(self) -> Tensor | None:
        """The norm of the gradients, clipped if the parameters say so; None if they are scaled and not clipped."""
        if self.params.gradient_clip is not None:
            return self.optimiser.clip(self.params.gradient_clip)
        if self.params.precision == "16-mixed":
            return None
        return torch.nn.utils.get_total_norm([p.grad for p in self.student.parameters() if p.grad is not None])


def _as_row(losses: HintLosses) -> Tensor:
    """(1 + heads,) the total loss and those of the heads."""
    return torch.stack([losses.total.detach(), *losses.heads.values()]).double()


def find_problem(loss: UpdateLoss, params: DistillParams, first_loss: float) -> str | None:
    """The reason why this update must not be applied, or None.

    In fp16 a gradient that is not finite is no problem: the loss scaler skips that update.
    """
    if not isfinite(loss.total):
        return f"the loss is {loss.total}"
    norm = loss.gradient_norm
    if norm is not None and not isfinite(norm) and params.precision != "16-mixed":
        return f"the norm of the gradient is {norm}"
    if loss.total > params.explosion_factor * first_loss:
        return f"the loss is {loss.total:.4g}, more than {params.explosion_factor:g} times the first"
    return None


def describe_update(update: PlannedUpdate, loss: UpdateLoss, ids: Sequence[str]) -> dict[str, Any]:
    """`update` as JSON values: the loss, the utterances and the crops of each forward pass."""
    return {
        "update": update.number,
        "epoch": update.epoch,
        "loss": repr(loss.total),
        "gradient_norm": repr(loss.gradient_norm),
        "parts": [
            {
                "weighted_loss": repr(value),
                "utterances": [ids[crop.index] for crop in part.crops],
                "start_frames": [crop.start_frame for crop in part.crops],
                "num_frames": [crop.num_frames for crop in part.crops],
            }
            for part, value in zip(split_update(update, len(loss.parts)), loss.parts, strict=True)
        ],
    }
