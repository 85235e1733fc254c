"""SD: who of two speakers speaks when, in mixtures with known turns.

A unidirectional LSTM of the budget's width (official: 512) on the weighted sum, binary cross entropy under the better
of both speaker orders per chunk of 2,000 frames, selected by frame accuracy, as s3prl does. Diarisation error rate by
frames without collar, overlap scored; threshold and median filter are those of lowest error on dev. What the official
recipe picks on test has a name of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from fithubert.config.superb import TaskBudget
from fithubert.data.manifest import Manifest, Utterance
from fithubert.frames import SAMPLE_RATE_HZ, receptive_field
from fithubert.superb.bank import Bank, FeatureSource, read_banks
from fithubert.superb.heads import DiarisationHead, sum_layers
from fithubert.superb.metrics import IntArray, Measure, Ratio
from fithubert.superb.protocol import ADAM, DEFAULT_RESOURCES, Resources, Training, split_labelled
from fithubert.superb.sampling import ShuffledBatches
from fithubert.tasks import TASKS, Metric

CHUNK_FRAMES = 2000
#: What is tried on dev: thresholds on the probability, widths of the median filter in frames.
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
MEDIAN_FRAMES = (1, 11)
_SPEAKERS = 2


@dataclass(frozen=True)
class DiarisationTask:
    """The declaration of SD."""

    name: str = "sd"
    selection: Metric = TASKS["sd"].selection
    training: Training = ADAM
    both_ways: bool = False
    #: s3prl's label of a turn that begins before and ends after a chunk.
    silent_full_chunks: bool = False
    #: Frame accuracy as s3prl's: the mean of chunks, each in the order of lower loss; else of all frames in the better.
    accuracy_by_chunk: bool = False
    #: Report the lowest error of all post-processing on test too.
    test_postprocessing: bool = False
    keep_last: bool = False

    def bind(
        self, features: FeatureSource, manifest: Manifest, budget: TaskBudget, resources: Resources = DEFAULT_RESOURCES
    ) -> "DiarisationLearner":
        """The task on these features; raises MissingLabels where a split has no mixture of two speakers."""
        mixtures = manifest.select(kind="mixture").utterances
        splits = split_labelled(mixtures, [has_two_speakers(u) for u in mixtures], "two speakers' turns")
        stride = receptive_field(features.info.convolutions)[1]
        banks = read_banks(features, {s: [u.id for u in us] for s, us in splits.items()}, resources.memory_bytes)
        examples = {s: _label(banks[s], us, stride, self.silent_full_chunks) for s, us in splits.items()}
        return DiarisationLearner(self, examples, budget.head_width, resources)


@dataclass(frozen=True)
class _Examples:
    """`chunks`: the frames by chunk; `labels` (frame, 2) of 0 and 1; `recordings`: offsets of whole recordings."""

    chunks: Bank
    labels: Tensor
    recordings: IntArray


def _label(bank: Bank, utterances: Sequence[Utterance], stride: int, silent_full_chunks: bool) -> _Examples:
    labels = [turn_labels(u, int(n), stride, silent_full_chunks) for u, n in zip(utterances, bank.lengths, strict=True)]
    return _Examples(bank.chunked(CHUNK_FRAMES), torch.from_numpy(np.concatenate(labels)), bank.offsets)


def has_two_speakers(mixture: Utterance) -> bool:
    """Whether its turns are known and those of two speakers."""
    return len({t.speaker for t in mixture.turns or ()}) == _SPEAKERS


def turn_labels(
    utterance: Utterance, num_frames: int, stride_samples: int, silent_full_chunks: bool = False
) -> np.ndarray:
    """(num_frames, 2) float32, 1 where a speaker (in order of name) speaks; turn edges are rounded to frames.

    `silent_full_chunks`: a turn leaves no mark in a chunk that it begins before and ends after, as s3prl has it.
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


