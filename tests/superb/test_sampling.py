"""Which utterances a batch of a sequence task holds, and what SpecAugment does to them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fithubert.superb.bank import (
    LONG_SAMPLES,
    ShuffledBatches,
    keep_longer_halves,
    list_buckets,
    list_clamped_starts,
    list_disjoint,
    list_halved_buckets,
    list_starts,
)
from fithubert.superb.heads import augment, draw_masks, draw_warps, warp_taps


def descending_slices(count: int, batch: int) -> list[list[int]]:
    """s3prl's batches of PR by their rule: descending, from any index, the last whole batch for those near the end."""
    items = list(range(count))[::-1]
    return [items[min(count - batch, i) :][:batch] for i in range(count)]


def descending_buckets(count: int, batch: int, halve: bool) -> list[list[int]]:
    """s3prl's batches of ASR by their rule: descending, full ones cut in two, a single rest left out."""
    items = list(range(count))[::-1]
    buckets = [items[i : i + batch] for i in range(0, count, batch)]
    cut = [[b[: batch // 2], b[batch // 2 :]] if halve and len(b) == batch else [b] for b in buckets]
    return [part for parts in cut for part in parts if len(part) > (0 if halve and len(parts) == 2 else 1)]


def as_sets(windows: list[tuple[int, int]]) -> list[list[int]]:
    return sorted(list(range(first, last)) for first, last in windows)


@given(st.integers(2, 40), st.integers(2, 12))
def test_windows_are_s3prls_batches(count: int, batch: int) -> None:
    batch = min(batch, count)
    samples = np.arange(count)
    assert as_sets(list_clamped_starts(samples, batch)) == sorted(sorted(b) for b in descending_slices(count, batch))
    for listed, halve in ((list_halved_buckets, True), (list_buckets, False)):
        expected = sorted(sorted(b) for b in descending_buckets(count, batch, halve))
        assert as_sets(listed(samples, batch)) == expected
    assert sorted(i for row in as_sets(list_disjoint(samples, batch)) for i in row) == list(range(count))
    assert {last - first for first, last in list_starts(samples, batch)} == {batch}


def test_a_batch_that_begins_long_keeps_its_longer_half() -> None:
    samples = np.array([LONG_SAMPLES + 1, 1, 1, LONG_SAMPLES, 1, LONG_SAMPLES + 1, 1])
    assert keep_longer_halves(list_starts(samples, 3), samples) == [(0, 3), (1, 4), (2, 5), (5, 6), (4, 7)]
    assert keep_longer_halves(list_starts(samples, 1), samples)[0] == (0, 1)


def test_epochs_draw_every_item_once() -> None:
    order = ShuffledBatches(5, 1, seed=3)
    assert [sorted(int(order.next_batch()[0]) for _ in range(5)) for _ in range(2)] == [list(range(5))] * 2


@given(st.integers(0, 1000))
def test_warping_equals_two_interpolations(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 40, 4)
    centres, moved = draw_warps(lengths, rng)
    taps, weights = warp_taps(lengths, centres, moved)
    frames = torch.from_numpy(rng.normal(size=(int(lengths.sum()), 3)))
    ours = sum(frames[tap] * w[:, None] for tap, w in zip(taps, weights, strict=True))
    parts = []
    for row, centre, target in zip(frames.split(lengths.tolist()), centres.tolist(), moved.tolist(), strict=True):
        if len(row) <= 10:
            parts.append(row)
            continue
        for piece, size in ((row[:centre], target), (row[centre:], len(row) - target)):
            parts.append(nn.functional.interpolate(piece[None, None], (size, 3), mode="bicubic")[0, 0])
    torch.testing.assert_close(ours, torch.cat(parts))


def test_masks_are_of_the_named_number_and_width() -> None:
    rng = np.random.default_rng(0)
    masked = draw_masks(2000, 2, 40, 300, rng)
    assert masked.sum(1).max() <= 2 * 39
    assert masked.sum(1).mean() == pytest.approx(2 * 19.5, rel=0.1)
    assert draw_masks(50, 4, 50, 20, rng).shape == (50, 20)


def test_every_head_sees_the_same_distortion_and_padding_none() -> None:
    lengths = np.array([60, 30, 45])
    summed = torch.randn(1, 135, 200).expand(2, 135, 200)
    first, second = augment(summed, lengths, np.random.default_rng(1))
    torch.testing.assert_close(first, second)
    assert 0 < float((first == 0).float().mean()) < 0.9
    again = augment(summed[:1], lengths, np.random.default_rng(1))
    torch.testing.assert_close(first, again[0])
