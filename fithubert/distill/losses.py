"""The terms of hint losses: pure functions of `prediction` and `target` (batch, time, feature).

`valid` (batch, time) is True inside an utterance. Padding contributes nothing, to the value or to a gradient (the
authors' code averages over it).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fithubert.training.units import UnitModel


def mean_over_valid(values: Tensor, valid: Tensor) -> Tensor:
    """The mean of `values` (batch, time) over valid frames; 0 if there are none."""
    return torch.where(valid, values, 0).sum() / valid.sum().clamp(min=1)


def mse_loss(prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Mean squared error over valid frames and features (FitHuBERT `rec_loss_type: mse`)."""
    return mean_over_valid((prediction - target).square().mean(-1), valid)


def l1_loss(prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Mean absolute error over valid frames and features (DistilHuBERT `loss_type: l1`)."""
    return mean_over_valid((prediction - target).abs().mean(-1), valid)


def cosine_loss(prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Mean over valid frames of -log sigmoid(cosine similarity) (DistilHuBERT, section 2.1)."""
    return mean_over_valid(-F.logsigmoid(F.cosine_similarity(prediction, target, dim=-1)), valid)


def gram_loss(prediction: Tensor, target: Tensor, frames: Tensor) -> Tensor:
    """Mean squared difference between two layers' products of frames (STaR, Jang et al. 2024, temporal Gram matrix).

    The mean is over pairs of valid frames; `frames` as in `cross_gram_loss`. The widths may differ: each product is
    divided by its own width. Differs: this scale is ours, the paper's was not available.
    """
    return cross_gram_loss((prediction, prediction), (target, target), (frames, frames))


def cross_gram_loss(
    prediction: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor], frames: tuple[Tensor, Tensor]
) -> Tensor:
    """`gram_loss` between the frames of two layers (STaR, intra-layer: a layer's input and its output).

    `frames` (batch, time) of each layer: how many frames at the teacher's rate each frame stands for, 0 for padding. A
    mask of valid frames counts each once.
    """
    total, pairs = sum_over_pairs((temporal_gram(*prediction) - temporal_gram(*target)).square(), *frames)
    return total / pairs.clamp(min=1)


def sum_over_pairs(values: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of `values` (batch, time, time) over pairs of frames, and the number of pairs."""
    pairs = rows[:, :, None] * columns[:, None, :]
    return torch.where(pairs > 0, pairs * values, 0).sum(), pairs.sum()


def temporal_gram(x: Tensor, y: Tensor) -> Tensor:
    """(batch, time, time) products of the frames of `x` with those of `y` (batch, time, feature) over the width."""
    return x @ y.transpose(1, 2) / x.shape[-1]


def unit_loss(scores: Tensor, target: Tensor, valid: Tensor, units: UnitModel) -> Tensor:
    """Mean cross-entropy over valid frames, in nats.

    `scores` (batch, time, clusters) for the units of the teacher's `target` (batch, time, feature); `valid`
    (batch, time). A frame of a time-reduced student has scores for each teacher frame that it stands for.
    """
    losses = F.cross_entropy(scores.transpose(1, 2).float(), units.assign(target), reduction="none")
    return mean_over_valid(losses, valid)


#: The terms of `hints.losses` that compare a head with its teacher layer. `intra_gram` compares two heads.
LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "mse": mse_loss,
    "l1": l1_loss,
    "cosine": cosine_loss,
    "gram": gram_loss,
}
#: Terms that compare layers of different widths.
ANY_WIDTH = frozenset({"gram", "intra_gram"})
