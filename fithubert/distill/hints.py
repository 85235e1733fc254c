"""Hint distillation: a student's projections against the teacher's layers, head by head."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from fithubert.config.params import HintParams
from fithubert.distill.losses import cosine_loss, l1_loss, mse_loss
from fithubert.frames import padding_mask

Pair = tuple[int, int]
_TERMS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "mse": mse_loss,
    "l1": l1_loss,
    "cosine": cosine_loss,
}


@dataclass(frozen=True)
class HintLosses:
    """`total`: what training minimises. `layers`: each head's loss without its head weight, detached, by its
    (student layer, teacher layer)."""

    total: Tensor
    layers: dict[Pair, Tensor]


class HintLoss:
    """The loss of `params` over the heads of `layer_map`, the last of which is the last head.

    Published FitHuBERT: sum of mse over heads, the last weighted 1.0 and every other 0.1 (train.py `calculate_loss`).
    DistilHuBERT: mean over heads of l1 + cosine. Differs from both: padding contributes nothing.
    """

    def __init__(self, params: HintParams, layer_map: Sequence[Pair]) -> None:
        self.params, self.layer_map = params, tuple(layer_map)

    def draw_heads(self, seed: int, epoch: int) -> tuple[int, ...]:
        """The heads that `epoch` trains, in order: the last one and `random_hints` of the others (None: all).

        A function of its arguments alone, so that a resumed run draws the same.
        """
        last = len(self.layer_map) - 1
        if self.params.random_hints is None or self.params.random_hints >= last:
            return tuple(range(last + 1))
        drawn = random.Random(f"hints {seed} {epoch}").sample(range(last), self.params.random_hints)
        return (*sorted(drawn), last)

    def __call__(
        self,
        projections: Sequence[Tensor],
        lengths: Tensor,
        targets: Mapping[int, Tensor],
        heads: Sequence[int] | None = None,
    ) -> HintLosses:
        """The loss of `projections` (batch, time, feature) with `lengths` (batch,) frames against teacher layers.

        `targets` maps a teacher layer to (batch, time, feature), at least as long as the projections: longer ones are
        cut. `heads` says which entries of the layer map the projections belong to (None: all, in order).
        """
        heads = range(len(self.layer_map)) if heads is None else heads
        valid = padding_mask(lengths, projections[0].shape[1])
        total, layers = projections[0].new_zeros(()), {}
        for head, prediction in zip(heads, projections, strict=True):
            pair = self.layer_map[head]
            target = targets[pair[1]][:, : prediction.shape[1]]
            if target.shape[1] < prediction.shape[1]:
                raise ValueError(f"teacher layer {pair[1]} has {target.shape[1]} frames, not {prediction.shape[1]}")
            loss = sum(
                (weight * _TERMS[term](prediction, target, valid) for term, weight in self.params.losses.items()),
                start=total.new_zeros(()),
            )
            is_last = head == len(self.layer_map) - 1
            total = total + (self.params.last_weight if is_last else self.params.hint_weight) * loss
            layers[pair] = loss.detach()
        return HintLosses(total / len(layers) if self.params.average_heads else total, layers)
