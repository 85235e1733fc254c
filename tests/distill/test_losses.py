"""Masked losses: what they are without padding, and that padding adds nothing to them or to their gradients."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fithubert.distill.losses import cosine_loss, cross_gram_loss, gram_loss, l1_loss, mse_loss
from fithubert.frames import padding_mask

LOSSES: list[Callable[[Tensor, Tensor, Tensor], Tensor]] = [mse_loss, l1_loss, cosine_loss, gram_loss]
ALL = torch.ones(2, 5, dtype=torch.bool)


def test_without_padding_they_are_the_plain_means() -> None:
    prediction, target = torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    torch.testing.assert_close(mse_loss(prediction, target, ALL), F.mse_loss(prediction, target))
    torch.testing.assert_close(l1_loss(prediction, target, ALL), F.l1_loss(prediction, target))
    cosine = F.cosine_similarity(prediction, target, dim=-1)
    torch.testing.assert_close(cosine_loss(prediction, target, ALL), -torch.log(torch.sigmoid(cosine)).mean())


@settings(max_examples=25, deadline=None)
@given(
    loss=st.sampled_from(LOSSES),
    lengths=st.lists(st.integers(0, 7), min_size=1, max_size=4),
    rubbish=st.sampled_from([float("nan"), 1e30, -3.0]),
)
def test_padding_contributes_nothing(loss: Callable[..., Tensor], lengths: list[int], rubbish: float) -> None:
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


@pytest.mark.parametrize("loss", LOSSES)
def test_equal_frames_cost_the_least(loss: Callable[..., Tensor]) -> None:
    x = torch.randn(2, 5, 3)
    assert loss(x, x, ALL) < loss(x, x + torch.randn(2, 5, 3), ALL)


def test_gram_losses_see_relations_between_frames_whatever_the_width() -> None:
    x = torch.randn(2, 5, 6)
    rotation = torch.linalg.qr(torch.randn(6, 6)).Q
    assert gram_loss(x @ rotation, x, ALL) < 1e-10
    doubled = torch.cat([x, x], dim=2)  # twice as wide, the same products over the width
    assert gram_loss(doubled, x, ALL) < 1e-10
    assert cross_gram_loss((x, x.flip(1)), (x, x), ALL) > 0.01


def test_gram_loss_averages_over_pairs_of_valid_frames() -> None:
    x, y = torch.randn(1, 4, 3), torch.randn(1, 4, 3)
    valid = padding_mask(torch.tensor([2]), 4)
    torch.testing.assert_close(gram_loss(x, y, valid), gram_loss(x[:, :2], y[:, :2], ALL[:1, :2]))
