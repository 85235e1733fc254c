"""Utterance mixing: another voice over part of an utterance, whose units stay those of its own voice.

Source: WavLM (Chen et al. 2022), section III.B and algorithm 1. Differs: the other voice is a crop of the same update.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fithubert.data.batching import Crop
from fithubert.frames import HUBERT_CONVOLUTIONS, count_samples

#: The other voice covers at most this share of the utterance.
_LONGEST_SHARE = 0.5
#: The energy of the utterance over that of the other voice.
_RATIO_DB = (-5.0, 5.0)


@dataclass(frozen=True)
class Overlap:
    """`num_samples` of `crop`, from its sample `begin`, lie over an utterance from the sample `start` of that one.

    `ratio_db`: the energy of the utterance over that of the crop, both as a whole.
    """

    crop: Crop
    begin: int
    start: int
    num_samples: int
    ratio_db: float


def draw_overlaps(crops: Sequence[Crop], probability: float, seed: int) -> dict[int, Overlap]:
    """The overlaps of an update by the row of the utterance in `crops`; none if the update has a single crop."""
    if len(crops) < 2 or probability == 0:
        return {}
    generator = torch.Generator().manual_seed(seed)
    # The same draws for every row, so that one row's do not depend on whether another one is mixed.
    draws = torch.rand(len(crops), 6, generator=generator, dtype=torch.float64).tolist()
    lengths = [count_samples(crop.num_frames, HUBERT_CONVOLUTIONS) for crop in crops]
    overlaps = {}
    for row, (mixed, partner, share, begin, start, ratio) in enumerate(draws):
        if mixed >= probability:
            continue
        other = (row + 1 + int(partner * (len(crops) - 1))) % len(crops)
        num_samples = min(1 + int(share * _LONGEST_SHARE * lengths[row]), lengths[other])
        overlaps[row] = Overlap(
            crops[other],
            int(begin * (lengths[other] - num_samples + 1)),
            int(start * (lengths[row] - num_samples + 1)),
            num_samples,
            _RATIO_DB[0] + ratio * (_RATIO_DB[1] - _RATIO_DB[0]),
        )
    return overlaps


def overlay(utterance: Tensor, other: Tensor, overlap: Overlap) -> Tensor:
    """`utterance` (samples,) with the part of `other` (samples,) that `overlap` names laid over it."""
    energy, other_energy = utterance.square().mean(), other.square().mean()
    if energy == 0 or other_energy == 0:
        return utterance
    scale = (energy / (other_energy * 10 ** (overlap.ratio_db / 10))).sqrt()
    mixed = utterance.clone()
    part = other[overlap.begin : overlap.begin + overlap.num_samples]
    mixed[overlap.start : overlap.start + overlap.num_samples] += scale * part
    return mixed
