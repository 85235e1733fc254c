"""What SUPERB's heads are made of, several heads side by side on one batch: weighted sums, layers, CTC, SpecAugment."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from fithubert.frames import reduce_lengths
from fithubert.superb.bank import ragged_arange
from fithubert.superb.metrics import IntArray

#: The output of a CTC head that stands for no symbol.
BLANK = 0
#: The centre of an utterance moves by at most so many frames. Masks over features and frames: number, upper bound of
#: the width.
WARP_FRAMES = 5
FEATURE_MASKS, FEATURE_WIDTH = 4, 50
TIME_MASKS, TIME_WIDTH_FRAMES = 2, 40
#: PyTorch's cubic convolution.
_CUBIC = -0.75


class LayerSum(nn.Module):
    """The weighted sum of hidden states: one scalar per layer, softmax, zeros at the start (the plain mean).

    s3prl's `Featurizer` without layer norm. A single layer is used as it is, without a weight.
    """

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(layers)) if layers > 1 else None

    def shares(self) -> Tensor:
        """(layer,) the share of each layer, summing to 1."""
        return torch.ones(1) if self.weights is None else self.weights.softmax(0)


def sum_layers(sums: Sequence[LayerSum], features: Tensor) -> Tensor:
    """(head, item, width): the weighted sums of `features` (layer, item, width), all heads in one matrix product."""
    layers, items, width = features.shape
    if layers == 1:
        return features.expand(len(sums), items, width)
    shares = torch.stack([s.shares() for s in sums])
    return (shares @ features.reshape(layers, items * width)).view(len(sums), items, width)


class LinearHead(nn.Module):
    """Weighted sum, a linear projector and a linear output, with nothing between them: PR, KS, SID, ER, IC."""

    def __init__(self, layers: int, width: int, projector: int, outputs: int) -> None:
        super().__init__()
        self.layer_sum = LayerSum(layers)
        self.projector = nn.Linear(width, projector)
        self.output = nn.Linear(projector, outputs)

    def composed(self) -> tuple[Tensor, Tensor]:
        """The two linear maps as one: weight (width, outputs) and bias (outputs,), with gradients to both factors.

        The same function and gradients as both maps in sequence, at a fraction of the work per item.
        """
        weight = self.output.weight @ self.projector.weight
        return weight.T, self.output.weight @ self.projector.bias + self.output.bias


def linear_logits(heads: Sequence[LinearHead], features: Tensor) -> Tensor:
    """(head, item, output) logits of `features` (layer, item, width); an item is a frame or a pooled utterance."""
    summed = sum_layers([h.layer_sum for h in heads], features)
    weights, biases = zip(*(h.composed() for h in heads), strict=True)
    return torch.baddbmm(torch.stack(biases)[:, None], summed, torch.stack(weights))


class BidirectionalLSTM(nn.Module):
    """One bidirectional layer on padded sequences: each direction starts at an utterance's own first or last frame.

    The same as `nn.LSTM` on packed sequences, which is an order of magnitude slower to train on a CPU.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.ahead = nn.LSTM(width, hidden, batch_first=True)
        self.back = nn.LSTM(width, hidden, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(utterance, time, 2 * hidden) from x (utterance, time, width); undefined after an utterance's end."""
        steps, lengths = torch.arange(x.shape[1], device=x.device)[None], lengths.to(x.device)
        reverse = torch.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps)[:, :, None]
        back = self.back(x.gather(1, reverse.expand_as(x)))[0]
        return torch.cat([self.ahead(x)[0], back.gather(1, reverse.expand_as(back))], dim=2)


@dataclass(frozen=True)
class RecurrentShape:
    """The shape of a RecurrentHead; two layers with dropout 0.2 after each are SUPERB's.

    `stack` neighbouring frames are read as one, padded with zeros at the end, so logits have a `stack`-th of the rate.
    `layer_norm`: after the projector and after every recurrent layer.
    """

    hidden: int
    depth: int = 2
    dropout: float = 0.2
    stack: int = 1
    layer_norm: bool = False


class RecurrentHead(nn.Module):
    """Weighted sum, projector, bidirectional LSTM layers with dropout after each, linear output: ASR and SF."""

    def __init__(self, layers: int, width: int, outputs: int, shape: RecurrentShape) -> None:
        super().__init__()
        self.layer_sum = LayerSum(layers)
        self.stack = shape.stack
        self.projector = nn.Linear(shape.stack * width, shape.hidden)
        widths = [shape.hidden, *(2 * shape.hidden for _ in range(shape.depth))]
        self.recurrent = nn.ModuleList(BidirectionalLSTM(w, shape.hidden) for w in widths[:-1])
        self.norms = nn.ModuleList(nn.LayerNorm(w) if shape.layer_norm else nn.Identity() for w in widths)
        self.dropout = nn.Dropout(shape.dropout)
        self.output = nn.Linear(2 * shape.hidden, outputs)

    def forward(self, summed: Tensor, lengths: IntArray) -> Tensor:
        """(frame, output) logits of weighted sums (frame, width), utterance after utterance, of `reduce_lengths`."""
        padded = pad_frames(summed, lengths)
        padded = nn.functional.pad(padded, (0, 0, 0, -padded.shape[1] % self.stack))
        x = self.norms[0](self.projector(padded.unflatten(1, (-1, self.stack)).flatten(2)))
        stacked = reduce_lengths(lengths, self.stack)
        for layer, norm in zip(self.recurrent, self.norms[1:], strict=True):
            x = self.dropout(norm(layer(x, torch.from_numpy(stacked))))
        return self.output(unpad_frames(x, stacked))


