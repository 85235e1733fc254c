"""Convolutions of a student and the teacher's that they stand for; positions at a reduced frame rate."""

from typing import Any

import pytest
import torch
from torch import nn

from fithubert.distill.warmstart.frontend import cut_frontend, match_layers
from fithubert.distill.warmstart.layers import cut_positional
from fithubert.distill.warmstart.regression import Channels, fit_linear
from fithubert.models.encoder import PositionalConv
from fithubert.models.frontend import ConvFrontend
from tests.models.test_hubert import CONV


def build(*layers: tuple[int, int, int]) -> ConvFrontend:
    return ConvFrontend(layers, "group", bias=False)


@pytest.mark.parametrize(
    ("layers", "stands_for"),
    [
        (CONV, [[0], [1], [2], [3], [4], [5], [6]]),
        ([(8, 40, 20), (8, 7, 4), (8, 4, 4)], [[0, 1, 2], [3, 4], [5, 6]]),
        ([(8, 80, 40), (8, 1, 1), (8, 9, 8)], [[0, 1, 2, 3], [], [4, 5, 6]]),
        ([(8, 400, 320)], [[0, 1, 2, 3, 4, 5, 6]]),
    ],
)
def test_a_convolution_stands_for_the_layers_up_to_the_one_with_its_frames(
    layers: list[Any], stands_for: list[list[int]]
) -> None:
    assert [list(numbers) for numbers in match_layers(build(*layers), build(*CONV))] == stands_for


def test_merged_convolutions_predict_the_teachers_features() -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        teacher, student = build(*CONV), build((64, 80, 40), (8, 9, 8))
        t = torch.arange(32_000) / 16_000
        # Tones that come and go: what a front end can follow.
        waveforms = [
            torch.sin(6.28 * (300 * (1 + i) * t)) * torch.sin(6.28 * (1 + i) * t) + 0.01 * torch.randn(32_000)
            for i in range(8)
        ]
        before = [student(w[None], torch.tensor([len(w)]))[0][0] for w in waveforms]
        ours, theirs = cut_frontend(student, teacher, waveforms)
    spread = sum(float((y - y.mean(0)).square().sum()) for y in theirs)

    def unexplained(outputs: list[torch.Tensor]) -> float:
        fitted = fit_linear(outputs, theirs)
        return sum(float((fitted(x) - y).square().sum()) for x, y in zip(outputs, theirs, strict=True)) / spread

    assert [len(x) for x in ours] == [len(y) for y in theirs]
    assert unexplained(ours) < 0.7 * unexplained(before)


@pytest.mark.parametrize(("factor", "kernel"), [(1, 8), (2, 4), (3, 3)])
def test_positions_at_a_reduced_rate_are_the_teachers(factor: int, kernel: int) -> None:
    """Before the GELU, when the student's channels hold all that the teacher's do."""
    torch.manual_seed(0)
    teacher, student = PositionalConv(4, 8, 2), PositionalConv(4 * factor, kernel, 1)
    reach = factor * (kernel - kernel // 2 - 1) - (factor - 1) + 1  # taps after its own frame that every frame has
    with torch.no_grad():
        weight = torch.randn(4, 2, 8)
        # Not 0, because weight norm divides by the size of a tap.
        weight[:, :, 4 + max(0, reach) :] *= 1e-5
        weight[:, :, : max(0, 4 - factor * (kernel // 2) + factor - 1)] *= 1e-5
        teacher.conv.weight = weight  # type: ignore[assignment]
        nn.init.normal_(teacher.conv.bias)  # type: ignore[arg-type]
        channels = Channels(torch.arange(4 * factor), 4, factor)
        theirs = [torch.randn(60, 4) for _ in range(40)]
        ours = [channels.of(y) for y in theirs]
        cut_positional(student, teacher, channels, ours, theirs)
        for x, y in zip(ours[:3], theirs[:3], strict=True):
            wanted = channels.of(teacher.conv(y.T[None])[0].T[:60])
            torch.testing.assert_close(student.conv(x.T[None])[0].T[: len(x)], wanted, atol=2e-3, rtol=1e-3)
