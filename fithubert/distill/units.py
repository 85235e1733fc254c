"""The hint `units`: cross-entropy on the k-means clusters of a teacher layer."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fithubert.config.hints import UnitsParams
from fithubert.training.units import UnitModel, fit_units


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


def unit_loss(scores: Tensor, target: Tensor, valid: Tensor, units: UnitModel) -> Tensor:
    """Mean cross-entropy over valid frames, in nats.

    `scores` (batch, time, clusters) for the units of the teacher's `target` (batch, time, feature); `valid`
    (batch, time). A frame of a time-reduced student has scores for each teacher frame that it stands for.
    """
    losses = F.cross_entropy(scores.transpose(1, 2).float(), units.assign(target), reduction="none")
    return torch.where(valid, losses, 0).sum() / valid.sum().clamp(min=1)
