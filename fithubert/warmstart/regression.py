"""Linear maps fitted by least squares, and the choice of channels that stand for all."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

#: Added to the inputs' covariance, as a share of their mean variance: keeps near-copies among inputs harmless.
RIDGE = 1e-5


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


def fit_linear(inputs: Sequence[Tensor], targets: Sequence[Tensor], intercept: bool = True) -> LinearMap:
    """The ridge regression from `inputs` to `targets`, pairs of (frame, feature) with equal frames.

    The centred normal equations in float64. Without `intercept` the bias is 0 and nothing is centred.
    """
    width_in = inputs[0].shape[1]
    count = sum(len(x) for x in inputs)
    mean_in, mean_out = (sum_rows(rows) / count for rows in (inputs, targets))
    if not intercept:
        mean_in, mean_out = torch.zeros_like(mean_in), torch.zeros_like(mean_out)
    square, product = 0.0, 0.0
    for x, y in zip(inputs, targets, strict=True):
        centred = x - mean_in.to(x.dtype)
        square = square + (centred.T @ centred).double()
        product = product + (centred.T @ (y - mean_out.to(y.dtype))).double()
    ridge = RIDGE * square.diagonal().mean().clamp(min=1e-12)  # type: ignore[attr-defined]
    solved = torch.linalg.solve(square + ridge * torch.eye(width_in).to(square), product)
    weight = solved.T
    return LinearMap(weight.to(inputs[0].dtype), (mean_out - weight @ mean_in).to(inputs[0].dtype))


def sum_rows(rows: Sequence[Tensor]) -> Tensor:
    """(feature,) float64, the sum over all frames."""
    return torch.stack([x.double().sum(0) for x in rows]).sum(0)


def covariance(rows: Sequence[Tensor], centre: bool = True) -> Tensor:
    """(feature, feature) float64 over all frames of `rows`; the second moment where `centre` is False."""
    count = sum(len(x) for x in rows)
    mean = sum_rows(rows) / count if centre else torch.zeros(rows[0].shape[1]).to(rows[0]).double()
    total = torch.zeros(len(mean), len(mean)).to(mean)
    for x in rows:
        centred = x - mean.to(x.dtype)
        total += (centred.T @ centred).double()
    return total / count


def choose_channels(moments: Tensor, count: int) -> Tensor:
    """(count,) indices of the channels from which a linear map restores the others best, the most telling first.

    Greedy pivoted Cholesky decomposition of `moments` (channel, channel): each choice has the most variance that the
    ones before it do not explain (Harbrecht et al. 2012).
    """
    rest, chosen = moments.double().clone(), []
    for _ in range(min(count, len(moments))):
        variance = rest.diagonal().clone()
        variance[chosen] = -1.0
        pivot = int(variance.argmax())
        chosen.append(pivot)
        if variance[pivot] > 0:
            column = rest[:, pivot] / variance[pivot].sqrt()
            rest -= torch.outer(column, column)
    return torch.tensor(chosen)


def square_root(moments: Tensor) -> tuple[Tensor, Tensor]:
    """The symmetric square root of a positive (feature, feature) matrix and its inverse, in float64."""
    values, vectors = torch.linalg.eigh(moments.double())
    values = values.clamp(min=max(1e-8 * float(values.max()), 1e-12))
    return vectors * values.sqrt() @ vectors.T, vectors * values.rsqrt() @ vectors.T
