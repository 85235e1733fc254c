"""SD: when does each of two speakers speak? In mixtures with known turns.

A unidirectional LSTM of the budget's width (official: 512) on the weighted sum, binary cross entropy under the better
of both speaker orders per chunk of 2,000 frames, selected by frame accuracy, as s3prl does. Diarisation error rate by
frames without collar, overlap scored; threshold and median filter are those of lowest error on dev. The value that the
official recipe selects on test is reported under another name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from fithubert.config.superb import TaskBudget
from fithubert.data.manifest import Manifest, Utterance
from fithubert.frames import SAMPLE_RATE_HZ, receptive_field
from fithubert.store.read import FeatureStore
from fithubert.superb.bank import Bank, ShuffledBatches, read_banks
from fithubert.superb.heads import BidirectionalLSTM, LayerSum, pad_frames, sum_layers, unpad_frames
from fithubert.superb.learners import ADAM, DEFAULT_OPTIONS, RunOptions, Training, split_labelled
from fithubert.superb.metrics import IntArray, Measure, Ratio
from fithubert.tasks import TASKS, Metric

CHUNK_FRAMES = 2000
#: Candidates on dev: thresholds on the probability, widths of the median filter in frames.
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
MEDIAN_FRAMES = (1, 11)
_SPEAKERS = 2
#: Frames of 20 ms for constant answers, whose error hardly depends on the frame.
_FRAME_SAMPLES = 320


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


@dataclass(frozen=True)
class DiarisationLearner:
    """The declaration of SD."""

    name: str = "sd"
    selection: Metric = TASKS["sd"].selection
    training: Training = ADAM
    both_ways: bool = False
    #: s3prl's label of a turn that begins before and ends after a chunk.
    silent_full_chunks: bool = False
    #: Frame accuracy as s3prl's: the mean of chunks, each in the order of lower loss; else of all frames, each chunk in
    #: the better order.
    accuracy_by_chunk: bool = False
    #: Report the lowest error of all post-processing on test too.
    test_postprocessing: bool = False
    keep_last: bool = False
    pooling: ClassVar[None] = None

    def bind(
        self, features: FeatureStore, manifest: Manifest, budget: TaskBudget, options: RunOptions = DEFAULT_OPTIONS
    ) -> "BoundDiarisation":
        """The task on these features; raises MissingLabels if a split has no mixture of two speakers."""
        mixtures = manifest.select(kind="mixture").utterances
        labelled = split_labelled(mixtures, [has_two_speakers(u) or None for u in mixtures], "two speakers' turns")
        splits = {split: [u for u, _ in members] for split, members in labelled.items()}
        stride = receptive_field(features.info.convolutions)[1]
        banks = read_banks(features, {s: [u.id for u in us] for s, us in splits.items()}, options.memory_bytes)
        examples = {}
        for split, bank in banks.items():
            pairs = zip(splits[split], bank.lengths, strict=True)
            labels = np.concatenate([turn_labels(u, int(n), stride, self.silent_full_chunks) for u, n in pairs])
            examples[split] = MixtureExamples(bank.chunked(CHUNK_FRAMES), torch.from_numpy(labels), bank.offsets)
        # The error of no, one or both speakers all the time, the best of these on train.
        best = min(((0, 0), (0, 1), (1, 1)), key=lambda answer: _constant_error(splits["train"], answer))
        chance = {"der": _constant_error(splits["test"], best)}
        return BoundDiarisation(self, examples, chance, budget.head_width, options.device)


@dataclass(frozen=True)
class MixtureExamples:
    """`chunks`: the frames by chunk; `labels` (frame, 2) of 0 and 1; `recordings`: offsets of whole recordings."""

    chunks: Bank
    labels: Tensor
    recordings: IntArray


def has_two_speakers(mixture: Utterance) -> bool:
    """Whether its turns are known and those of two speakers."""
    return len({t.speaker for t in mixture.turns or ()}) == _SPEAKERS


def turn_labels(
    utterance: Utterance, num_frames: int, stride_samples: int, silent_full_chunks: bool = False
) -> np.ndarray:
    """(num_frames, 2) float32, 1 where a speaker (in order of name) speaks; turn edges are rounded to frames.

    `silent_full_chunks`: a turn leaves no mark in a chunk that it begins before and ends after, as in s3prl.
    """
    labels = np.zeros((num_frames, _SPEAKERS), dtype=np.float32)
    turns = utterance.turns or ()
    speakers = sorted({t.speaker for t in turns})
    for turn in turns:
        start, end = (round(t * SAMPLE_RATE_HZ / stride_samples) for t in (turn.start_seconds, turn.end_seconds))
        column = labels[:, speakers.index(turn.speaker)]
        for first in range(0, num_frames, CHUNK_FRAMES):
            last = min(first + CHUNK_FRAMES, num_frames)
            if not (silent_full_chunks and start < first and end > last):
                column[max(start, first) : max(0, min(end, last))] = 1
    return labels


def permutation_loss(logits: Tensor, labels: Tensor, lengths: IntArray) -> Tensor:
    """Binary cross entropy of `logits` and `labels` (frame, 2) under each chunk's better speaker order, a frame's mean.

    `lengths` (chunk,): the frames of each chunk.
    """
    chunks = torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths)).to(logits.device)
    orders = torch.stack([labels, labels.flip(1)])
    losses = nn.functional.binary_cross_entropy_with_logits(logits.expand_as(orders), orders, reduction="none").mean(2)
    sums = losses.new_zeros(2, len(lengths)).index_add(1, chunks, losses)
    return sums.amin(0).sum() / len(logits)


def error_counts(reference: np.ndarray, hypothesis: np.ndarray, offsets: IntArray) -> Ratio:
    """Diarisation error rate by recording, from activities (frame, 2) of 0 and 1: missed, false and confused speech.

    Each recording takes the speaker order that matches most.
    """
    edges, present = offsets[:-1], reference.sum(1)
    right = [np.add.reduceat((reference * order).sum(1), edges) for order in (hypothesis, hypothesis[:, ::-1])]
    spoken = np.add.reduceat(np.maximum(present, hypothesis.sum(1)), edges)
    return Ratio((spoken - np.maximum(*right)).astype(np.float64), np.add.reduceat(present, edges).astype(np.float64))


def smooth(active: np.ndarray, frames: int) -> np.ndarray:
    """Median filter over an odd number of `frames`, of activities (frame, 2) of 0 and 1; beyond the ends is 0."""
    padded = np.pad(active, ((frames // 2 + 1, frames // 2), (0, 0)))
    sums = np.cumsum(padded, axis=0)
    return (sums[frames:] - sums[:-frames] > frames // 2).astype(active.dtype)


@dataclass
class BoundDiarisation:
    """SD on one model's features, `examples` by split."""

    learner: DiarisationLearner
    examples: dict[str, MixtureExamples]
    chance: dict[str, float]
    width: int
    device: str
    num_outputs: int = _SPEAKERS
    output_labels: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        self.num_train = len(self.examples["train"].chunks)
        self.num_dev, self.num_test = (len(self.examples[s].recordings) - 1 for s in ("dev", "test"))
        self.start_epochs(0, 1)

    def new_head(self) -> DiarisationHead:
        """A DiarisationHead."""
        layers, features = self.examples["train"].chunks.shape
        return DiarisationHead(layers, features, self.width, _SPEAKERS, self.learner.both_ways).to(self.device)

    def start_epochs(self, seed: int, batch: int) -> None:
        """Restart the seeded order of batches."""
        chunks = self.examples["train"].chunks
        self.order = ShuffledBatches(self.num_train, batch, seed, keep_last=self.learner.keep_last)
        self._batches = chunks.stream(self.order.batches())

    def losses(self, heads: Sequence[DiarisationHead]) -> Tensor:
        """(head,) permutation-free losses of the next batch of chunks."""
        train, (batch, features) = self.examples["train"], next(self._batches)
        labels = train.labels[torch.from_numpy(train.chunks.frames_of(batch))].to(self.device)
        lengths = train.chunks.lengths[batch]
        logits = self._logits(heads, features, lengths)
        return torch.stack([permutation_loss(row, labels, lengths) for row in logits])

    def evaluate(self, heads: Sequence[DiarisationHead], split: str) -> list[dict[str, Measure]]:
        """The selecting metric of each head on dev (by default frame accuracy), or its error rate on test.

        On test with dev's post-processing, and also with that of lowest error on test if the learner reports it.
        """
        examples, selected = self.examples[split], self.learner.selection.name
        logits = self._predict(heads, split)
        if split == "dev" and selected != "der":
            accuracy = chunk_accuracy if self.learner.accuracy_by_chunk else _frame_accuracy
            return [{selected: accuracy(row, examples)} for row in logits]
        on_dev = logits if split == "dev" else self._predict(heads, "dev")
        measures: list[dict[str, Measure]] = []
        for row, dev_row in zip(logits, on_dev, strict=True):
            best = _best_settings(dev_row, self.examples["dev"])
            measures.append({"der": _error_rate(row, examples, *best)})
            if split == "test" and self.learner.test_postprocessing:
                measures[-1]["der_test_selected"] = _error_rate(row, examples, *_best_settings(row, examples))
        return measures

    def _predict(self, heads: Sequence[DiarisationHead], split: str) -> list[np.ndarray]:
        chunks = self.examples[split].chunks
        one_by_one = chunks.stream(range(i, i + 1) for i in range(len(chunks)))
        rows = [self._logits(heads, x, chunks.lengths[i.start : i.stop]).cpu() for i, x in one_by_one]
        return list(torch.cat(rows, 1).numpy())

    def _logits(self, heads: Sequence[DiarisationHead], features: Tensor, lengths: IntArray) -> Tensor:
        """(head, frame, speaker)."""
        summed = sum_layers([h.layer_sum for h in heads], features.to(self.device).float())
        return torch.stack([h(x, lengths) for h, x in zip(heads, summed, strict=True)])


