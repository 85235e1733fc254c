"""Pre-training by iterations: cluster, predict the clusters behind masks, cluster the result, predict again."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.parametrize import is_parametrized

from fithubert.blocks.positional import PositionalConv
from fithubert.config.teacher import IterationParams, PretrainParams
from fithubert.data.batching import Crop, plan_batches
from fithubert.data.manifest import Manifest
from fithubert.errors import UserError
from fithubert.files import atomic_file, digest_json, read_json, write_json
from fithubert.frames import HUBERT_STRIDE_SAMPLES, SAMPLE_RATE_HZ
from fithubert.pretrain.corpus import UnitBank, WaveformBank
from fithubert.pretrain.labels import describe_units, discover_units
from fithubert.pretrain.objective import UnitPredictor, draw_mask
from fithubert.teachers.checkpoint import save_teacher
from fithubert.teachers.hubert import HubertModel, HubertTeacher, canonical_state, remove_weight_norm
from fithubert.teachers.registry import load_teacher

Report = Callable[[str], None]
_FRAMES_PER_SECOND = SAMPLE_RATE_HZ / HUBERT_STRIDE_SAMPLES
_REPORT_EVERY = 100


@dataclass(frozen=True)
class Progress:
    """One point of the training curve."""

    update: int
    loss: float
    masked_accuracy: float
    seconds: float


def pretrain(params: PretrainParams, manifest: Manifest, work: Path, device: torch.device, report: Report) -> Path:
    """Pre-train on the train split of `manifest`; the directory of the finished teacher, `work`/teacher.

    Every iteration leaves units, checkpoint and record in `work`/iteration-N; a second call goes on where the first
    was stopped. Raises UserError where `work` belongs to other parameters.
    """
    _claim(work, params, manifest)
    bank = WaveformBank(manifest.select(split="train"), device)
    report(f"{len(bank.utterances)} utterances, {len(bank.samples) / SAMPLE_RATE_HZ / 3600:.2f} h, on {device}")
    hubert, embedding = (None, None) if params.start_from is None else _read_start(params, device)
    records = []
    for number, iteration in enumerate(params.iterations, start=1):
        folder = work / f"iteration-{number}"
        units = discover_units(iteration.units, params, bank, hubert, folder)
        quality = describe_units(units, bank.utterances)
        report(f"iteration {number}: units {iteration.units.features}, {quality}")
        torch.manual_seed(params.seed * 1000 + number)
        model = UnitPredictor(params, iteration.units.clusters).to(device)
        if hubert is not None and (iteration.warm_start or number == 1):
            model.hubert.load_state_dict(hubert.state_dict())
            if embedding is not None:
                model.mask_embedding.data.copy_(embedding)
        curve = _Training(params, iteration, number, bank, UnitBank(units, device), model, folder, report).run()
        hubert, embedding = model.hubert, model.mask_embedding.detach()
        records.append({"params": iteration.model_dump(), "units": quality, "curve": [asdict(p) for p in curve]})
    assert hubert is not None  # params.iterations is never empty
    teacher = HubertTeacher(remove_weight_norm(hubert.cpu()), "mini", embedding)
    record = {"pretrain": params.model_dump(mode="json"), "hours": len(bank.samples) / SAMPLE_RATE_HZ / 3600}
    save_teacher(teacher, work / "teacher", torch.float16, record)
    write_json(work / "pretrain.json", {**record, "iterations": records})
    return work / "teacher"


def _read_start(params: PretrainParams, device: torch.device) -> tuple[HubertModel, Tensor | None]:
    """The teacher that `params.start_from` names, with the weight norm that training has, and its mask embedding."""
    started = load_teacher(params.start_from or "")
    if not isinstance(started, HubertTeacher) or started.model.config != params.model:
        raise UserError(f"start_from {params.start_from!r}: not a teacher of the recipe's model; copy its shape")
    hubert = HubertModel(params.model, params.dropout)
    state = canonical_state(started.model)
    positional = hubert.positional
    if isinstance(positional, PositionalConv) and is_parametrized(positional.conv, "weight"):
        with torch.no_grad():
            positional.conv.weight = state.pop("positional.conv.weight")  # type: ignore[assignment]
    hubert.load_state_dict(state, strict=False)
    return hubert.to(device), started.mask_embedding


def _claim(work: Path, params: PretrainParams, manifest: Manifest) -> None:
    """Mark `work` as belonging to these parameters and this corpus, or refuse it."""
    mine = {"params": digest_json(params.model_dump(mode="json")), "corpus": manifest.fingerprint}
    marker = work / "owner.json"
    if marker.exists() and read_json(marker) != mine:
        raise UserError(f"{work}: holds a pre-training with other parameters or another corpus; choose another folder")
    write_json(marker, mine)


class _Training:
    """The updates of one iteration, resumable at every checkpoint."""

    def __init__(
        self,
        params: PretrainParams,
        iteration: IterationParams,
        number: int,
        bank: WaveformBank,
        units: UnitBank,
        model: UnitPredictor,
        folder: Path,
        report: Report,
    ) -> None:
        self.params, self.iteration, self.bank, self.units = params, iteration, bank, units
        self.model, self.report = model, report
        self.seed = params.seed * 1000 + number
        self.checkpoint = folder / "checkpoint.pt"
        self.device = bank.samples.device
        decayed: dict[str, Any] = {"params": [p for p in model.parameters() if p.ndim > 1]}
        others: dict[str, Any] = {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0}
        self.optimizer = torch.optim.AdamW(
            [decayed, others],
            lr=iteration.learning_rate,
            betas=(0.9, 0.98),
            eps=1e-6,
            weight_decay=params.weight_decay,
            fused=True,
        )
        self.curve: list[Progress] = []
        self.update = 0

    def run(self) -> list[Progress]:
        """Train to the last update and return the curve."""
        self._resume()
        self.model.train()
        spent = self.curve[-1].seconds if self.curve else 0.0
        begun, sums = monotonic(), torch.zeros(2, device=self.device)
        for crops in self._batches():
            sums += self._step(crops)
            self.update += 1
            if self.update % _REPORT_EVERY == 0 or self.update == self.iteration.updates:
                loss, accuracy = (sums / ((self.update - 1) % _REPORT_EVERY + 1)).tolist()
                self.curve.append(Progress(self.update, loss, accuracy, spent + monotonic() - begun))
                self.report(f"update {self.update} loss {loss:.3f} masked accuracy {accuracy:.3f}")
                sums.zero_()
            if self.update % self.params.checkpoint_every_updates == 0 or self.update == self.iteration.updates:
                self._save()
        return self.curve

    def _batches(self) -> "list[list[Crop]]":
        """The batches that are left, epoch by epoch; a pure function of the seed."""
        left: list[list[Crop]] = []
        epoch, skipped = 0, self.update
        while len(left) < self.iteration.updates - self.update:
            plan = plan_batches(
                self.bank.num_frames,
                batch_frames=int(self.params.batch_seconds * _FRAMES_PER_SECOND),
                crop_frames=int(self.params.crop_seconds * _FRAMES_PER_SECOND),
                seed=self.seed,
                epoch=epoch,
            )
            left += plan[skipped:] if skipped < len(plan) else []
            skipped = max(0, skipped - len(plan))
            epoch += 1
        return left[: self.iteration.updates - self.update]

    def _step(self, crops: list[Crop]) -> Tensor:
        """One update; (2,) loss and masked accuracy, left on the device."""
        # Seeded by the update, so that a resumed run draws the same masks and dropout.
        torch.manual_seed(self.seed * 1_000_003 + self.update)
        generator = torch.Generator(self.device).manual_seed(self.seed * 1_000_003 + self.update)
        rate = self.iteration.learning_rate * self._rate_share()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        waveforms, lengths = self.bank.crops(crops)
        units = self.units.crops(crops)
        frames = (units >= 0).sum(1)
        mask = draw_mask(frames, units.shape[1], self.params.mask_probability, self.params.mask_frames, generator)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.params.precision == "bfloat16"):
            loss = self.model(waveforms, lengths, units, mask)
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.params.gradient_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return torch.stack([loss.total.detach(), loss.masked_accuracy])

    def _rate_share(self) -> float:
        """Linear warm-up to 1, then linear decay to 0 (HuBERT, section IV.C)."""
        warmup = max(1, int(self.params.warmup_share * self.iteration.updates))
        if self.update < warmup:
            return (self.update + 1) / warmup
        return (self.iteration.updates - self.update) / max(1, self.iteration.updates - warmup)

    def _save(self) -> None:
        state = {
            "update": self.update,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "curve": [asdict(p) for p in self.curve],
        }
        with atomic_file(self.checkpoint) as aside:
            torch.save(state, aside)

    def _resume(self) -> None:
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.update, self.curve = state["update"], [Progress(**p) for p in state["curve"]]
        self.report(f"resumed at update {self.update}")
