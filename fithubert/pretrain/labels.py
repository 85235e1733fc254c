"""The units of a whole corpus: fitted once, assigned to every frame by all ranks together, kept on disk."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fithubert.config.teacher import UnitParams
from fithubert.data.alignment import frame_phones
from fithubert.data.batching import Crop, plan_eval_batches
from fithubert.data.manifest import Utterance
from fithubert.engine import on_first_rank, sum_over_ranks
from fithubert.errors import UserError
from fithubert.frames import HUBERT_CONVOLUTIONS, pad_waveforms
from fithubert.pretrain.corpus import UnitBank, WaveformBank, write_units
from fithubert.pretrain.units import UnitModel, UnitQuality, draw_utterances, fit_units, measure_units, mfcc_frames
from fithubert.teachers.hubert import HubertModel

if TYPE_CHECKING:
    from lightning_fabric import Fabric

#: Padded frames in one forward pass: 240 s.
_BATCH_FRAMES = 12_000


def discover_units(
    params: UnitParams, seed: int, bank: WaveformBank, model: HubertModel | None, path: Path, fabric: "Fabric"
) -> UnitBank:
    """The units of every utterance of `bank`; kept in `path`, where a second call finds them.

    The first rank fits them, every rank assigns its share. Raises UserError where there are too few frames.
    """
    if not on_first_rank(fabric, path.exists):
        units = on_first_rank(fabric, lambda: _fit(params, seed, bank, model, fabric.device))
        flat = sum_over_ranks(fabric, _assign_share(params, units, bank, model, fabric))
        on_first_rank(fabric, lambda: write_units(flat, path))
    return UnitBank(path, bank.num_frames)


def _fit(
    params: UnitParams, seed: int, bank: WaveformBank, model: HubertModel | None, device: torch.device
) -> UnitModel:
    """Units from whole utterances drawn until they hold `sample_frames`."""
    sample = [0] * len(bank.num_frames)
    for index in draw_utterances(bank.num_frames, params.sample_frames, seed):
        sample[index] = bank.num_frames[index]
    if not sum(sample):
        raise UserError("pretrain: no utterance of the train split is as long as a frame (25 ms)")
    frames = [f for batch in _plan(sample) for _, f in _features(params, bank, model, batch, device)]
    return fit_units(torch.cat(frames), params.clusters, seed)


def _assign_share(
    params: UnitParams, units: UnitModel, bank: WaveformBank, model: HubertModel | None, fabric: "Fabric"
) -> Tensor:
    """(frames,) int32 units of the utterances in this rank's batches, zero at all others.

    The batches are the same whatever the number of ranks, and so are the units.
    """
    flat = torch.zeros(sum(bank.num_frames), dtype=torch.int32, device=fabric.device)
    pieces = flat.split(bank.num_frames)
    for batch in _plan(bank.num_frames)[fabric.global_rank :: fabric.world_size]:
        for index, frames in _features(params, bank, model, batch, fabric.device):
            pieces[index].copy_(units.assign(frames))
    return flat


def _plan(num_frames: Sequence[int]) -> list[list[Crop]]:
    return plan_eval_batches(num_frames, batch_frames=_BATCH_FRAMES)


@torch.no_grad()
def _features(
    params: UnitParams, bank: WaveformBank, model: HubertModel | None, batch: Sequence[Crop], device: torch.device
) -> Iterator[tuple[int, Tensor]]:
    """(index, frames (time, feature)) of the whole utterances in `batch`."""
    waveforms = [bank.whole(crop.index) for crop in batch]
    if params.features == "mfcc" or model is None:
        for crop, waveform in zip(batch, waveforms, strict=True):
            yield crop.index, mfcc_frames(waveform)[: crop.num_frames].to(device)
        return
    model.eval()
    padded, lengths = pad_waveforms(waveforms)
    states = model(padded.to(device), lengths.to(device), last_layer=params.features).hidden_states[-1].float()
    for row, crop in enumerate(batch):
        yield crop.index, states[row, : crop.num_frames]


def describe_units(units: UnitBank, utterances: Sequence[Utterance]) -> UnitQuality | None:
    """The quality of units where a phone alignment exists; None where none does."""
    inventory = {label: i for i, label in enumerate(sorted({p.label for u in utterances for p in u.phones or ()}))}
    pairs = []
    for index, utterance in enumerate(utterances):
        if utterance.phones:
            named = units.whole(index)
            phones = frame_phones(utterance.phones, inventory, len(named), HUBERT_CONVOLUTIONS)
            pairs.append((named[phones >= 0], phones[phones >= 0]))
    if not sum(len(named) for named, _ in pairs):
        return None
    unit, phone = (np.concatenate(side) for side in zip(*pairs, strict=True))
    return measure_units(unit, phone)
