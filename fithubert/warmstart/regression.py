"""Linear maps fitted by least squares, and moments of frames."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

#: Ridges that are tried, as shares of the inputs' mean variance.
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
    weight towards `prior` (feature out, feature in; None: 0); how hard is chosen on every fourth utterance: frames of
    one utterance say too much alike for the fit itself to tell.
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
    """(feature, feature) float64 over all frames of `rows`; the second moment where `centre` is False."""
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
