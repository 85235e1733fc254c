"""The updates of one iteration: over all ranks, resumable at every checkpoint by any number of them."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from itertools import islice
from math import isfinite
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fithubert.config.pretrain import IterationParams, PretrainParams
from fithubert.errors import UserError
from fithubert.files import atomic_file
from fithubert.frames import HUBERT_STRIDE_SAMPLES, SAMPLE_RATE_HZ
from fithubert.pretrain.corpus import UnitBank, WaveformBank
from fithubert.pretrain.objective import UnitPredictor
from fithubert.pretrain.plan import Part, Update, planned_updates
from fithubert.training.prefetch import prefetch
from fithubert.training.ranks import on_first_rank, sum_over_ranks

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Report = Callable[[str], None]
#: One part with its waveforms, their lengths and its units.
Batch = tuple[Part, Tensor, Tensor, Tensor]
#: Points of an iteration's curve, and the time that lies at least between two of them that people are told of.
_POINTS, _QUIET_SECONDS = 200, 30.0


@dataclass(frozen=True)
class CurvePoint:
    """Means over the updates since the point before. `seconds`: time of every process that worked on it so far."""

    update: int
    loss: float
    masked_accuracy: float
    seconds: float


@dataclass
class _Standing:
    """Where an iteration stands, without its tensors. `sums`: loss, accuracy and gradient norm since the last point."""

    update: int
    epoch: int
    position: int
    frames: int
    sums: list[float]
    seconds: float
    curve: list[CurvePoint]


class IterationLoop:
    """One iteration from its first update, or its checkpoint, to its end."""

    def __init__(
        self,
        fabric: "Fabric",
        params: PretrainParams,
        number: int,
        bank: WaveformBank,
        units: UnitBank,
        model: UnitPredictor,
        folder: Path,
        report: Report,
    ) -> None:
        self.fabric, self.params, self.bank, self.units = fabric, params, bank, units
        self.number, self.iteration, self.model, self.report = number, params.iterations[number - 1], model, report
        self.seed = params.seed * 1000 + number
        self.parts = max(params.passes, fabric.world_size)
        self.checkpoint = folder / "checkpoint.pt"
        self.optimizer = _build_optimizer(model, params, self.iteration)
        self._forward, self._step_optimizer = fabric.setup(model, self.optimizer)
        self.standing = _Standing(0, 0, 0, 0, [0.0, 0.0, 0.0], 0.0, [])
        self._sums = torch.zeros(3, dtype=torch.float64, device=fabric.device)
        self._resumed, self._begun, self._said = replace(self.standing), monotonic(), 0.0

    def run(self) -> list[CurvePoint]:
        """Train to the last update and return the curve. Raises UserError where the loss is not finite."""
        self._resume()
        self._forward.train()
        standing, updates = self.standing, self.iteration.updates
        self._resumed, self._begun = replace(standing), monotonic()
        every = -(-updates // _POINTS)
        with closing(prefetch(self._jobs(), 2)) as jobs:  # type: ignore[type-var]
            for update, batches in jobs:
                self._sums += self._update(update, batches)
                standing.update += 1
                standing.epoch, standing.position = update.epoch, update.position + 1
                standing.frames += update.num_frames
                last = standing.update == updates
                if standing.update % every == 0 or last:
                    self._mark_point((standing.update - 1) % every + 1)
                if standing.update % self.params.checkpoint_every_updates == 0 or last:
                    self._save()
        return standing.curve

    def _jobs(self) -> Iterator[tuple[Update, list[Batch]]]:
        """The updates that are left, each with what this rank runs of it."""
        at = self.standing
        planned = planned_updates(
            self.params, self.seed, self.bank.num_frames, self.parts, at.update, at.epoch, at.position
        )
        rank, world = self.fabric.global_rank, self.fabric.world_size
        for update in islice(planned, self.iteration.updates - at.update):
            mine = update.parts[rank::world]
            yield update, [(part, *self.bank.crops(part.crops), self.units.crops(part.crops)) for part in mine]

    def _update(self, update: Update, batches: list[Batch]) -> Tensor:
        """One optimiser step; (3,) this rank's share of loss, masked accuracy and gradient norm, on the device."""
        device, world = self.fabric.device, self.fabric.world_size
        totals = torch.zeros(2, dtype=torch.float64, device=device)
        for number, (part, *tensors) in enumerate(batches, start=1):
            waveforms, lengths, units = (tensor.to(device, non_blocking=True) for tensor in tensors)
            torch.manual_seed(part.seed)
            with self._hold_back(number < len(batches)):
                loss, right = self._forward(
                    waveforms,
                    lengths,
                    units,
                    part.mask.to(device),
                    (update.masked_frames, update.shown_frames),
                    update.dropped_layers,
                )
                # DDP takes the mean over ranks; the parts' losses are shares of the whole update's already.
                self.fabric.backward(loss * (part.weight * world))
            totals += part.weight * torch.stack([loss.detach(), right])
        norm = self.fabric.clip_gradients(
            self._forward, self._step_optimizer, max_norm=self.params.gradient_clip, error_if_nonfinite=False
        )
        assert norm is not None  # max_norm is given
        rate = self.iteration.learning_rate * self._rate_share()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self._step_optimizer.step()
        self._step_optimizer.zero_grad(set_to_none=True)
        return torch.cat([totals, norm[None].to(totals) / world])

    def _hold_back(self, hold: bool) -> AbstractContextManager[None]:
        """A block in which gradients stay on their rank, where `hold` and there are several ranks."""
        if not hold or self.fabric.world_size == 1:
            return nullcontext()
        return self.fabric.no_backward_sync(self._forward)

    def _rate_share(self) -> float:
        """Linear warm-up to 1, then linear decay to 0 (HuBERT, section IV.C)."""
        update, updates = self.standing.update, self.iteration.updates
        warmup = max(1, int(self.params.warmup_share * updates))
        if update < warmup:
            return (update + 1) / warmup
        return (updates - update) / max(1, updates - warmup)

    def _gather(self) -> list[float]:
        """The sums since the last point over all ranks, which are then the first rank's alone."""
        total = sum_over_ranks(self.fabric, self._sums)
        self._sums = total if self.fabric.is_global_zero else torch.zeros_like(total)
        sums: list[float] = total.tolist()
        if not all(isfinite(value) for value in sums):
            raise UserError(
                f"{self.checkpoint.parent}: the loss or its gradient is not finite before update "
                f"{self.standing.update}; lower learning_rate, or give bfloat16 up for float32, in another folder"
            )
        return sums

    def _mark_point(self, updates: int) -> None:
        """A point of the curve, the mean over the last `updates`, and its line."""
        standing, resumed = self.standing, self._resumed
        loss, accuracy, _ = (value / updates for value in self._gather())
        self._sums = torch.zeros_like(self._sums)
        standing.curve.append(CurvePoint(standing.update, loss, accuracy, self._seconds()))
        spent = self._seconds() - resumed.seconds
        if spent - self._said < _QUIET_SECONDS and standing.update < self.iteration.updates:
            return
        self._said = spent
        audio = (standing.frames - resumed.frames) * HUBERT_STRIDE_SAMPLES / SAMPLE_RATE_HZ
        left = spent / (standing.update - resumed.update) * (self.iteration.updates - standing.update)
        self.report(
            f"iteration {self.number} update {standing.update}/{self.iteration.updates}: loss {loss:.3f}, "
            f"masked accuracy {accuracy:.1%} | {audio / spent:.1f} s audio/s | {timedelta(seconds=round(left))} left"
        )

    def _seconds(self) -> float:
        """Time of every process that worked on this iteration so far."""
        return self._resumed.seconds + monotonic() - self._begun

    def _save(self) -> None:
        sums = self._gather()
        if not self.fabric.is_global_zero:
            return
        self.standing.sums, self.standing.seconds = sums, self._seconds()
        state = {
            "standing": asdict(self.standing),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        with atomic_file(self.checkpoint) as aside:
            torch.save(state, aside)

    def _resume(self) -> None:
        """Take over the checkpoint, if there is one; every rank reads it, from the folder that all of them share."""
        if not on_first_rank(self.fabric, self.checkpoint.exists):
            return
        try:
            state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            standing: dict[str, Any] = state["standing"]
        except Exception as error:
            reason = " ".join(str(error).split())[:120]
            raise UserError(f"{self.checkpoint}: not readable as a checkpoint ({reason}); delete it") from None
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.standing = _Standing(**{**standing, "curve": [CurvePoint(**p) for p in standing["curve"]]})
        if self.fabric.is_global_zero:
            self._sums += torch.tensor(standing["sums"]).to(self._sums)
        self.report(f"iteration {self.number}: resumed at update {self.standing.update}")


def _build_optimizer(model: UnitPredictor, params: PretrainParams, iteration: IterationParams) -> torch.optim.Optimizer:
    """AdamW; weight decay on matrices only. Differs: fairseq decays every parameter."""
    groups: list[dict[str, Any]] = [
        {"params": [p for p in model.parameters() if p.ndim > 1]},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups,
        lr=iteration.learning_rate,
        betas=(0.9, 0.98),
        eps=1e-6,
        weight_decay=params.weight_decay,
        fused=True,
    )
