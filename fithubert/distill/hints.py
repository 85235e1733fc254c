"""Hint distillation: a student's projections against the teacher's layers, head by head."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from fithubert.config.hints import HintParams
from fithubert.distill.losses import ANY_WIDTH, LOSSES, cross_gram_loss, sum_over_pairs, temporal_gram, unit_loss
from fithubert.errors import UserError
from fithubert.frames import padding_mask
from fithubert.models.frontend import TimeReduction
from fithubert.records import Head
from fithubert.training.units import Codebook

#: (term, index of the head) -> what its loss is divided by.
Scales = dict[tuple[str, int], float]


@dataclass(frozen=True)
class HintLosses:
    """`total`: the loss that training minimises. `heads`: each head's loss without its weight, detached."""

    total: Tensor
    heads: dict[Head, Tensor]


@dataclass(frozen=True)
class _Compared:
    """The frames of one head and of its teacher layer, (batch, time, feature) each.

    `frames` (batch, time): how many valid frames at the teacher's rate each stands for.
    """

    prediction: Tensor
    target: Tensor
    frames: Tensor

    def at_own_rate(self, factor: int, state: Tensor | None = None) -> "_Compared":
        """The prediction without the repetition of its frames by `factor`, and the target averaged over each group.

        `state` (batch, reduced time, feature) takes the place of the prediction.

        A frame s repeated n times and a frame r repeated m times cost the sum over their n m pairs of (s.r - x.y)^2
        with the teacher's frames x and y. That is n m (s.r - mean x . mean y)^2 plus a sum in which the student has no
        part. So `cross_gram_loss` has the same gradient here as at the teacher's rate, with `factor`^2 times fewer
        products, and is less by the variance of the teacher's products within such blocks.
        """
        if factor == 1:
            return self if state is None else replace(self, prediction=state[:, : self.prediction.shape[1]])
        means, _ = TimeReduction("mean", self.target.shape[2], factor)(self.target, self.frames.sum(1))
        frames = F.pad(self.frames, (0, factor - 1)).unfold(1, factor, factor).sum(2)
        return _Compared(self.prediction[:, ::factor] if state is None else state, means, frames)

    def centred(self) -> "_Compared":
        """The same less the means over the valid frames of each utterance, at the teacher's rate."""
        weight = (self.frames / self.frames.sum(1, keepdim=True).clamp(min=1))[:, :, None]

        def centre(x: Tensor) -> Tensor:
            return x - torch.where(weight > 0, weight.to(x.dtype) * x, 0).sum(1, keepdim=True)

        return replace(self, prediction=centre(self.prediction), target=centre(self.target))


