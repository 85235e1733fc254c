"""Masked losses between a student's and a teacher's frames: pure functions of tensors.

`prediction` and `target` are (batch, time, feature); `valid` (batch, time) is True inside an utterance. Padding
contributes nothing, to the value or to a gradient (the authors' code averages over it).
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def mean_over_valid(values: Tensor, valid: Tensor) -> Tensor:
    """The mean of `values` (batch, time) over valid frames; 0 where there are none."""
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
