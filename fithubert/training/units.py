"""Discrete units: k-means clusters of frames."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fithubert.config.hints import UnitsParams
from fithubert.errors import UserError

#: Rounds of k-means after which hardly any centre moves; it ends earlier if none does.
_ROUNDS = 30
#: Frames for each cluster among which the first centres are chosen; more frames do not help.
_START_FRAMES = 50
#: By which the cosines of soft units are divided.
_TEMPERATURE = 0.1


@dataclass(frozen=True)
class UnitModel:
    """`centres` (clusters, feature) in the space of frames scaled by `mean` and `scale` (feature,)."""

    centres: Tensor
    mean: Tensor
    scale: Tensor

    def assign(self, frames: Tensor) -> Tensor:
        """(...) int64, the nearest centre of each frame (..., feature)."""
        scaled, centres = self._scale(frames), self.centres.to(frames)
        return (centres.square().sum(1) - 2 * scaled @ centres.T).argmin(-1)

    def soften(self, frames: Tensor) -> Tensor:
        """(time, clusters) soft units of frames (time, feature): the share of each centre; the shares add up to 1.

        They are the softmax of the cosines between frame and centres, divided by 0.1. Source: bshall/hubert
        (van Niekerk et al. 2022), `Hubert.logits`. Differs: there frames are projected and the centres are learnt with
        the projection; here they are those of k-means. The largest share need not be that of the nearest centre.
        """
        scaled, centres = self._scale(frames), self.centres.to(frames)
        return (F.normalize(scaled, dim=1) @ F.normalize(centres, dim=1).T / _TEMPERATURE).softmax(1)

    def _scale(self, frames: Tensor) -> Tensor:
        return (frames - self.mean.to(frames)) / self.scale.to(frames)


def fit_units(frames: Tensor, clusters: int, seed: int) -> UnitModel:
    """k-means (scikit-learn's) on frames (time, feature), scaled per feature.

    Differs from HuBERT's mini-batches with 20 starts: whole rounds from one start, k-means++ among some of the frames:
    a lower error in less time (figures in experiments/LOG.md). Raises UserError if scikit-learn is not installed or
    there are fewer frames than clusters.
    """
    try:
        from sklearn.cluster import KMeans, kmeans_plusplus
        from sklearn.exceptions import ConvergenceWarning
    except ImportError:
        raise UserError("k-means needs scikit-learn: pip install 'fithubert[pretrain]'") from None
    if frames.shape[0] < clusters:
        raise UserError(f"units: {clusters} clusters need at least as many frames; there are {frames.shape[0]}")
    mean, scale = frames.mean(0), frames.std(0).clamp(min=1e-5)
    scaled = ((frames - mean) / scale).cpu().numpy()
    start, _ = kmeans_plusplus(
        scaled[:: max(1, len(scaled) // (_START_FRAMES * clusters))], clusters, random_state=seed
    )
    with warnings.catch_warnings():
        # It warns if there are fewer different frames than clusters, as in silence.
        warnings.simplefilter("ignore", ConvergenceWarning)
        kmeans = KMeans(clusters, init=start, n_init=1, max_iter=_ROUNDS).fit(scaled)
    return UnitModel(torch.from_numpy(kmeans.cluster_centers_.astype(np.float32)), mean.cpu(), scale.cpu())


@dataclass(frozen=True)
class Codebook:
    """The units of a teacher layer. `entropy`: of the units, in nats: what scores without information cost."""

    units: UnitModel
    entropy: float

    def state_dict(self) -> dict[str, Tensor | float]:
        """The codebook for a checkpoint."""
        return {**vars(self.units), "entropy": self.entropy}

    @classmethod
    def from_state(cls, state: dict[str, Tensor | float]) -> "Codebook":
        """The codebook that `state_dict` gave."""
        tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        return cls(UnitModel(**tensors), float(state["entropy"]))


def fit_codebook(params: UnitsParams, frames: Iterable[Tensor], seed: int) -> Codebook:
    """The codebook of a teacher layer from `frames`, (time, feature) of several pieces of speech.

    Raises UserError if there are fewer frames than clusters, or if scikit-learn is missing.
    """
    sample = torch.cat([piece.float().cpu() for piece in frames])
    units = fit_units(sample, params.clusters, seed)
    counts = torch.bincount(units.assign(sample), minlength=params.clusters).double()
    share = counts / counts.sum()
    return Codebook(units, float(torch.special.entr(share).sum()))
