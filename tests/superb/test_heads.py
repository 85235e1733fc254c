"""Heads and losses against plain restatements."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from fithubert.frames import reduce_lengths
from fithubert.superb.heads import (
    BidirectionalLSTM,
    LayerSum,
    LinearHead,
    RecurrentHead,
    RecurrentShape,
    ctc_losses,
    decode_greedily,
    linear_logits,
    sum_layers,
)
from fithubert.superb.learners.verification import SpeakerHead


def plain_logits(head: LinearHead, features: Tensor) -> Tensor:
    """s3prl's order of work: softmax-weighted sum, projector, output."""
    weights = torch.ones(1) if head.layer_sum.weights is None else torch.softmax(head.layer_sum.weights, 0)
    return head.output(head.projector((weights[:, None, None] * features).sum(0)))


def make_heads(count: int, layers: int = 4, width: int = 6, outputs: int = 5) -> list[LinearHead]:
    torch.manual_seed(0)
    heads = [LinearHead(layers, width, 256, outputs) for _ in range(count)]
    for head in heads:
        if head.layer_sum.weights is not None:
            nn.init.normal_(head.layer_sum.weights)
    return heads


@pytest.mark.parametrize("layers", [1, 4])
def test_heads_side_by_side_equal_one_after_the_other_with_their_gradients(layers: int) -> None:
    heads, features = make_heads(3, layers), torch.randn(layers, 11, 6)
    target = torch.randn(11, 5)
    together = linear_logits(heads, features)
    ((together - target) ** 2).sum().backward()
    ours = [p.grad.clone() for head in heads for p in head.parameters() if p.grad is not None]
    for head in heads:
        head.zero_grad()
    alone = torch.stack([plain_logits(head, features) for head in heads])
    ((alone - target) ** 2).sum().backward()
    theirs = [p.grad for head in heads for p in head.parameters() if p.grad is not None]
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_the_layer_sum_starts_as_the_mean_and_a_single_layer_has_no_weight() -> None:
    features = torch.randn(5, 7, 3)
    torch.testing.assert_close(sum_layers([LayerSum(5)], features)[0], features.mean(0))
    assert not list(LayerSum(1).parameters())


def test_pooling_first_equals_pooling_last() -> None:
    (head,), features = make_heads(1), torch.randn(4, 9, 6)
    last = plain_logits(head, features).mean(0)
    torch.testing.assert_close(linear_logits([head], features.mean(1, keepdim=True))[0, 0], last)


@given(st.integers(0, 1000))
def test_ctc_losses_equal_one_utterance_at_a_time(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lengths, targets = rng.integers(1, 9, 3), rng.integers(1, 4, 3)
    logits = torch.from_numpy(rng.normal(size=(2, int(lengths.sum()), 4))).float()
    labels = torch.from_numpy(rng.integers(1, 4, (3, int(targets.max()))))
    ours = ctc_losses(logits, lengths, labels, torch.from_numpy(targets))
    loss = nn.CTCLoss(zero_infinity=True)
    starts = np.cumsum(lengths) - lengths
    for head in range(2):
        alone = [
            loss(
                logits[head, s : s + n].log_softmax(1)[:, None], labels[i : i + 1, : int(t)],
                torch.tensor([int(n)]), torch.tensor([int(t)]),
            )
            for i, (s, n, t) in enumerate(zip(starts, lengths, targets, strict=True))
        ]  # fmt: skip
        torch.testing.assert_close(ours[head], torch.stack(alone).mean())


@given(st.lists(st.lists(st.integers(0, 3), max_size=10), min_size=1, max_size=5))
def test_greedy_decoding_equals_the_definition(rows: list[list[int]]) -> None:
    lengths = np.array([len(row) for row in rows])
    decoded = decode_greedily(np.array([t for row in rows for t in row], dtype=np.int64), lengths)
    merged = [[t for i, t in enumerate(row) if t != 0 and (i == 0 or row[i - 1] != t)] for row in rows]
    assert [d.tolist() for d in decoded] == merged


def test_both_directions_equal_packed_sequences() -> None:
    torch.manual_seed(0)
    ours, theirs = BidirectionalLSTM(4, 3), nn.LSTM(4, 3, batch_first=True, bidirectional=True)
    for name, value in ours.ahead.named_parameters():
        getattr(theirs, name).data.copy_(value)
        getattr(theirs, name + "_reverse").data.copy_(ours.back.get_parameter(name))
    x, lengths = torch.randn(3, 9, 4), torch.tensor([5, 9, 2])
    packed = theirs(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))[0]
    expected = pad_packed_sequence(packed, batch_first=True)[0]
    for row, (mine, other) in enumerate(zip(ours(x, lengths), expected, strict=True)):
        torch.testing.assert_close(mine[: lengths[row]], other[: lengths[row]])


@pytest.mark.parametrize(("stack", "layer_norm"), [(1, False), (2, False), (2, True), (3, True)])
def test_recurrent_heads_do_not_see_padding_and_hear_every_frame(stack: int, layer_norm: bool) -> None:
    torch.manual_seed(0)
    lengths = np.array([30, 17, 25])
    summed = torch.randn(72, 6, requires_grad=True)
    head = RecurrentHead(1, 6, 5, RecurrentShape(8, stack=stack, layer_norm=layer_norm)).eval()
    batched, stacked = head(summed, lengths), -(-lengths // stack)
    assert reduce_lengths(lengths, stack).tolist() == stacked.tolist()
    assert len(batched) == stacked.sum()
    for i, row in enumerate(summed.split(lengths.tolist())):
        first = int(stacked[:i].sum())
        torch.testing.assert_close(batched[first : first + stacked[i]], head(row, lengths[i : i + 1]))
    (gradient,) = torch.autograd.grad(batched.square().sum(), summed)
    assert (gradient.abs().sum(1) > 0).all()


def test_speaker_heads_do_not_see_padding() -> None:
    torch.manual_seed(0)
    lengths = np.array([30, 17, 24])
    summed = torch.randn(71, 6)
    speaker = SpeakerHead(1, 6, 8, 12, 3).eval()
    embedded, _ = speaker.embed(summed, lengths)
    for i, row in enumerate(summed.split(lengths.tolist())):
        torch.testing.assert_close(embedded[i], speaker.embed(row, lengths[i : i + 1])[0][0])