def _frame_accuracy(logits: np.ndarray, examples: MixtureExamples) -> Ratio:
    labels, edges = examples.labels.numpy(), examples.chunks.offsets[:-1]
    right = [np.add.reduceat(((logits > 0) == order).mean(1), edges) for order in (labels, labels[:, ::-1])]
    return Ratio(np.maximum(*right), examples.chunks.lengths.astype(np.float64))


def chunk_accuracy(logits: np.ndarray, examples: MixtureExamples) -> Ratio:
    """Percent of right frames, the mean of chunks, each in its order of lower loss; a chunk without speech counts 0."""
    values = []
    for first, last in pairwise(examples.chunks.offsets.tolist()):
        guess, labels = torch.from_numpy(logits[first:last]), examples.labels[first:last]
        orders = (labels, labels.flip(1))
        best = min(orders, key=lambda order: float(nn.functional.binary_cross_entropy_with_logits(guess, order)))
        values.append(float(((guess > 0) == best).float().mean()) if bool(labels.any()) else 0.0)
    return Ratio(np.array(values), np.ones(len(values)))


def _error_rate(logits: np.ndarray, examples: MixtureExamples, threshold: float, frames: int) -> Ratio:
    active = (logits > np.log(threshold / (1 - threshold))).astype(np.int64)
    parts = [smooth(active[a:b], frames) for a, b in pairwise(examples.recordings.tolist())]
    return error_counts(examples.labels.numpy().astype(np.int64), np.concatenate(parts), examples.recordings)


def _constant_error(mixtures: Sequence[Utterance], answer: tuple[int, int]) -> float:
    labels = [turn_labels(u, u.num_samples // _FRAME_SAMPLES, _FRAME_SAMPLES).astype(np.int64) for u in mixtures]
    offsets = np.cumsum([0, *(len(rows) for rows in labels)])
    reference = np.concatenate(labels)
    return error_counts(reference, np.tile(np.array(answer, dtype=np.int64), (len(reference), 1)), offsets).value


def _best_settings(logits: np.ndarray, examples: MixtureExamples) -> tuple[float, int]:
    """The threshold and median filter of lowest error on these examples."""
    choices = [(t, n) for t in THRESHOLDS for n in MEDIAN_FRAMES]
    return min(choices, key=lambda choice: _error_rate(logits, examples, *choice).value)


SD = DiarisationLearner()