class HintLoss:
    """The loss of `params` over the heads of `layer_map`, the last of which is the last head.

    Published FitHuBERT: sum of mse over heads, the last weighted 1.0 and every other 0.1 (train.py `calculate_loss`).
    DistilHuBERT: mean over heads of l1 + cosine. STaR: sum over layers of gram + intra_gram. Differs from them:
    padding contributes nothing. `intra_gram` of a head compares it with the entry before it in the layer map.

    `repeats`: how many frames at the teacher's rate each frame stands for that Gram terms compare: how often a head
    repeats its layer's frames (`StudentConfig.repeats`; None: once each), or the factor of the layer (`gram_of`).
    `scales`: those of `measure_scales`, needed with `params.normalise`. `codebook`: needed with `params.units`.
    """

    def __init__(
        self, params: HintParams, layer_map: Sequence[tuple[int, int]], repeats: Sequence[int] | None = None
    ) -> None:
        self.params, self.layer_map = params, tuple(Head(*entry) for entry in layer_map)
        self.repeats = (1,) * len(self.layer_map) if repeats is None else tuple(repeats)
        self.scales: Scales = {}
        self.codebook: Codebook | None = None
        self._compares_pairs = not ANY_WIDTH.isdisjoint(params.losses)
        #: The highest student layer that a head reads.
        self.last_layer = max(head.student_layer for head in self.layer_map)
        #: Whether some updates leave out heads.
        self.skips_heads = params.random_hints is not None or params.bottom_up_share > 0

    def layers_of(self, heads: Iterable[int]) -> tuple[int, ...]:
        """The teacher layers that `heads` and the hint `units` need, in order."""
        units = self.params.units
        needed = {self.layer_map[head].teacher_layer for head in heads}
        return tuple(sorted(needed | (set() if units is None else {units.teacher_layer})))

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
        states: Sequence[Tensor] | None = None,
        scores: Tensor | None = None,
    ) -> HintLosses:
        """The loss of `projections` (batch, time, feature) with `lengths` (batch,) frames against teacher layers.

        `targets` maps a teacher layer to (batch, time, feature), at least as long as the projections: longer ones are
        cut. `heads`: the indices in the layer map of the projections' heads, in order (None: all); the last of them
        has the last head's weight. `states`, `scores`: as in `Hinted`, needed for `gram_of: layers` and `units`.
        """
        heads = range(len(self.layer_map)) if heads is None else heads
        valid = padding_mask(lengths, projections[0].shape[1])
        total = projections[0].new_zeros(())
        layers: dict[Head, Tensor] = {}
        before: _Compared | None = None
        for place, (head, prediction) in enumerate(zip(heads, projections, strict=True)):
            pair = self.layer_map[head]
            compared = _Compared(prediction, self._target(targets, pair, prediction), valid)
            state = states[place] if states is not None and self.params.gram_of == "layers" else None
            own = self._at_own_rate(head, compared, state) if self._compares_pairs else compared
            loss = self._head_loss(head, compared, own, before)
            total = total + (self.params.last_weight if head == heads[-1] else self.params.hint_weight) * loss
            layers[pair] = loss.detach()
            before = own
        total = total / len(layers) if self.params.average_heads else total
        if self.params.units is not None:
            assert scores is not None
            assert self.codebook is not None
            target = targets[self.params.units.teacher_layer][:, : scores.shape[1]]
            scale = self.codebook.entropy if self.params.normalise else 1.0
            total = total + self.params.units.weight / scale * unit_loss(scores, target, valid, self.codebook.units)
        return HintLosses(total, layers)

    def _at_own_rate(self, head: int, compared: _Compared, state: Tensor | None = None) -> _Compared:
        """The frames that the Gram terms of `head` compare."""
        own = compared.at_own_rate(self.repeats[head], state)
        return own.centred() if self.params.gram_centred else own

    def measure_scales(self, samples: Iterable[Mapping[int, Tensor]]) -> Scales:
        """The scales of `params.normalise` from the teacher's layers, (time, feature) each, of pieces of speech.

        gram, intra_gram: the mean over pairs of frames of the teacher's squared product, at the rate of the
        comparison. mse: the mean over channels of the variance. l1: its root. So outputs of 0 cost 1 with gram,
        and the teacher's mean frame costs 1 with mse. Raises UserError if a scale is 0.
        """
        sums: dict[tuple[str, int], list[Tensor]] = {}

        def add(term: str, head: int, *values: Tensor) -> None:
            held = sums.get((term, head))
            sums[term, head] = list(values) if held is None else [x + y for x, y in zip(held, values, strict=True)]

        for hidden in samples:
            before: _Compared | None = None
            for head, (_, layer) in enumerate(self.layer_map):
                x = hidden[layer].double()
                add("moments", head, x.sum(0), x.square().sum(), x.new_tensor(len(x)))
                valid = torch.ones(1, len(x), dtype=torch.bool, device=x.device)
                own = self._at_own_rate(head, _Compared(x[None], x[None], valid))
                for term, other in (("gram", own), ("intra_gram", before)):
                    if term in self.params.losses and other is not None:
                        squares = temporal_gram(other.target, own.target).square()
                        add(term, head, *sum_over_pairs(squares, other.frames, own.frames))
                before = own
        scales: Scales = {}
        for (term, head), values in sums.items():
            if term == "moments":
                total, squares, count = values
                variance = float((squares - total.square().sum() / count) / count) / len(total)
                scales["mse", head], scales["l1", head] = variance, max(variance, 0.0) ** 0.5
            else:
                scales[term, head] = float(values[0] / values[1])
        for (term, head), scale in scales.items():
            if term in self.params.losses and not scale > 0:
                layer = self.layer_map[head].teacher_layer
                raise UserError(
                    f"hints.normalise: teacher layer {layer} is constant, so that {term} has no scale; "
                    "leave it out of heads.layer_map"
                )
        return scales

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

    def _head_loss(self, head: int, compared: _Compared, own: _Compared, before: _Compared | None) -> Tensor:
        """The weighted sum of the terms for one head; `own`, `before`: it and the entry before at their own rates."""
        loss = own.prediction.new_zeros(())
        for term, weight in self.params.losses.items():
            if term == "intra_gram":
                if before is None:
                    continue
                value = cross_gram_loss(
                    (before.prediction, own.prediction), (before.target, own.target), (before.frames, own.frames)
                )
            else:
                given = own if term in ANY_WIDTH else compared
                value = LOSSES[term](given.prediction, given.target, given.frames)
            if self.params.normalise and term != "cosine":
                weight = weight / self.scales[term, head]
            loss = loss + weight * value
        return loss
