"""SpecAugment as s3prl applies it in ASR and SF: on the weighted sum of hidden states, in training."""

import numpy as np
import torch
from torch import Tensor

from fithubert.superb.metrics import IntArray

#: Frames that the centre of an utterance moves by at most; masks over features and frames: how many, below which width.
WARP_FRAMES = 5
FEATURE_MASKS, FEATURE_WIDTH = 4, 50
TIME_MASKS, TIME_WIDTH_FRAMES = 2, 40
#: PyTorch's cubic convolution.
_CUBIC = -0.75


def augment(summed: Tensor, lengths: IntArray, generator: np.random.Generator) -> Tensor:
    """(head, frame, width) the weighted sums of utterances of `lengths` frames: warped in time, then masked with zeros.

    Every head sees the same draws. Non-adaptive, mask positions as s3prl draws them: such that the widest mask of the
    batch fits.
    """
    taps, weights = warp_taps(lengths, *draw_warps(lengths, generator))
    pairs = zip(taps.to(summed.device), weights.to(summed), strict=True)
    warped = torch.stack([summed[:, tap] * w[:, None] for tap, w in pairs]).sum(0)
    features = draw_masks(len(lengths), FEATURE_MASKS, FEATURE_WIDTH, summed.shape[2], generator)
    frames = draw_masks(len(lengths), TIME_MASKS, TIME_WIDTH_FRAMES, int(lengths.max()), generator)
    owners = np.repeat(np.arange(len(lengths)), lengths)
    places = np.arange(len(owners)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    silent = features[owners] | frames[owners, places][:, None]
    return warped.masked_fill(torch.from_numpy(silent).to(summed.device), 0.0)


def draw_warps(lengths: IntArray, generator: np.random.Generator) -> tuple[IntArray, IntArray]:
    """(utterance,) a frame of each and where it moves to; utterances of at most 2 WARP_FRAMES stay as they are."""
    able = lengths > 2 * WARP_FRAMES
    high = np.where(able, lengths - WARP_FRAMES, WARP_FRAMES + 1)
    centres = generator.integers(WARP_FRAMES, high)
    moved = centres + generator.integers(-WARP_FRAMES, WARP_FRAMES, len(lengths)) + 1
    return np.where(able, centres, lengths), np.where(able, moved, lengths)


def warp_taps(lengths: IntArray, centres: IntArray, moved: IntArray) -> tuple[Tensor, Tensor]:
    """(4, frame) which frames each warped frame is made of, and their weights.

    What lies before the centre and what lies from it on are resized by bicubic interpolation without aligned corners,
    each to its new length.
    """
    places = np.concatenate([np.arange(n) for n in lengths])
    length, centre, target = (np.repeat(x, lengths) for x in (lengths, centres, moved))
    right = places >= target
    first, sources = np.where(right, centre, 0), np.where(right, length - centre, centre)
    position, sizes = np.where(right, places - target, places), np.where(right, length - target, target)
    source = (position + 0.5) * sources / np.maximum(sizes, 1) - 0.5
    below = np.floor(source).astype(np.int64)
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths) + first
    taps = np.stack([starts + np.clip(below + k, 0, sources - 1) for k in (-1, 0, 1, 2)])
    share = source - below
    weights = np.stack([_cubic(np.abs(share - k)) for k in (-1, 0, 1, 2)])
    return torch.from_numpy(taps), torch.from_numpy(weights)


def draw_masks(items: int, masks: int, below: int, size: int, generator: np.random.Generator) -> np.ndarray:
    """(item, size) booleans: `masks` stretches of each item, of a width under `below`."""
    widths = generator.integers(0, below, (items, masks, 1))
    starts = generator.integers(0, max(1, size - int(widths.max())), (items, masks, 1))
    places = np.arange(size)
    inside: np.ndarray = (starts <= places) & (places < starts + widths)
    return np.logical_or.reduce(inside, axis=1)


def _cubic(distance: np.ndarray) -> np.ndarray:
    """The weight of a sample at a distance of 0 to 2."""
    near = ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance**2 + 1
    far = ((_CUBIC * distance - 5 * _CUBIC) * distance + 8 * _CUBIC) * distance - 4 * _CUBIC
    return np.where(distance <= 1, near, far)
