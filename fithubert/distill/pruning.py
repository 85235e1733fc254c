"""Learned pruning: a student with gates, and the constraint on its expected cost.

Source: a learnt size by an augmented Lagrangian (Wang et al. 2020), jointly with distillation (DPHuBERT, Peng et al.
2023; pyf98/DPHuBERT distill.py). Differs: the constraint is on multiply-accumulates at the student's frame rates, not
on parameters.
"""

from collections.abc import Callable, Mapping
from math import log
from typing import Any

import torch
from torch import Tensor, nn

from fithubert.config.hints import PruneParams
from fithubert.config.students import StudentConfig
from fithubert.config.teacher import HubertConfig
from fithubert.distill.gates import (
    draw_gates,
    fold,
    gate_sizes,
    gated,
    heads_gate,
    open_probability,
    typical_value,
)
from fithubert.errors import UserError
from fithubert.frames import SAMPLE_RATE_HZ, count_stacked_frames
from fithubert.models.macs import REFERENCE_SECONDS, Count, Sizes, count_macs
from fithubert.models.student import Hinted, Student

#: log alpha of a gate that is open with probability 0.99 before it is stretched, and the noise that makes gates differ.
_OPEN, _NOISE = log(99.0), 0.01
#: With log alpha so far from 0 a gate is surely open, or surely closed.
_FAR = 60.0


def macs_per_second(config: StudentConfig | HubertConfig, sizes: Sizes | None = None) -> Count:
    """Multiply-accumulates per second of audio of a shape, in total; `sizes` as in `count_macs`."""
    return sum(count_macs(config, round(REFERENCE_SECONDS * SAMPLE_RATE_HZ), sizes).values()) / REFERENCE_SECONDS


