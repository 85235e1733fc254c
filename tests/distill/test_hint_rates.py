"""Hints that do not depend on the teacher's scale, and Gram hints at the rate of a time-reduced student."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fithubert.config.base import validate
from fithubert.config.hints import HintParams
from fithubert.config.params import DistillParams
from fithubert.config.students import StudentParams
from fithubert.distill.hints import HintLoss
from fithubert.errors import UserError
from fithubert.files import read_json
from fithubert.models.frontend import repeat_frames
from fithubert.models.recipes import resolve
from tests.distill.fakes import Recorder, StopAt, distill_params, reshaped, student_params, train
from tests.kills import Stop

TERMS = ("mse", "l1", "cosine", "gram", "intra_gram")
THREE = ((0, 0), (1, 1), (2, 2))


def loss_of(repeats: Sequence[int] = (1, 1, 1), **params: Any) -> HintLoss:
    return HintLoss(validate(HintParams, {"hint_weight": 1.0, **params}, "test"), THREE, repeats)


def utterances(layers: Sequence[Tensor], lengths: Tensor) -> list[dict[int, Tensor]]:
    """The valid frames of each utterance of `layers` (batch, time, feature), as the start of a training reads them."""
    return [{n: layer[row, :end] for n, layer in enumerate(layers)} for row, end in enumerate(lengths.tolist()) if end]


@settings(max_examples=30, deadline=None)
@given(
    terms=st.sets(st.sampled_from(TERMS), min_size=1),
    exponents=st.tuples(*[st.floats(-2, 2)] * 3),
    common=st.floats(-2, 2),
    factor=st.integers(1, 3),
    error=st.floats(0.01, 3.0),
    centred=st.booleans(),
)
def test_equal_relative_errors_cost_the_same_at_any_scale(
    terms: set[str], exponents: tuple[float, ...], common: float, factor: int, error: float, centred: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(2, 7, 4, generator=generator, dtype=torch.float64) + 0.5
    student = teacher + error * repeat_frames(torch.randn(2, 3, 4, generator=generator), 3, 7)
    lengths = torch.tensor([7, 5])

    def run(scales: Sequence[float]) -> tuple[Tensor, list[Tensor]]:
        loss = loss_of([factor] * 3, losses=dict.fromkeys(terms, 1.0), normalise=True, gram_centred=centred)
        targets = [scale * teacher for scale in scales]
        loss.scales = loss.measure_scales(utterances(targets, lengths))
        losses = loss([scale * student for scale in scales], lengths, dict(enumerate(targets)))
        return losses.total, list(losses.heads.values())

    scales = [10**exponent for exponent in exponents]
    total, heads = run(scales)
    if "intra_gram" not in terms:
        torch.testing.assert_close(heads[0], heads[1])
    torch.testing.assert_close(heads[1], heads[2])
    torch.testing.assert_close(run([10**common * scale for scale in scales])[0], total)


def test_a_student_without_information_costs_one() -> None:
    layers = [scale * torch.randn(3, 20, 4) for scale in (0.02, 1.0, 50.0)]
    lengths = torch.tensor([20, 20, 20])
    for term in ("gram", "mse"):
        loss = loss_of(losses={term: 1.0}, normalise=True)
        loss.scales = loss.measure_scales(utterances(layers, lengths))
        constant = [torch.zeros_like(x) if term == "gram" else x.mean((0, 1)).expand_as(x) for x in layers]
        losses = loss(constant, lengths, dict(enumerate(layers)))
        assert [float(value) for value in losses.heads.values()] == pytest.approx([1.0] * 3, rel=1e-4)


def test_normalised_gram_losses_have_gradients_above_adamws_epsilon() -> None:
    """At the scale of HuBERT's features plain ones are below it, and AdamW's steps shrink with them."""
    generator = torch.Generator().manual_seed(0)
    teacher = [0.02 * torch.randn(1, 100, 64, generator=generator) for _ in THREE]
    epsilon, lengths, sizes = DistillParams().epsilon, torch.tensor([100]), []
    for normalise in (False, True):
        loss = loss_of(losses={"gram": 1.0}, normalise=normalise)
        if normalise:
            loss.scales = loss.measure_scales(utterances(teacher, lengths))
        student = [(0.5 * layer).requires_grad_() for layer in teacher]
        loss(student, lengths, dict(enumerate(teacher))).total.backward()
        sizes.append(float(torch.stack([layer.grad for layer in student if layer.grad is not None]).abs().mean()))
    assert sizes[0] < epsilon / 10
    assert sizes[1] > 10 * epsilon


def test_a_layer_without_a_scale_is_refused() -> None:
    layers = [torch.randn(1, 6, 4), torch.ones(1, 6, 4), torch.zeros(1, 6, 4)]
    read = utterances(layers, torch.tensor([6]))
    for term, layer in (("gram", 2), ("l1", 1)):
        with pytest.raises(UserError, match=rf"teacher layer {layer} is constant, so that {term} has no scale"):
            loss_of(losses={term: 1.0}, normalise=True).measure_scales(read)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=3).filter(any),
    factor=st.integers(2, 4),
    reduced=st.integers(0, 2),
    terms=st.sets(st.sampled_from(("gram", "intra_gram")), min_size=1),
    centred=st.booleans(),
)
def test_a_gram_at_the_students_rate_has_the_gradient_of_repeated_frames(
    lengths: list[int], factor: int, reduced: int, terms: set[str], centred: bool
) -> None:
    """Layers from `reduced` on have a lower rate.

    The values differ by the variance of the teacher's products within blocks: the mean squared product of two frames
    less that of two averages.
    """
    # Centred, a single frame is nothing.
    assume(not centred or max(lengths) > factor)
    count, frames = len(lengths), max(lengths)
    factors = [factor if layer >= reduced else 1 for layer in range(3)]
    targets = [torch.randn(count, frames, 5, dtype=torch.float64) for _ in factors]
    states = [torch.randn(count, -(-frames // n), 3, dtype=torch.float64, requires_grad=True) for n in factors]
    values, gradients, scales = [], [], []
    for repeats in (factors, [1] * 3):
        loss = loss_of(repeats, losses=dict.fromkeys(terms, 1.0), gram_centred=centred)
        projections = [repeat_frames(x, n, frames) for x, n in zip(states, factors, strict=True)]
        values.append(loss(projections, torch.tensor(lengths), dict(enumerate(targets))).total)
        gradients.append(torch.autograd.grad(values[-1], states))
        measured = loss.measure_scales(utterances(targets, torch.tensor(lengths)))
        scales.append(sum(scale for (term, _), scale in measured.items() if term in terms))
    for own, repeated in zip(*gradients, strict=True):
        torch.testing.assert_close(own, repeated)
    assert (values[1] - values[0]).item() == pytest.approx(scales[1] - scales[0], abs=1e-9)


def test_a_centred_gram_does_not_see_what_an_utterance_has_in_common() -> None:
    lengths, generator = torch.tensor([9, 6]), torch.Generator().manual_seed(0)
    targets, states = ([torch.randn(2, 9, 4, generator=generator) for _ in range(3)] for _ in range(2))
    terms = {"gram": 1.0, "intra_gram": 1.0}
    for centred in (True, False):
        loss = loss_of([2] * 3, losses=terms, gram_centred=centred)
        value = loss(states, lengths, dict(enumerate(targets))).total
        moved = [[x + torch.randn(2, 1, 4, generator=generator) for x in layers] for layers in (states, targets)]
        other = loss(moved[0], lengths, dict(enumerate(moved[1]))).total
        assert torch.isclose(value, other, rtol=1e-4) == centred
    # Against products of frames that are centred here.
    rows = [[x[row, :end] - x[row, :end].mean(0) for row, end in enumerate((9, 6))] for x in (states[0], targets[0])]
    squares = [(own @ own.T / 4 - other @ other.T / 4).square() for own, other in zip(*rows, strict=True)]
    expected = sum(x.sum() for x in squares) / sum(x.numel() for x in squares)
    loss = HintLoss(HintParams(losses={"gram": 1.0}, gram_centred=True), ((0, 0),))
    torch.testing.assert_close(loss(states[:1], lengths, {0: targets[0]}).total, expected)


def test_gram_of_layers_is_the_gram_without_heads_beside_the_losses_of_the_heads() -> None:
    """At the rate of the layers, of any width: two of three are reduced by 2."""
    lengths, factors = torch.tensor([9, 6]), (1, 2, 2)
    targets = {layer: torch.randn(2, 9, 4) for layer in range(3)}
    predictions = [torch.randn(2, 9, 4) for _ in factors]
    states = [torch.randn(2, -(-9 // factor), 7) for factor in factors]
    repeated = [repeat_frames(x, factor, 9) for x, factor in zip(states, factors, strict=True)]
    gram = {"gram": 0.5, "intra_gram": 0.25}
    heads = loss_of(losses={"mse": 1.0})(predictions, lengths, targets).total
    layers = loss_of(factors, losses=gram)(repeated, lengths, targets).total
    both = loss_of(factors, losses={"mse": 1.0, **gram}, gram_of="layers")
    torch.testing.assert_close(both(predictions, lengths, targets, states=states).total, heads + layers)
    with pytest.raises(UserError, match="gram_of: layers leaves the heads untrained"):
        loss_of(losses=gram, gram_of="layers")


@pytest.mark.parametrize(
    ("heads", "repeats"),
    [
        ({"kind": "none", "layer_map": [[0, 0], [1, 1], [2, 2]]}, (1, 1, 2)),
        ({"upsampling": "repeat"}, (1, 2)),
        ({"upsampling": "transposed_conv"}, (1, 1)),
    ],
)
def test_a_student_names_the_heads_with_repeated_frames(heads: dict[str, Any], repeats: tuple[int, ...]) -> None:
    config = resolve("fithubert", {"depth": 2, "time_reduction": {"before_layer": 1}, "heads": heads})
    assert config.repeats == repeats


def relations(**hints: Any) -> StudentParams:
    """A tiny student of Gram hints with time reduction and without heads."""
    heads = {"kind": "none", "layer_map": [[0, 0], [1, 1], [2, 3]]}
    params = student_params(0.0, losses={"gram": 1.0, "intra_gram": 1.0}, hint_weight=1.0, **hints)
    return reshaped(params, heads=heads, readout="layers")


def test_scales_are_the_same_for_any_parts_and_after_a_resume(tmp_path: Path) -> None:
    params, recorders = relations(normalise=True), {parts: Recorder() for parts in (1, 2)}
    for parts, recorder in recorders.items():
        train(tmp_path / str(parts), distill_params(accumulate=parts), student_params=params, listeners=[recorder])
    first, second = (recorder.evaluations[0].dev_loss for recorder in recorders.values())
    assert first == second
    with pytest.raises(Stop):
        train(tmp_path / "stopped", student_params=params, listeners=[StopAt(7)])
    with pytest.raises(UserError, match=r"hints.normalise True there, False now"):
        train(tmp_path / "stopped", student_params=relations())
    train(tmp_path / "stopped", student_params=params)
    one, other = (tmp_path / name / "model.safetensors" for name in ("1", "stopped"))
    assert one.read_bytes() == other.read_bytes()
    assert read_json(tmp_path / "1" / "config.json")["record"]["hints"]["normalise"] is True
