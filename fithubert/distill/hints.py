"""Hint distillation: a student's projections against the teacher's layers, head by head.

The losses are pure functions of `prediction` and `target` (batch, time, feature); `valid` (batch, time) is True inside
an utterance. Padding contributes nothing, to the value or to a gradient (the authors' code averages over it).
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fithubert.config.students import HintParams
from fithubert.errors import UserError
from fithubert.frames import padding_mask
from fithubert.records import Head


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


@dataclass(frozen=True)
class HintLosses:
    """`total`: the loss that training minimises. `heads`: each head's loss without its weight, detached."""

    total: Tensor
    heads: dict[Head, Tensor]


class HintLoss:
    """The loss of `params` over the heads of `layer_map`, the last of which is the last head.

    Published FitHuBERT: sum of mse over heads, the last weighted 1.0 and every other 0.1 (train.py `calculate_loss`).
    DistilHuBERT: mean over heads of l1 + cosine. STaR: sum over layers of gram + intra_gram. Differs from them:
    padding contributes nothing. `intra_gram` of a head compares it with the entry before it in the layer map.
    """

    def __init__(self, params: HintParams, layer_map: Sequence[tuple[int, int]]) -> None:
        self.params, self.layer_map = params, tuple(Head(*entry) for entry in layer_map)
        #: The highest student layer that a head reads.
        self.last_layer = max(head.student_layer for head in self.layer_map)
        #: Whether some updates leave out heads.
        self.skips_heads = params.random_hints is not None or params.bottom_up_share > 0

    def choose_heads(self, seed: int, epoch: int, share: float) -> tuple[int, ...]:
        """The heads that an update of `epoch` trains, as indices of the layer map; `share` of all updates are done.

        The last one and `random_hints` of the others drawn for the epoch, or those that have joined so far. A function
        of its arguments alone, so that a resumed run chooses the same.
        """
        last = len(self.layer_map) - 1
        if share < self.params.bottom_up_share:
            return tuple(range(1 + int(share / self.params.bottom_up_share * (last + 1))))
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
        cut. `heads`: the indices in the layer map of the projections' heads, in order (None: all); the last of them
        has the last head's weight.
        """
        heads = range(len(self.layer_map)) if heads is None else heads
        valid = padding_mask(lengths, projections[0].shape[1])
        total = projections[0].new_zeros(())
        layers: dict[Head, Tensor] = {}
        before: tuple[Tensor, Tensor] | None = None
        for head, prediction in zip(heads, projections, strict=True):
            pair = self.layer_map[head]
            target = self._target(targets, pair, prediction)
            loss = self._head_loss(prediction, target, valid, before)
            total = total + (self.params.last_weight if head == heads[-1] else self.params.hint_weight) * loss
            layers[pair] = loss.detach()
            before = prediction, target
        return HintLosses(total / len(layers) if self.params.average_heads else total, layers)

    def _target(self, targets: Mapping[int, Tensor], head: Head, prediction: Tensor) -> Tensor:
        """The teacher's layer of `head`, cut to the prediction's frames; checked against its shape."""
        target = targets[head.teacher_layer][:, : prediction.shape[1]]
        if target.shape[1] < prediction.shape[1]:
            raise ValueError(
                f"teacher layer {head.teacher_layer} has {target.shape[1]} frames, not {prediction.shape[1]}"
            )
        framewise = sorted(self.params.losses.keys() - ANY_WIDTH)
        if framewise and target.shape[2] != prediction.shape[2]:
            raise UserError(
                f"hints.losses: {framewise[0]} compares layer {head.student_layer}, {prediction.shape[2]} wide, with "
                f"the teacher's {target.shape[2]}; set heads.teacher_width to that, or use gram losses"
            )
        return target

    def _head_loss(
        self, prediction: Tensor, target: Tensor, valid: Tensor, before: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """The weighted sum of the terms for one head; `before`: prediction and target of the entry before."""
        loss = prediction.new_zeros(())
        for term, weight in self.params.losses.items():
            if term != "intra_gram":
                loss = loss + weight * LOSSES[term](prediction, target, valid)
            elif before is not None:
                loss = loss + weight * cross_gram_loss((before[0], prediction), (before[1], target), valid)
        return loss
