"""SUPERB's heads on frozen hidden states, several of them side by side on one batch, and CTC."""

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


class DiarisationHead(nn.Module):
    """Weighted sum, one LSTM (SUPERB's is unidirectional) and one output per speaker: SD."""

    def __init__(self, layers: int, width: int, hidden: int, speakers: int, both_ways: bool = False) -> None:
        super().__init__()
        self.layer_sum = LayerSum(layers)
        self.recurrent = BidirectionalLSTM(width, hidden) if both_ways else nn.LSTM(width, hidden, batch_first=True)
        self.output = nn.Linear(2 * hidden if both_ways else hidden, speakers)

    def forward(self, summed: Tensor, lengths: IntArray) -> Tensor:
        """(frame, speaker) logits of weighted sums (frame, width); padding after the end is never read."""
        x = pad_frames(summed, lengths)
        if isinstance(self.recurrent, BidirectionalLSTM):
            return self.output(unpad_frames(self.recurrent(x, torch.from_numpy(lengths)), lengths))
        return self.output(unpad_frames(self.recurrent(x)[0], lengths))


class SpeakerHead(nn.Module):
    """Weighted sum, projector, x-vector network with statistics pooling, additive-margin softmax: ASV.

    SUPERB's `width` is 512, its `pooled` 1500. Pooling covers exactly the valid frames; in training `extra_frames`
    more, up to the length of the longest utterance of the batch (s3prl: one more).
    """

    #: (context in frames, dilation) of the convolutions; the last one widens to `pooled`.
    CONTEXTS = ((5, 1), (3, 2), (3, 3), (1, 1), (1, 1))
    #: Frames that the convolutions use up.
    LOST_FRAMES = 14

    def __init__(
        self, layers: int, features: int, width: int, pooled: int, speakers: int, extra_frames: int = 0
    ) -> None:
        super().__init__()
        self.extra_frames = extra_frames
        self.layer_sum = LayerSum(layers)
        self.projector = nn.Linear(features, width)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width, pooled if i == len(self.CONTEXTS) - 1 else width, context, dilation=dilation)
            for i, (context, dilation) in enumerate(self.CONTEXTS)
        )
        self.embedding = nn.Linear(2 * pooled, width)
        self.hidden = nn.Linear(width, width)
        self.prototypes = nn.Parameter(nn.init.xavier_normal_(torch.empty(width, speakers)))

    def embed(self, summed: Tensor, lengths: IntArray) -> tuple[Tensor, Tensor]:
        """The test-time embedding and the vector under the softmax, each (utterance, width)."""
        x = pad_frames(self.projector(summed), lengths).transpose(1, 2)
        if x.shape[2] <= self.LOST_FRAMES:
            x = nn.functional.pad(x, (0, self.LOST_FRAMES + 1 - x.shape[2]))
        for convolution in self.convolutions:
            x = convolution(x).relu()
        valid = torch.from_numpy(np.maximum(lengths - self.LOST_FRAMES, 1)).to(x.device)
        valid = (valid + self.extra_frames * self.training).clamp(max=x.shape[2])
        mask = (torch.arange(x.shape[2], device=x.device)[None] < valid[:, None])[:, None].to(x.dtype)
        mean = (x * mask).sum(2) / valid[:, None]
        variance = ((x - mean[:, :, None]).square() * mask).sum(2) / (valid[:, None] - 1).clamp(min=1)
        embedding = self.embedding(torch.cat([mean, (variance + 1e-8).sqrt()], 1)).relu()
        return embedding, self.hidden(embedding).relu()

    def loss(self, vectors: Tensor, speakers: Tensor, scale: float = 30.0, margin: float = 0.4) -> Tensor:
        """The additive-margin softmax loss of `vectors` (utterance, width)."""
        cosines = nn.functional.normalize(vectors, dim=1) @ nn.functional.normalize(self.prototypes, dim=0)
        target = nn.functional.one_hot(speakers, cosines.shape[1]).to(cosines.dtype)
        return nn.functional.cross_entropy(scale * (cosines - margin * target), speakers)


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
