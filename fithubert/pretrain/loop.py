"""The updates of one iteration: over all ranks, resumable at every checkpoint by any number of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fithubert.config.pretrain import PretrainParams
from fithubert.data.batching import Crop, plan_batches
from fithubert.errors import UserError
from fithubert.frames import HUBERT_STRIDE_SAMPLES, SAMPLE_RATE_HZ
from fithubert.pretrain.corpus import UnitBank, WaveformBank
from fithubert.pretrain.objective import Batch, MaskedUpdate, Overlap, UnitPredictor, mask_update, overlay
from fithubert.training import delay_gradient_sync, on_first_rank, sum_over_ranks
from fithubert.training.checkpoint import read_checkpoint, write_checkpoint
from fithubert.training.progress import progress_line
from fithubert.training.updates import Optimiser, OptimizerSettings, Part, Standing, learning_rate_share, prefetch

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Report = Callable[[str], None]
_FRAMES_PER_SECOND = SAMPLE_RATE_HZ / HUBERT_STRIDE_SAMPLES
#: Points of an iteration's curve.
_POINTS = 200


@dataclass(frozen=True)
class Iteration:
    """Iteration `number` (from 1) of a pre-training: its data, and the `folder` of its checkpoint."""

    number: int
    folder: Path
    bank: WaveformBank
    units: UnitBank


@dataclass(frozen=True)
class UnitCurvePoint:
    """Means over the updates since the point before. `seconds`: wall time of every process of the iteration so far."""

    update: int
    loss: float
    masked_accuracy: float
    seconds: float


@dataclass
class _Progress(Standing):
    """The position of an iteration. `sums`: loss, accuracy and gradient norm since the last point of the curve."""

    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    curve: list[UnitCurvePoint] = field(default_factory=list)


class IterationLoop:
    """One iteration from its first update, or its checkpoint, to its end."""

    def __init__(
        self, fabric: "Fabric", params: PretrainParams, iteration: Iteration, model: UnitPredictor, report: Report
    ) -> None:
        self.fabric, self.params, self.model = fabric, params, model
        self.number, self.bank, self.units = iteration.number, iteration.bank, iteration.units
        self.iteration = params.iterations[iteration.number - 1]
        self.seed = params.seed * 1000 + iteration.number
        self.parts = max(params.passes, fabric.world_size)
        self.checkpoint = iteration.folder / "checkpoint.pt"
        self.optimiser = Optimiser(fabric, model, OptimizerSettings(self.iteration.learning_rate, params.weight_decay))
        self._forward = self.optimiser.wrapped
        self.standing = _Progress()
        self._sums = torch.zeros(3, dtype=torch.float64, device=fabric.device)
        self._report = report
        self._begun = monotonic()

    def run(self) -> list[UnitCurvePoint]:
        """Train to the last update and return the curve. Raises UserError if the loss is not finite."""
        self._resume()
        self._forward.train()
        standing, updates = self.standing, self.iteration.updates
        self._begun = monotonic()
        update_before, frames_before, losses = standing.update, standing.frames, ""
        show = progress_line(f"pretrain: iteration {self.number}")
        every = -(-updates // _POINTS)
        with closing(prefetch(self._jobs(), 2)) as jobs:
            for job, batches in jobs:
                self._sums += self._update(job, batches)
                standing.advance(job.update)
                last = standing.update == updates
                if standing.update % every == 0 or last:
                    losses = self._mark_point((standing.update - 1) % every + 1)
                speed = (standing.frames - frames_before) / _FRAMES_PER_SECOND / (monotonic() - self._begun)
                note = f"update {standing.update}/{updates}{losses}, {speed:.1f} s audio/s"
                if self.fabric.is_global_zero:
                    show(standing.update - update_before, updates - update_before, note)
                if standing.update % self.params.checkpoint_every_updates == 0 or last:
                    self._save()
        return standing.curve

    def _jobs(self) -> Iterator[tuple[MaskedUpdate, list[Batch]]]:
        """The remaining updates, each with the parts and the batches of this rank."""
        mine = slice(self.fabric.global_rank, None, self.fabric.world_size)
        for update in self.standing.plan_rest(self._plan_epoch, self.iteration.updates):
            job = mask_update(self.params, self.seed, update, self.parts)
            yield job, [self._read(part.part, job.overlaps) for part in job.parts[mine]]

    def _read(self, part: Part, overlaps: Mapping[int, Overlap]) -> Batch:
        """The batch of one forward pass, with the voices that lie over its utterances."""
        waveforms, lengths = self.bank.crops(part.crops)
        for row, overlap in overlaps.items():
            if part.rows.start <= row < part.rows.stop:
                utterance = waveforms[row - part.rows.start, : lengths[row - part.rows.start]]
                utterance.copy_(overlay(utterance, self.bank.crops([overlap.crop])[0][0], overlap))
        return Batch(waveforms, lengths, self.units.crops(part.crops), self.bank.speakers(part.crops))

    def _plan_epoch(self, epoch: int) -> Sequence[Sequence[Crop]]:
        return plan_batches(
            self.bank.num_frames,
            batch_frames=max(1, round(self.params.batch_seconds * _FRAMES_PER_SECOND)),
            crop_frames=max(1, round(self.params.crop_seconds * _FRAMES_PER_SECOND)),
            seed=self.seed,
            epoch=epoch,
        )

    def _update(self, job: MaskedUpdate, batches: Sequence[Batch]) -> Tensor:
        """One optimiser step; (3,) this rank's share of loss, masked accuracy and gradient norm, on the device."""
        device, world = self.fabric.device, self.fabric.world_size
        totals = torch.zeros(2, dtype=torch.float64, device=device)
        mine = job.parts[self.fabric.global_rank :: world]
        for part, batch in zip(mine, batches, strict=True):
            on_device = Batch(*(tensor.to(device, non_blocking=True) for tensor in batch))
            torch.manual_seed(part.seed)
            # A repeated crop counts for nothing.
            weight = 1.0 if part.part.weight > 0 else 0.0
            with delay_gradient_sync(self.fabric, self._forward, part is not mine[-1]):
                loss, correct = self._forward(on_device, part.mask.to(device), job.totals, job.dropped_layers)
                # DDP takes the mean over ranks; the parts' losses are shares of the whole update's already.
                self.fabric.backward(loss * (weight * world))
            totals += weight * torch.stack([loss.detach(), correct])
        norm = self.optimiser.clip(self.params.gradient_clip)
        # HuBERT, section IV.C.
        updates = self.iteration.updates
        warmup_updates = max(1, int(self.params.warmup_share * updates))
        share = learning_rate_share(self.standing.update, updates, warmup_updates)
        self.optimiser.apply(self.iteration.learning_rate * share)
        return torch.cat([totals, norm[None].to(totals) / world])

    def _gather(self) -> list[float]:
        """The sums since the last point over all ranks; afterwards the first rank holds them and the others zeros."""
        total = sum_over_ranks(self.fabric, self._sums)
        self._sums = total if self.fabric.is_global_zero else torch.zeros_like(total)
        sums: list[float] = total.tolist()
        if not all(isfinite(value) for value in sums):
            raise UserError(
                f"{self.checkpoint.parent}: the loss or its gradient is not finite before update "
                f"{self.standing.update}; lower learning_rate, or use float32 instead of bfloat16, in another folder"
            )
        return sums

    def _mark_point(self, updates: int) -> str:
        """Add a point to the curve, the mean over the last `updates`; its numbers for people."""
        loss, accuracy, _ = (value / updates for value in self._gather())
        self._sums = torch.zeros_like(self._sums)
        self.standing.curve.append(UnitCurvePoint(self.standing.update, loss, accuracy, self._seconds()))
        return f", loss {loss:.3f}, masked accuracy {accuracy:.1%}"

    def _seconds(self) -> float:
        """Wall time of every process of this iteration so far."""
        return self.standing.seconds + monotonic() - self._begun

    def _save(self) -> None:
        self.standing.sums = self._gather()
        if self.fabric.is_global_zero:
            standing = {**asdict(self.standing), "seconds": self._seconds()}
            write_checkpoint(self.checkpoint, {"standing": standing, **self.optimiser.state_dict()})

    def _resume(self) -> None:
        """Take over the checkpoint, if there is one; every rank reads it, from the folder that all of them share."""
        if not on_first_rank(self.fabric, self.checkpoint.exists):
            return
        state = read_checkpoint(self.checkpoint)
        self.optimiser.load_state_dict(state)
        curve = [UnitCurvePoint(**point) for point in state["standing"]["curve"]]
        self.standing = _Progress(**{**state["standing"], "curve": curve})
        if self.fabric.is_global_zero:
            self._sums += torch.tensor(self.standing.sums, dtype=torch.float64).to(self._sums)
        self._report(f"iteration {self.number}: resumed at update {self.standing.update}")
