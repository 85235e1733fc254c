"""Masked losses between a student's and a teacher's frames: pure functions of tensors.

`prediction` and `target` are (batch, time, feature); `valid` (batch, time) is True inside an utterance. Padding
contributes nothing, to the value or to a gradient (the authors' code averages over it).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


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


def gram_loss(prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Mean squared difference between two layers' products of frames (STaR, Jang et al. 2024, temporal Gram matrix).

    The mean is over pairs of valid frames. The widths may differ: each product is divided by its own width. Differs:
    this scale is ours, the paper's was not available.
    """
    return cross_gram_loss((prediction, prediction), (target, target), valid)


def cross_gram_loss(prediction: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor], valid: Tensor) -> Tensor:
    """`gram_loss` between the frames of two layers (STaR, intra-layer: a layer's input and its output)."""
    differences = (_temporal_gram(*prediction) - _temporal_gram(*target)).square()
    pairs = valid[:, :, None] & valid[:, None, :]
    return torch.where(pairs, differences, 0).sum() / pairs.sum().clamp(min=1)


def _temporal_gram(x: Tensor, y: Tensor) -> Tensor:
    """(batch, time, time) products of the frames of `x` with those of `y` (batch, time, feature) over the width."""
    return x @ y.transpose(1, 2) / x.shape[-1]


#: The terms of `hints.losses` that compare a head with its teacher layer. `intra_gram` compares two heads.
LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "mse": mse_loss,
    "l1": l1_loss,
    "cosine": cosine_loss,
    "gram": gram_loss,
}
#: Terms that compare layers of different widths.
ANY_WIDTH = frozenset({"gram", "intra_gram"})
