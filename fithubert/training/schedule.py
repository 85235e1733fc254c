"""AdamW with warm-up and linear decay, and a moving average of the weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class OptimizerSettings:
    """The settings of AdamW. `fused` must be off in fp16: a fused AdamW unscales gradients itself, after clipping."""

    learning_rate: float
    weight_decay: float
    betas: tuple[float, float] = (0.9, 0.98)
    epsilon: float = 1e-6
    fused: bool = True


def build_optimizer(model: nn.Module, settings: OptimizerSettings) -> torch.optim.AdamW:
    """AdamW over the trainable parameters, with weight decay on matrices only, not on biases, norms and gains.

    Differs: fairseq decays every parameter.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trainable if p.ndim > 1]},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups,
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
        fused=settings.fused,
    )


def learning_rate_share(update: int, updates: int, warmup_updates: int) -> float:
    """The share of the peak learning rate at `update` (from 0) of `updates`: linear up to 1, then linear to 0.

    Source: s3prl `get_linear_schedule_with_warmup`; HuBERT (Hsu et al. 2021, section IV.C). Differs: counts from 1 in
    the warm-up, so that the first update does not have rate 0.
    """
    if update < warmup_updates:
        return (update + 1) / warmup_updates
    return (updates - update) / max(1, updates - warmup_updates)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every parameter group to `rate`."""
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
