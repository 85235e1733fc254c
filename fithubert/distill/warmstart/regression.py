"""Ridge regression and channel choice for students cut from a teacher."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

#: Candidate ridges, as shares of the inputs' mean variance.
RIDGES = (1e-6, 1e-4, 1e-2, 1.0, 100.0)


@dataclass(frozen=True)
class LinearMap:
    """`x @ weight.T + bias`: weight (feature out, feature in), bias (feature out,)."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """The map of `x` (..., feature in)."""
        return torch.nn.functional.linear(x, self.weight, self.bias)

    def after(self, inner: "LinearMap") -> "LinearMap":
        """The map that applies `inner` first."""
        return LinearMap(self.weight @ inner.weight, self.weight @ inner.bias + self.bias)


def fit_linear(
    inputs: Sequence[Tensor], targets: Sequence[Tensor], intercept: bool = True, prior: Tensor | None = None
) -> LinearMap:
    """The ridge regression from `inputs` to `targets`, pairs of (frame, feature), one pair per utterance.

    Centred normal equations in float64; without `intercept` the bias is 0 and nothing is centred. The ridge pulls the
    weight towards `prior` (feature out, feature in; None: 0). Its strength is chosen on every fourth utterance, since
    frames of one utterance are too alike to choose it on the fit itself.
    """
    count = sum(len(x) for x in inputs)
    mean_in, mean_out = (sum_rows(rows) / count for rows in (inputs, targets))
    if not intercept:
        mean_in, mean_out = torch.zeros_like(mean_in), torch.zeros_like(mean_out)
    centre = torch.zeros(len(mean_out), len(mean_in)).to(mean_in) if prior is None else prior.double()
    moments = [[torch.zeros(len(mean_in), n).to(mean_in) for n in (len(mean_in), len(mean_out))] for _ in range(2)]
    for number, (x, y) in enumerate(zip(inputs, targets, strict=True)):
        x, y = x.double() - mean_in, y.double() - mean_out
        square, product = moments[number % 4 == 3]
        square += x.T @ x
        product += x.T @ (y - x @ centre.T)
    (square, product), (held_square, held_product) = moments
    ridge = RIDGES[0]
    if held_square.any():
        errors = []
        for ridge in RIDGES:
            change = _solve(square, product, ridge)
            errors.append(float((change * (held_square @ change - 2 * held_product)).sum()))
        ridge = RIDGES[errors.index(min(errors))]
    weight = centre + _solve(square + held_square, product + held_product, ridge).T
    return LinearMap(weight.to(inputs[0].dtype), (mean_out - weight @ mean_in).to(inputs[0].dtype))


def _solve(square: Tensor, product: Tensor, ridge: float) -> Tensor:
    """(feature in, feature out) of the normal equations with a ridge."""
    strength = ridge * square.diagonal().mean().clamp(min=1e-12)
    return torch.linalg.solve(square + strength * torch.eye(len(square)).to(square), product)


def sum_rows(rows: Sequence[Tensor]) -> Tensor:
    """(feature,) float64, the sum over all frames."""
    return torch.stack([x.double().sum(0) for x in rows]).sum(0)


def covariance(rows: Sequence[Tensor], centre: bool = True) -> Tensor:
    """(feature, feature) float64 over all frames of `rows`; the second moment if `centre` is False."""
    count = sum(len(x) for x in rows)
    mean = sum_rows(rows) / count if centre else torch.zeros(rows[0].shape[1]).to(rows[0]).double()
    total = torch.zeros(len(mean), len(mean)).to(mean)
    for x in rows:
        centred = x - mean.to(x.dtype)
        total += (centred.T @ centred).double()
    return total / count


def square_root(moments: Tensor) -> tuple[Tensor, Tensor]:
    """The symmetric square root of a positive (feature, feature) matrix and its inverse, in float64."""
    values, vectors = torch.linalg.eigh(moments.double())
    values = values.clamp(min=max(1e-8 * float(values.max()), 1e-12))
    return vectors * values.sqrt() @ vectors.T, vectors * values.rsqrt() @ vectors.T


@dataclass(frozen=True)
class Channels:
    """The teacher's channels that the student's represent, one by one.

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
        shares = self.shares().to(weight)
        share = shares.sum(1) if place is None else shares[:, place]
        return weight[self.chosen % self.width] * share[:, None]

    def shares(self) -> Tensor:
        """(student's channel, factor): the share of each frame of a group in the student's channel."""
        return _basis(self.factor).to(self.chosen.device)[self.chosen // self.width]


def choose_for(
    hidden: Sequence[Sequence[Tensor]], count: int, factor: int = 1, drop_last: bool = False, means_only: bool = False
) -> Channels:
    """The `count` channels that restore the layers `hidden` best; each layer is one (time, feature) per utterance.

    Layers have equal weight, whatever their scale. `means_only`: no channels for changes within a group of frames.
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
    """(count,) indices of the channels from which a linear map restores the others best, the best first.

    Greedy pivoted Cholesky decomposition of `moments` (channel, channel): each choice has the most variance that the
    choices before it do not explain (Harbrecht et al. 2012).
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
