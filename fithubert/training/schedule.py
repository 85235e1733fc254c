"""AdamW with warm-up and linear decay, and a moving average of the weights."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fithubert.config.distill import DistillParams


def learning_rate_share(update: int, updates: int, warmup_share: float) -> float:
    """The share of the peak learning rate at `update` (from 0) of `updates`: linear up to 1, then linear to 0.

    Source: s3prl `get_linear_schedule_with_warmup`. Differs: counts from 1 in the warm-up, so that the first update
    is not one with rate 0.
    """
    warmup = round(warmup_share * updates)
    if update < warmup:
        return (update + 1) / warmup
    return (updates - update) / max(1, updates - warmup)


def build_optimizer(model: nn.Module, params: DistillParams) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; weight decay on matrices only, not on biases, norms and gains.

    Fused except in fp16, where a fused optimiser unscales gradients itself and so cannot have them clipped.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trainable if p.ndim > 1]},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups,
        lr=params.learning_rate,
        betas=params.betas,
        eps=params.epsilon,
        weight_decay=params.weight_decay,
        fused=params.precision != "16-mixed",
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group the same `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate


class WeightAverage:
    """An exponential moving average of a model's weights: `average = decay * average + (1 - decay) * weights`."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average one step towards the weights of `model`."""
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                self.weights[name].lerp_(tensor, 1 - self.decay)
            else:
                self.weights[name].copy_(tensor)

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Replace the average by `weights`, those of a checkpoint."""
        for name, tensor in self.weights.items():
            tensor.copy_(weights[name])
