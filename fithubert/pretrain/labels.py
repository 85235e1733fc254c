"""The units of a whole corpus: fitted once, assigned to every frame, kept on disk."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fithubert.config.teacher import PretrainParams, UnitParams
from fithubert.data.alignment import frame_phones
from fithubert.data.manifest import Utterance
from fithubert.files import atomic_file
from fithubert.frames import HUBERT_CONVOLUTIONS, pad_waveforms
from fithubert.pretrain.corpus import WaveformBank
from fithubert.pretrain.units import fit_units, measure_units, mfcc_frames
from fithubert.teachers.hubert import HubertModel

_BATCH_SAMPLES = 16_000 * 240


def discover_units(
    params: UnitParams, pretrain: PretrainParams, bank: WaveformBank, model: HubertModel | None, folder: Path
) -> list[Tensor]:
    """The units (frames,) of every utterance of `bank`; kept in `folder`, where a second call finds them."""
    path = folder / "units.safetensors"
    if not path.exists():
        units = _cluster(params, pretrain.seed, bank, model)
        with atomic_file(path) as aside:
            save_file({"units": torch.cat(units).to(torch.int32)}, aside)
    return list(load_file(path)["units"].long().split(bank.num_frames))


def _cluster(params: UnitParams, seed: int, bank: WaveformBank, model: HubertModel | None) -> list[Tensor]:
    """Fit on a seeded sample of frames, then assign every frame; features are computed twice, never all kept."""
    order = torch.randperm(len(bank.num_frames), generator=torch.Generator().manual_seed(seed)).tolist()
    sample, seen = [], 0
    for _, frames in _features(params, bank, model, order):
        sample.append(frames)
        seen += len(frames)
        if seen >= params.sample_frames:
            break
    units = fit_units(torch.cat(sample), params.clusters, seed)
    assigned: dict[int, Tensor] = {}
    by_length = sorted(range(len(bank.num_frames)), key=bank.num_frames.__getitem__)
    for index, frames in _features(params, bank, model, by_length):
        assigned[index] = units.assign(frames).cpu()
    return [assigned[index] for index in range(len(bank.num_frames))]


def _features(
    params: UnitParams, bank: WaveformBank, model: HubertModel | None, order: Sequence[int]
) -> Iterator[tuple[int, Tensor]]:
    """(index, frames (time, feature)) of the utterances in `order`."""
    if params.features == "mfcc" or model is None:
        for index in order:
            yield index, mfcc_frames(bank.whole(index))[: bank.num_frames[index]]
        return
    model.eval()
    batch: list[int] = []
    for position, index in enumerate(order):
        batch.append(index)
        longest = max(bank.utterances[i].num_samples for i in batch)
        if longest * len(batch) < _BATCH_SAMPLES and position + 1 < len(order):
            continue
        with torch.inference_mode():
            waveforms, lengths = pad_waveforms([bank.whole(i) for i in batch])
            states = model(waveforms, lengths, last_layer=params.features).hidden_states[-1].float()
        for row, i in enumerate(batch):
            yield i, states[row, : bank.num_frames[i]]
        batch = []


def describe_units(units: Sequence[Tensor], utterances: Sequence[Utterance]) -> dict[str, float] | None:
    """The quality of units where a phone alignment exists, as a plain dict; None where none does."""
    inventory = {label: i for i, label in enumerate(sorted({p.label for u in utterances for p in u.phones or ()}))}
    pairs = [
        (u.numpy(), frame_phones(utterance.phones, inventory, len(u), HUBERT_CONVOLUTIONS))
        for u, utterance in zip(units, utterances, strict=True)
        if utterance.phones
    ]
    if not pairs:
        return None
    unit, phone = (np.concatenate(side) for side in zip(*pairs, strict=True))
    known = phone >= 0
    return asdict(measure_units(unit[known], phone[known]))
