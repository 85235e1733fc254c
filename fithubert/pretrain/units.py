"""Discrete units: k-means clusters of MFCC frames or of hidden states, and their quality against phones."""

from dataclasses import dataclass
from math import log

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchaudio.compliance import kaldi
from torchaudio.functional import compute_deltas

from fithubert.errors import UserError
from fithubert.frames import SAMPLE_RATE_HZ

#: Rounds of k-means after which hardly anything moves; it ends earlier where nothing does.
_ROUNDS = 30
#: Frames for each cluster among which the first centres are chosen; more start no better.
_START_FRAMES = 50
#: Frames whose distances to all centres are held at once.
_CHUNK_FRAMES = 1 << 16


def mfcc_frames(waveform: Tensor) -> Tensor:
    """(time, 39) MFCC with first and second differences of one waveform (samples,), every 20 ms, normalised.

    Kaldi's 25 ms windows every 10 ms, then every second frame: frame t covers the samples of HuBERT's frame t.
    Source: HuBERT (Hsu et al. 2021, section IV.B); at least 400 samples. Differs: mean 0 and deviation 1 over the
    utterance, which takes voice and channel out of the units (figures in experiments/LOG.md).
    """
    ceps = kaldi.mfcc(waveform[None] * 32768, sample_frequency=SAMPLE_RATE_HZ, dither=0.0).T
    deltas = compute_deltas(ceps)
    frames = torch.cat([ceps, deltas, compute_deltas(deltas)]).T
    centred = frames - frames.mean(0)
    return (centred / centred.square().mean(0).sqrt().clamp(min=1e-3))[::2]


@dataclass(frozen=True)
class UnitModel:
    """`centres` (clusters, feature) in the space of frames scaled by `mean` and `scale` (feature,)."""

    centres: Tensor
    mean: Tensor
    scale: Tensor

    def assign(self, frames: Tensor) -> Tensor:
        """(time,) int64, the nearest centre of each frame (time, feature)."""
        scaled = (frames - self.mean.to(frames)) / self.scale.to(frames)
        return _nearest(scaled, self.centres.to(scaled))


def fit_units(frames: Tensor, clusters: int, seed: int) -> UnitModel:
    """k-means with k-means++ starts on frames (time, feature), scaled per feature; on the device of `frames`.

    Differs from HuBERT's mini-batches (scikit-learn's, 20 starts): whole rounds from one start, which end lower in
    less time and depend on nothing but `seed` (figures in experiments/LOG.md). Raises UserError where there are fewer
    frames than clusters.
    """
    if frames.shape[0] < clusters:
        raise UserError(f"units: {clusters} clusters need at least as many frames; there are {frames.shape[0]}")
    mean, scale = frames.mean(0), frames.std(0).clamp(min=1e-5)
    scaled = (frames - mean) / scale
    some = scaled[:: max(1, len(scaled) // (_START_FRAMES * clusters))]
    centres = _spread_centres(some, clusters, torch.Generator().manual_seed(seed))
    before = None
    for _ in range(_ROUNDS):
        nearest = _nearest(scaled, centres)
        if before is not None and torch.equal(nearest, before):
            break
        before = nearest
        counts = torch.bincount(nearest, minlength=clusters)[:, None]
        sums = torch.zeros_like(centres).index_add_(0, nearest, scaled)
        # A cluster that lost all its frames stays where it was.
        centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
    return UnitModel(centres.cpu(), mean.cpu(), scale.cpu())


def _nearest(frames: Tensor, centres: Tensor) -> Tensor:
    offset = centres.square().sum(1)
    return torch.cat([(offset - 2 * chunk @ centres.T).argmin(1) for chunk in frames.split(_CHUNK_FRAMES)])


def _spread_centres(frames: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """(clusters, feature) frames far from each other: greedy k-means++ (Arthur and Vassilvitskii 2007).

    Each is the best of a few frames drawn with the squared distance to the nearest centre so far as their weight.
    """
    tries = 2 + int(log(clusters))
    size = frames.square().sum(1)
    chosen = [int(torch.randint(len(frames), (1,), generator=generator))]
    distance = (size - 2 * frames @ frames[chosen[0]] + size[chosen[0]]).clamp(min=0)
    while len(chosen) < clusters:
        weight = distance.double().cumsum(0)
        drawn = torch.rand(tries, generator=generator, dtype=torch.float64).to(weight) * weight[-1]
        candidates = torch.searchsorted(weight, drawn).clamp(max=len(frames) - 1)
        reached = (size[:, None] - 2 * frames @ frames[candidates].T + size[candidates]).clamp(min=0)
        closer = torch.minimum(distance[:, None], reached)
        best = int(closer.double().sum(0).argmin())
        chosen.append(int(candidates[best]))
        distance = closer[:, best]
    return frames[chosen]


@dataclass(frozen=True)
class UnitQuality:
    """How units relate to phones, frame by frame (HuBERT, section IV.D); shares of 1."""

    phone_purity: float
    cluster_purity: float
    phone_normalised_mutual_information: float
    units_used: int

    def __str__(self) -> str:
        """In one line, for people."""
        return (
            f"phone purity {self.phone_purity:.1%}, cluster purity {self.cluster_purity:.1%}, "
            f"PNMI {self.phone_normalised_mutual_information:.3f}, {self.units_used} units used"
        )


def measure_units(units: NDArray[np.int64], phones: NDArray[np.int64]) -> UnitQuality:
    """Quality of aligned labels (time,), one unit and one phone a frame; both count from 0."""
    joint = np.zeros((int(units.max()) + 1, int(phones.max()) + 1))
    np.add.at(joint, (units, phones), 1.0)
    joint /= joint.sum()
    unit, phone = joint.sum(1), joint.sum(0)
    seen = joint > 0
    information = (joint[seen] * np.log(joint[seen] / np.outer(unit, phone)[seen])).sum()
    entropy = -(phone[phone > 0] * np.log(phone[phone > 0])).sum()
    return UnitQuality(
        phone_purity=float(joint.max(1).sum()),
        cluster_purity=float(joint.max(0).sum()),
        phone_normalised_mutual_information=float(information / entropy) if entropy > 0 else 0.0,
        units_used=int((unit > 0).sum()),
    )