class DiarisationLearner:
    """SD on one model's features."""

    num_outputs = _SPEAKERS

    def __init__(self, task: DiarisationTask, examples: dict[str, _Examples], width: int, resources: Resources) -> None:
        self._task, self._examples, self._width, self._device = task, examples, width, resources.device
        self.num_train = len(examples["train"].chunks)
        self.num_dev, self.num_test = (len(examples[s].recordings) - 1 for s in ("dev", "test"))
        self.start_epochs(0, 1)

    def new_head(self) -> nn.Module:
        """A DiarisationHead."""
        layers, features = self._examples["train"].chunks.shape
        return DiarisationHead(layers, features, self._width, _SPEAKERS, self._task.both_ways).to(self._device)

    def start_epochs(self, seed: int, batch: int) -> None:
        """Begin the seeded order of batches anew."""
        chunks = self._examples["train"].chunks
        self._order = ShuffledBatches(self.num_train, batch, seed, keep_last=self._task.keep_last)
        self._batches = chunks.stream(self._order.batches())

    def losses(self, heads: Sequence[nn.Module]) -> Tensor:
        """(head,) permutation-free losses of the next batch of chunks."""
        train, (batch, features) = self._examples["train"], next(self._batches)
        labels = train.labels[torch.from_numpy(train.chunks.frames_of(batch))].to(self._device)
        lengths = train.chunks.lengths[batch]
        logits = self._logits(heads, features, lengths)
        return torch.stack([permutation_loss(row, labels, lengths) for row in logits])

    def evaluate(self, heads: Sequence[nn.Module], split: str) -> list[dict[str, Measure]]:
        """What selects each head on dev (frame accuracy, as a rule); its diarisation error rate on test.

        With dev's post-processing, and where the task asks for it with that of lowest error on test.
        """
        examples, selected = self._examples[split], self._task.selection.name
        logits = self._predict(heads, split)
        if split == "dev":
            measure_dev = _error_rate_on_dev if selected == "der" else self._frame_accuracy
            return [{selected: measure_dev(row, examples)} for row in logits]
        settings = [_best_settings(row, self._examples["dev"]) for row in self._predict(heads, "dev")]
        measures = [{"der": _error_rate(row, examples, *best)} for row, best in zip(logits, settings, strict=True)]
        if self._task.test_postprocessing:
            for measure, row in zip(measures, logits, strict=True):
                measure["der_test_selected"] = _error_rate(row, examples, *_best_settings(row, examples))
        return [dict(measure) for measure in measures]

    def _frame_accuracy(self, logits: np.ndarray, examples: _Examples) -> Ratio:
        return (chunk_accuracy if self._task.accuracy_by_chunk else _frame_accuracy)(logits, examples)

    def _predict(self, heads: Sequence[nn.Module], split: str) -> list[np.ndarray]:
        chunks = self._examples[split].chunks
        one_by_one = chunks.stream(range(i, i + 1) for i in range(len(chunks)))
        rows = [self._logits(heads, x, chunks.lengths[i.start : i.stop]).cpu() for i, x in one_by_one]
        return list(torch.cat(rows, 1).numpy())

    def _logits(self, heads: Sequence[nn.Module], features: Tensor, lengths: IntArray) -> Tensor:
        """(head, frame, speaker)."""
        known = [h for h in heads if isinstance(h, DiarisationHead)]
        summed = sum_layers([h.layer_sum for h in known], features.to(self._device).float())
        return torch.stack([h(x, lengths) for h, x in zip(known, summed, strict=True)])


def _error_rate_on_dev(logits: np.ndarray, examples: _Examples) -> Ratio:
    return _error_rate(logits, examples, *_best_settings(logits, examples))


def _frame_accuracy(logits: np.ndarray, examples: _Examples) -> Ratio:
    labels, edges = examples.labels.numpy(), examples.chunks.offsets[:-1]
    right = [np.add.reduceat(((logits > 0) == order).mean(1), edges) for order in (labels, labels[:, ::-1])]
    return Ratio(np.maximum(*right), examples.chunks.lengths.astype(np.float64))


def chunk_accuracy(logits: np.ndarray, examples: _Examples) -> Ratio:
    """Percent of right frames, the mean of chunks, each in its order of lower loss; a chunk without speech counts 0."""
    values = []
    for first, last in pairwise(examples.chunks.offsets.tolist()):
        guess, labels = torch.from_numpy(logits[first:last]), examples.labels[first:last]
        orders = (labels, labels.flip(1))
        best = min(orders, key=lambda order: float(nn.functional.binary_cross_entropy_with_logits(guess, order)))
        values.append(float(((guess > 0) == best).float().mean()) if bool(labels.any()) else 0.0)
    return Ratio(np.array(values), np.ones(len(values)))


def _error_rate(logits: np.ndarray, examples: _Examples, threshold: float, frames: int) -> Ratio:
    active = (logits > np.log(threshold / (1 - threshold))).astype(np.int64)
    parts = [smooth(active[a:b], frames) for a, b in pairwise(examples.recordings.tolist())]
    return error_counts(examples.labels.numpy().astype(np.int64), np.concatenate(parts), examples.recordings)


def _best_settings(logits: np.ndarray, examples: _Examples) -> tuple[float, int]:
    """The threshold and median filter of lowest error on these examples."""
    choices = [(t, n) for t in THRESHOLDS for n in MEDIAN_FRAMES]
    return min(choices, key=lambda choice: _error_rate(logits, examples, *choice).value)


SD = DiarisationTask()
