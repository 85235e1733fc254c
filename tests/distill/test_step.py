"""The check of an update before it is applied."""

import math

import pytest

from fithubert.distill.step import UpdateLoss, find_problem
from tests.distill.fakes import distill_params


@pytest.mark.parametrize(
    ("loss", "norm", "precision", "expected"),
    [
        (1.0, 2.0, "32-true", None),
        (math.nan, 2.0, "16-mixed", "the loss is nan"),
        (1.0, math.inf, "32-true", "the norm of the gradient is inf"),
        (1.0, math.inf, "16-mixed", None),
        (1.0, None, "16-mixed", None),
        (500.0, 1.0, "32-true", "the loss is 500, more than 100 times the first"),
    ],
)
def test_the_guard(loss: float, norm: float | None, precision: str, expected: str | None) -> None:
    assert find_problem(UpdateLoss(loss, {}, (), norm), distill_params(precision=precision), 2.0) == expected
