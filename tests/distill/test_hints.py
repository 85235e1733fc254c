"""The hint loss: its terms, published rules against recorded numbers, weights, random heads, shapes."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fithubert.config.base import validate
from fithubert.config.hints import HintParams
from fithubert.distill.hints import HintLoss, HintLosses
from fithubert.distill.losses import LOSSES, cosine_loss, cross_gram_loss, gram_loss, l1_loss, mse_loss
from fithubert.errors import UserError
from fithubert.frames import padding_mask
from tests.models.reference import LOSSES as RECORDED
from tests.models.reference import arrays, folder, needs_reference

IDENTITY = tuple((layer, layer) for layer in range(1, 13))
#: Case -> (hint parameters, layers from 0 that are used; None: those of the case's `hint_order` and the last).
CASES: dict[str, tuple[dict[str, Any], tuple[int, ...] | None]] = {
    "published_mse": ({}, None),
    "published_mse_odd_teacher": ({}, None),
    "published_l1": ({"losses": {"l1": 1.0}}, None),
    "hints_5_of_11_mse": ({}, None),
    "last_only_mse": ({}, (11,)),
    "layers_mse": ({"hint_weight": 1.0, "average_heads": True}, (3, 7, 11)),
    "layers_l1": ({"losses": {"l1": 1.0}, "hint_weight": 1.0, "average_heads": True}, (3, 7, 11)),
    "layers_l1_cosine": (
        {"losses": {"l1": 1.0, "cosine": 1.0}, "hint_weight": 1.0, "average_heads": True},
        (3, 7, 11),
    ),
    "layers_mse_cosine_odd_teacher": (
        {"losses": {"mse": 1.0, "cosine": 1.0}, "hint_weight": 1.0, "average_heads": True},
        (3, 7, 11),
    ),
    "layers_weighted_rec2_l1_sim05": (
        {"losses": {"l1": 2.0, "cosine": 0.5}, "hint_weight": 1.0, "average_heads": True},
        (3, 7, 11),
    ),
    "heads_l1_cosine": (
        {"losses": {"l1": 1.0, "cosine": 1.0}, "hint_weight": 1.0, "average_heads": True},
        (3, 7, 11),
    ),
}


@needs_reference
@pytest.mark.parametrize("case", CASES)
def test_recorded_losses_and_gradients(case: str) -> None:
    recorded = arrays("loss.npz")
    described = json.loads(folder("loss.json").read_text())["cases"][case]
    params, layers = CASES[case]
    if layers is None:
        layers = (*sorted(described["rand_l"]), 11)
    projections = recorded["student_projections"].clone().requires_grad_()
    teacher = recorded["teacher_hidden_odd" if "odd" in described["teacher"] else "teacher_hidden_even"]
    loss = HintLoss(HintParams(**params), IDENTITY)
    losses = loss(
        [projections[layer] for layer in layers],
        torch.tensor([16, 16]),
        {layer + 1: hidden for layer, hidden in enumerate(teacher)},
        heads=layers,
    )
    torch.testing.assert_close(losses.total, recorded[f"{case}.total"].reshape(()), **RECORDED)
    losses.total.backward()
    torch.testing.assert_close(projections.grad, recorded[f"{case}.grad_projections"], **RECORDED)


@needs_reference
@pytest.mark.parametrize("name", ["distilhubert_tiny", "distilhubert_variants/one_head_same_width"])
@pytest.mark.parametrize(
    ("case", "terms"),
    [
        ("published_l1_cosine1", {"l1": 1.0, "cosine": 1.0}),
        ("l1", {"l1": 1.0}),
        ("l2", {"mse": 1.0}),
        ("l2_cosine05", {"mse": 1.0, "cosine": 0.5}),
    ],
)
def test_recorded_distilhubert_losses(name: str, case: str, terms: dict[str, float]) -> None:
    io, recorded = arrays(name, "io.npz"), arrays(name, "loss.npz")
    prediction = io["batch.pred"].clone().requires_grad_()
    heads = prediction.shape[1]
    params = validate(HintParams, {"losses": terms, "hint_weight": 1.0, "average_heads": True}, "test")
    loss = HintLoss(params, [(2, layer + 1) for layer in range(heads)])
    losses = loss(
        prediction.unbind(1),
        torch.full((2,), prediction.shape[2]),  # s3prl averages over padding as well
        {layer + 1: hidden for layer, hidden in enumerate(recorded["teacher_hidden"].unbind(1))},
    )
    torch.testing.assert_close(losses.total, recorded[f"{case}.total"].reshape(()), **RECORDED)
    losses.total.backward()
    torch.testing.assert_close(prediction.grad, recorded[f"{case}.grad_pred"], **RECORDED)


def three_heads(**params: Any) -> tuple[HintLoss, list[Tensor], dict[int, Tensor]]:
    torch.manual_seed(0)
    loss = HintLoss(validate(HintParams, params, "test"), ((1, 1), (2, 2), (3, 3)))
    return loss, [torch.randn(2, 6, 4) for _ in range(3)], {layer: torch.randn(2, 6, 4) for layer in (1, 2, 3)}


def run(loss: HintLoss, projections: list[Tensor], targets: dict[int, Tensor], *lengths: int) -> HintLosses:
    return loss(projections, torch.tensor(lengths), targets)


def test_the_last_head_counts_fully_and_the_others_a_tenth() -> None:
    losses = run(*three_heads(), 6, 4)
    one, two, last = losses.heads.values()
    torch.testing.assert_close(losses.total, last + 0.1 * (one + two))
    assert list(losses.heads) == [(1, 1), (2, 2), (3, 3)]


def test_padding_contributes_nothing() -> None:
    loss, projections, targets = three_heads(losses={"mse": 1.0, "cosine": 0.3, "intra_gram": 1.0})
    value = run(loss, projections, targets, 6, 4).total
    for x in [*projections, *targets.values()]:
        x[1, 4:] = 1e6
    torch.testing.assert_close(run(loss, projections, targets, 6, 4).total, value)


def test_targets_may_be_longer_and_not_shorter() -> None:
    loss, projections, targets = three_heads()
    longer = {layer: torch.cat([x, torch.ones(2, 1, 4)], dim=1) for layer, x in targets.items()}
    torch.testing.assert_close(run(loss, projections, longer, 6, 6).total, run(loss, projections, targets, 6, 6).total)
    with pytest.raises(ValueError, match="teacher layer 1 has 5 frames, not 6"):
        run(loss, projections, {layer: x[:, :5] for layer, x in targets.items()}, 6, 6)


def test_framewise_losses_refuse_another_width() -> None:
    loss, projections, targets = three_heads(losses={"gram": 1.0, "l1": 1.0})
    with pytest.raises(UserError, match=r"l1 compares layer 1, 4 wide, with the teacher's 3; set heads\.teacher_width"):
        run(loss, projections, {layer: x[:, :, :3] for layer, x in targets.items()}, 6, 6)
    loss, projections, targets = three_heads(losses={"gram": 1.0, "intra_gram": 1.0})
    assert run(loss, projections, {layer: x[:, :, :3] for layer, x in targets.items()}, 6, 6).total > 0


def test_random_heads_change_with_the_epoch_and_with_nothing_else() -> None:
    loss = HintLoss(HintParams(random_hints=4), IDENTITY)
    drawn = [loss.choose_heads(seed=1, epoch=epoch, share=epoch / 20) for epoch in range(20)]
    assert drawn == [loss.choose_heads(seed=1, epoch=epoch, share=0.0) for epoch in range(20)]
    assert len(set(drawn)) > 15
    assert all(len(set(heads)) == 5 and heads[-1] == 11 and list(heads) == sorted(heads) for heads in drawn)
    assert set().union(*drawn) == set(range(12))
    assert HintLoss(HintParams(random_hints=11), IDENTITY).choose_heads(1, 0, 0.0) == tuple(range(12))


def test_heads_join_from_the_bottom_up() -> None:
    loss = HintLoss(HintParams(bottom_up_share=0.5), IDENTITY)
    chosen = [loss.choose_heads(1, 0, update / 240) for update in range(240)]
    assert [len(heads) for heads in chosen] == [min(12, 1 + update // 10) for update in range(240)]
    assert all(heads == tuple(range(len(heads))) for heads in chosen)


def test_the_highest_head_so_far_has_the_last_ones_weight() -> None:
    loss, projections, targets = three_heads(last_weight=1.0, hint_weight=0.1)
    lengths = torch.full((2,), 6)
    both = loss(projections[:2], lengths, targets, [0, 1])
    first, second = both.heads.values()
    torch.testing.assert_close(both.total, 0.1 * first + second)


def test_params_offer_every_term() -> None:
    (terms, _) = HintParams.model_fields["losses"].annotation.__args__  # type: ignore[union-attr]
    assert set(terms.__args__) == {*LOSSES, "intra_gram"}


def test_params_that_make_no_sense_are_refused() -> None:
    for params, words in (
        ({"losses": {}}, "at least one term"),
        ({"losses": {"mse": -1.0}}, "no negative weight"),
        ({"losses": {"intra_gram": 1.0}, "random_hints": 2}, "neighbouring heads"),
        ({"bottom_up_share": 0.5, "random_hints": 2}, "cannot be combined with random_hints"),
    ):
        with pytest.raises(UserError, match=words):
            validate(HintParams, params, "params.yaml")


TERMS = list(LOSSES.values())
ALL = torch.ones(2, 5, dtype=torch.bool)


def test_without_padding_they_are_the_plain_means() -> None:
    prediction, target = torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    torch.testing.assert_close(mse_loss(prediction, target, ALL), F.mse_loss(prediction, target))
    torch.testing.assert_close(l1_loss(prediction, target, ALL), F.l1_loss(prediction, target))
    cosine = F.cosine_similarity(prediction, target, dim=-1)
    torch.testing.assert_close(cosine_loss(prediction, target, ALL), -torch.log(torch.sigmoid(cosine)).mean())


@settings(max_examples=25, deadline=None)
@given(
    loss=st.sampled_from(TERMS),
    lengths=st.lists(st.integers(0, 7), min_size=1, max_size=4),
    rubbish=st.sampled_from([float("nan"), 1e30, -3.0]),
)
def test_padding_adds_nothing_to_a_term_or_its_gradient(
    loss: Callable[..., Tensor], lengths: list[int], rubbish: float
) -> None:
    generator = torch.Generator().manual_seed(len(lengths))
    prediction, target = (torch.randn(len(lengths), 7, 4, generator=generator) for _ in range(2))
    valid = padding_mask(torch.tensor(lengths), 7)
    prediction.requires_grad_()
    value = loss(prediction, target, valid)
    value.backward()
    assert value.isfinite()
    assert prediction.grad is not None
    assert not prediction.grad[~valid].any()
    other = torch.where(valid[:, :, None], target, rubbish)
    torch.testing.assert_close(loss(prediction, other, valid), value, equal_nan=False)
    if lengths[0]:
        cut = (x[:1, : lengths[0]] for x in (prediction, target, valid))
        torch.testing.assert_close(loss(*cut), loss(prediction[:1], target[:1], valid[:1]))


@pytest.mark.parametrize("loss", TERMS)
def test_equal_frames_cost_the_least(loss: Callable[..., Tensor]) -> None:
    x = torch.randn(2, 5, 3)
    assert loss(x, x, ALL) < loss(x, x + torch.randn(2, 5, 3), ALL)


def test_gram_losses_see_relations_between_frames_whatever_the_width() -> None:
    x = torch.randn(2, 5, 6)
    rotation = torch.linalg.qr(torch.randn(6, 6)).Q
    assert gram_loss(x @ rotation, x, ALL) < 1e-10
    doubled = torch.cat([x, x], dim=2)  # twice as wide, the same products over the width
    assert gram_loss(doubled, x, ALL) < 1e-10
    assert cross_gram_loss((x, x.flip(1)), (x, x), (ALL, ALL)) > 0.01
