"""One update: its check before it is applied, and the moving average of the weights after it."""

import math

import pytest
import torch

from fithubert.distill.hints import HintLoss
from fithubert.distill.step import Stepper, UpdateLoss, find_problem
from fithubert.models.recipes import resolve
from fithubert.models.student import build_student
from fithubert.training import open_fabric
from tests.distill.fakes import distill_params, student_params


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


def test_the_moving_average_follows_the_weights() -> None:
    params, given = student_params(), distill_params(ema_decay=0.75)
    student = build_student(resolve(params.recipe, params.shape))
    torch.nn.init.zeros_(student.encoder_norm.weight)
    hint_loss = HintLoss(params.hints, student.config.heads.layer_map)
    stepper = Stepper(open_fabric("cpu", "32-true", False), student, hint_loss, given)
    torch.nn.init.ones_(student.encoder_norm.weight)
    stepper.apply(0.0)
    stepper.apply(0.0)
    assert stepper.weights()["encoder_norm.weight"].tolist() == pytest.approx([1 - 0.75**2] * 8)