class GatedStudent(nn.Module):
    """A student whose parts have gates: drawn in training, in an evaluation those of the student it would become."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student, sizes = student, gate_sizes(student.config)
        self.log_alpha = nn.ParameterDict(
            {name: nn.Parameter(_OPEN + _NOISE * torch.randn(size)) for name, size in sizes.items()}
        )

    @property
    def config(self) -> StudentConfig:
        """The shape of the whole student."""
        return self.student.config

    def hints(self, *args: Any, **options: Any) -> Hinted:
        """As `Student.hints`, through the gates."""
        masks = {n: draw_gates(a) for n, a in self.log_alpha.items()} if self.training else self.harden()
        with gated(self.student, masks):
            hinted = self.student.hints(*args, **options)
        # Gram terms divide by the width of layers, which is smaller in the student that this one becomes.
        share = (self.config.width / masks["width"].count_nonzero()) ** 0.5
        states = tuple(x * share for x in hinted.states)
        if self.config.heads.kind == "none":
            return hinted._replace(projections=tuple(x * share for x in hinted.projections), states=states)
        return hinted._replace(states=states)

    def expected_macs(self) -> Tensor:
        """Multiply-accumulates per second of audio, from the expected number of open gates of each kind."""
        return self._count({name: open_probability(a).sum() for name, a in self.log_alpha.items()})

    @torch.no_grad()
    def harden(self, most: float | None = None) -> dict[str, Tensor]:
        """The gates without chance: as many as are expected to be open, which have values without chance.

        `most`: all probabilities are shifted until the cost comes closest to `most` from below, those of the width by
        steps of a whole channel for each group of the positional convolution. Every gate keeps one part at least. The
        width's values are 1, since norms and not gates decide the scale of the residual stream.
        """
        shift = width_shift = 0.0
        if most is not None:
            width_shift = _bisect(-_FAR, lambda shift: self._count(self._kept(shift, shift)) <= most)
            shift = _bisect(width_shift, lambda shift: self._count(self._kept(shift, width_shift)) <= most)
        kept, masks = self._kept(shift, width_shift), {}
        for name, log_alpha in self.log_alpha.items():
            groups = self.config.pos_conv_groups if name == "width" else 1
            values = typical_value(log_alpha).view(groups, -1)
            best = values.topk(kept[name] // groups).indices
            chosen = torch.ones_like(values) if name == "width" else values
            masks[name] = torch.zeros_like(values).scatter(1, best, chosen.gather(1, best)).flatten()
        return masks

    @torch.no_grad()
    def least_macs(self) -> float:
        """Multiply-accumulates per second of the smallest student that pruning can leave."""
        return float(self._count(self._kept(-_FAR, -_FAR)))

    def _kept(self, shift: float, width_shift: float) -> dict[str, int]:
        """How many parts are expected to be kept if log alpha is raised by `shift`, for the width by `width_shift`."""
        kept = {}
        for name, log_alpha in self.log_alpha.items():
            groups = self.config.pos_conv_groups if name == "width" else 1
            expected = float(open_probability(log_alpha + (width_shift if name == "width" else shift)).sum())
            kept[name] = groups * max(1, round(expected / groups))
        last = f"channels_{len(self.config.conv_layers) - 1}"
        # A student of such a shape has no projection between the two.
        if kept.get(last, 0) * count_stacked_frames(self.config.time_reduction) == kept["width"]:
            kept[last] += -1 if kept[last] > 1 else 1
        return kept

    def _count(self, counts: Mapping[str, Count]) -> Count:
        config = self.config
        sizes = Sizes(
            [counts[f"channels_{index}"] for index in range(len(config.conv_layers))],
            counts["width"],
            [layer.head_width * counts[heads_gate(config, i)] for i, layer in enumerate(config.layer_sizes)],
            [counts[f"units_{index}"] for index in range(config.depth)],
        )
        return macs_per_second(config, sizes)


def _bisect(low: float, holds: Callable[[float], bool]) -> float:
    """The largest number from `low` on for which `holds`, which it does up to some number; `low` if for none."""
    high = _FAR
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


class Pruning:
    """The first `updates` of a training, in which `gated` is pruned, and what its expected cost must come to.

    The loss has the term lambda1 (s - t) + lambda2 (s - t)^2, which the weights lower and both multipliers raise. s is
    the expected cost and t the permitted one, as shares of the whole student's; t falls from 1 to the target in the
    first `ramp_share` of the updates. Raises UserError if the target cannot be reached.
    """

    def __init__(self, gated: GatedStudent, params: PruneParams, teacher: HubertConfig, updates: int) -> None:
        self.gated, self.updates, self._params = gated, updates, params
        target = params.macs_per_second or (params.share or 0.0) * macs_per_second(teacher)
        self.macs_per_second, self._whole = target, macs_per_second(gated.config)
        if not gated.least_macs() <= target < self._whole:
            raise UserError(
                f"prune: {target:.4g} multiply-accumulates per second are not between those of the smallest student, "
                f"{gated.least_macs():.4g}, and of the whole one, {self._whole:.4g}; give others, or another shape"
            )
        self.multipliers = nn.Parameter(torch.zeros(2))

    @property
    def groups(self) -> list[dict[str, Any]]:
        """The groups of the optimiser for the gates and for the multipliers, which ascend."""
        # The cost's gradient of a single gate is small: a larger epsilon would hold it back.
        common = {"lr": self._params.learning_rate, "weight_decay": 0.0, "eps": 1e-10}
        gates = {"params": list(self.gated.log_alpha.parameters()), **common}
        return [gates, {"params": [self.multipliers], "maximize": True, **common}]

    def penalty(self, update: int) -> Tensor:
        """The term of the loss in `update`, counted from 0."""
        ramp = min(1.0, (update + 1) / max(1, round(self._params.ramp_share * self.updates)))
        permitted = 1 - ramp * (1 - self.macs_per_second / self._whole)
        excess = self.gated.expected_macs() / self._whole - permitted
        return self.multipliers[0] * excess + self.multipliers[1] * excess.square()

    def fold(self) -> Student:
        """The pruned student, whose cost comes closest to the target from below."""
        return fold(self.gated.student, self.gated.harden(self.macs_per_second))