def pad_frames(frames: Tensor, lengths: IntArray) -> Tensor:
    """(utterance, longest, width) zero-padded from (frame, width), utterance after utterance."""
    return pad_sequence(frames.split(lengths.tolist()), batch_first=True)


def unpad_frames(padded: Tensor, lengths: IntArray) -> Tensor:
    """(frame, width) from (utterance, longest, width); the inverse of `pad_frames`."""
    # Indices are computed on the CPU: a boolean mask would have to be copied back from a GPU first.
    places = ragged_arange(np.arange(len(lengths)) * padded.shape[1], lengths)
    return padded.flatten(0, 1).index_select(0, torch.from_numpy(places).to(padded.device))


def ctc_losses(logits: Tensor, lengths: IntArray, targets: Tensor, target_lengths: Tensor) -> Tensor:
    """(head,) mean CTC losses of `logits` (head, frame, output), utterance after utterance of `lengths` frames.

    `targets` (utterance, longest), of lengths `target_lengths`, which are on the CPU. PyTorch's `mean` reduction: an
    utterance's loss is divided by its target length; one with more targets than frames counts as 0 (zero_infinity).
    """
    heads, _, outputs = logits.shape
    starts = np.cumsum(lengths) - lengths
    steps = np.minimum(np.arange(int(lengths.max()))[:, None], np.maximum(lengths - 1, 0)[None])
    at = torch.from_numpy((starts[None] + steps).clip(max=logits.shape[1] - 1).ravel()).to(logits.device)
    # (time, head * utterance, output): the padding repeats an utterance's last frame and is not read.
    padded = logits.log_softmax(2)[:, at].view(heads, -1, len(lengths), outputs).permute(1, 0, 2, 3).flatten(1, 2)
    repeated = target_lengths.repeat(heads)
    losses = nn.functional.ctc_loss(
        padded,
        targets.repeat(heads, 1),
        torch.from_numpy(lengths).repeat(heads),
        repeated,
        blank=BLANK,
        reduction="none",
        zero_infinity=True,
    )
    return (losses / repeated.clamp(min=1).to(losses.device)).view(heads, -1).mean(1)


def decode_greedily(best: IntArray, lengths: IntArray) -> list[IntArray]:
    """The tokens of each utterance from the best outputs (frame,): repeats merged, then blanks dropped."""
    starts = np.cumsum(lengths) - lengths
    changes = np.empty(len(best), dtype=bool)
    changes[1:] = best[1:] != best[:-1]
    changes[starts[starts < len(best)]] = True
    kept = changes & (best != BLANK)
    owners = np.repeat(np.arange(len(lengths)), lengths)[kept]
    return np.split(best[kept], np.searchsorted(owners, np.arange(1, len(lengths))))


def augment(summed: Tensor, lengths: IntArray, generator: np.random.Generator) -> Tensor:
    """(head, frame, width) the weighted sums of utterances of `lengths` frames: warped in time, then masked with zeros.

    As s3prl applies it in ASR and SF: on the weighted sum of hidden states, in training. All heads share the draws.
    Non-adaptive; positions are drawn such that the widest mask of the batch fits.
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
    """(utterance,) a frame of each and its new position; utterances of at most 2 WARP_FRAMES are not changed."""
    able = lengths > 2 * WARP_FRAMES
    high = np.where(able, lengths - WARP_FRAMES, WARP_FRAMES + 1)
    centres = generator.integers(WARP_FRAMES, high)
    moved = centres + generator.integers(-WARP_FRAMES, WARP_FRAMES, len(lengths)) + 1
    return np.where(able, centres, lengths), np.where(able, moved, lengths)


def warp_taps(lengths: IntArray, centres: IntArray, moved: IntArray) -> tuple[Tensor, Tensor]:
    """(4, frame) the source frames of each warped frame, and their weights.

    The frames before the centre and the frames from the centre on are resized separately to their new lengths, by
    bicubic interpolation without aligned corners.
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
    """(item, size) booleans: `masks` spans of each item, each narrower than `below`."""
    widths = generator.integers(0, below, (items, masks, 1))
    starts = generator.integers(0, max(1, size - int(widths.max())), (items, masks, 1))
    places = np.arange(size)
    inside: np.ndarray = (starts <= places) & (places < starts + widths)
    return np.logical_or.reduce(inside, axis=1)


def _cubic(distance: np.ndarray) -> np.ndarray:
    """The weight of a sample at a distance between 0 and 2."""
    near = ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance**2 + 1
    far = ((_CUBIC * distance - 5 * _CUBIC) * distance + 8 * _CUBIC) * distance - 4 * _CUBIC
    return np.where(distance <= 1, near, far)


def append_zero_frames(features: Tensor, lengths: IntArray, wanted: IntArray) -> tuple[Tensor, IntArray]:
    """A batch (layer, frame, width) and its (utterance,) lengths, with zero frames behind for `wanted` frames each.

    None has more than the longest. Source: s3prl's Featurizer cuts a padded batch at round(samples / stride) frames.
    """
    longer = np.clip(wanted, lengths, lengths.max())
    extended = features.new_zeros(features.shape[0], int(longer.sum()), features.shape[2])
    extended[:, torch.from_numpy(ragged_arange(np.cumsum(longer) - longer, lengths))] = features
    return extended, longer
