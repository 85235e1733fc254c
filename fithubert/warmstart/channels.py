"""What a student's channels stand for: some of its teacher's, at the student's frame rate."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fithubert.warmstart.regression import covariance


@dataclass(frozen=True)
class Channels:
    """The teacher's channels that the student's stand for, one by one.

    At a reduced frame rate `factor` neighbouring frames of a channel are taken as their mean and the rates at which
    they change (the cosine transform of the group), and `chosen` counts through all channels' means, then through the
    first rate, and so on. An incomplete last group repeats its last frame, or is left out (`drop_last`).
    """

    chosen: Tensor
    width: int
    factor: int = 1
    drop_last: bool = False

    def of(self, y: Tensor) -> Tensor:
        """(student's time, student's channel) from frames of the teacher (time, feature)."""
        return _transform(y, self.factor, self.drop_last)[:, self.chosen]

    def mean(self, y: Tensor) -> Tensor:
        """(student's time, feature): the mean of each group of the teacher's frames."""
        return _transform(y, self.factor, self.drop_last)[:, : self.width]

    def frame(self, y: Tensor, place: int) -> Tensor:
        """(student's time, feature): the frame at `place` in each group."""
        return _group(y, self.factor, self.drop_last)[:, place]

    def carry(self, weight: Tensor, place: int | None = None) -> Tensor:
        """(student's channel, n) from the weight (feature, n) of a map that adds to the teacher's features.

        It adds to the frame at `place` of each group; None: to all of them alike.
        """
        basis = _basis(self.factor).to(weight)
        share = basis.sum(1) if place is None else basis[:, place]
        return weight[self.chosen % self.width] * share[self.chosen // self.width][:, None]


def choose_for(
    hidden: Sequence[Sequence[Tensor]], count: int, factor: int = 1, drop_last: bool = False, means_only: bool = False
) -> Channels:
    """The `count` channels that restore the layers `hidden` best: of each a list of (time, feature) per utterance.

    Layers weigh alike, whatever their scale. `means_only`: none that stand for changes within a group of frames.
    """
    width = hidden[0][0].shape[1]
    moments = []
    for states in hidden:
        own = covariance([_transform(y, factor, drop_last) for y in states])
        moments.append(own / own.trace())
    total = torch.stack(moments).sum(0)
    if means_only:
        total = total[:width, :width]
    return Channels(choose_channels(total, count).sort().values.to(hidden[0][0].device), width, factor, drop_last)


def choose_channels(moments: Tensor, count: int) -> Tensor:
    """(count,) indices of the channels from which a linear map restores the others best, the most telling first.

    Greedy pivoted Cholesky decomposition of `moments` (channel, channel): each choice has the most variance that the
    ones before it do not explain (Harbrecht et al. 2012).
    """
    moments, count = moments.double(), min(count, len(moments))
    factor = torch.zeros(len(moments), count).to(moments)
    unexplained = moments.diagonal().clone()
    chosen: list[int] = []
    for step in range(count):
        unexplained[chosen] = -1.0
        pivot = int(unexplained.argmax())
        chosen.append(pivot)
        if unexplained[pivot] > 0:
            column = moments[:, pivot] - factor[:, :step] @ factor[pivot, :step]
            factor[:, step] = column / unexplained[pivot].sqrt()
            unexplained = unexplained - factor[:, step].square()
    return torch.tensor(chosen)


def _transform(y: Tensor, factor: int, drop_last: bool) -> Tensor:
    """(groups, factor * feature): the mean of every `factor` frames of `y`, then their rates of change."""
    groups = _group(y, factor, drop_last)
    return torch.einsum("kf,gfc->gkc", _basis(factor).to(groups), groups).flatten(1)


def _group(y: Tensor, factor: int, drop_last: bool) -> Tensor:
    """(groups, factor, feature) of frames (time, feature)."""
    whole = y[: len(y) // factor * factor] if drop_last else torch.cat([y, y[-1:].expand(-len(y) % factor, -1)])
    return whole.unflatten(0, (-1, factor))


def _basis(factor: int) -> Tensor:
    """(factor, factor) the orthonormal cosine transform over the root of `factor`, whose first row is the mean."""
    order, place = torch.arange(factor)[:, None], torch.arange(factor)
    basis = torch.cos(math.pi / factor * (place + 0.5) * order) / factor
    basis[1:] *= math.sqrt(2)
    return basis
