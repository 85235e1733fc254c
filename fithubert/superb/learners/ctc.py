"""Tasks whose labels are sequences of symbols, by CTC."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fithubert.config.superb import TaskBudget
from fithubert.data.manifest import Manifest, Utterance
from fithubert.data.synthetic.phones import END, SPECIALS
from fithubert.frames import reduce_lengths
from fithubert.store.read import FeatureStore
from fithubert.superb.bank import Bank, read_banks
from fithubert.superb.fit import (
    ADAM,
    DEFAULT_OPTIONS,
    PROJECTOR_WIDTH,
    Head,
    MissingLabels,
    RunOptions,
    Training,
    split_labelled,
)
from fithubert.superb.heads import (
    BLANK,
    LinearHead,
    RecurrentHead,
    RecurrentShape,
    ctc_losses,
    decode_greedily,
    linear_logits,
    sum_layers,
)
from fithubert.superb.metrics import IntArray, Measure
from fithubert.superb.sampling import ListWindows, WindowOrder, augment, list_starts
from fithubert.tasks import Metric

#: Symbols of an utterance in order; None or empty if it is not labelled.
TokensOf = Callable[[Utterance], tuple[str, ...] | None]
#: Metrics from references and hypotheses, both lists of symbols per utterance.
ScoreTokens = Callable[[list[list[str]], list[list[str]]], dict[str, Measure]]


@dataclass(frozen=True)
class CtcLearner:
    """Weighted sum, projector, linear or two BLSTM layers, CTC, greedy decoding.

    The training order is s3prl's: utterances sorted by target length (or, `by_audio`, by their own), and a batch of
    consecutive ones from a random start, as `windows` lists them. The symbols besides the blank are those of the
    corpus's `inventory`, if it defines one (SUPERB's own label spaces: targets then end with the end symbol, which is
    not scored); else `vocabulary`; else those of the training split.
    """

    name: str
    kind: str
    wanted: str
    tokens_of: TokensOf
    score: ScoreTokens
    selection: Metric
    inventory: str
    head: Literal["linear", "recurrent"] = "linear"
    vocabulary: tuple[str, ...] | None = None
    training: Training = ADAM
    windows: ListWindows = list_starts
    by_audio: bool = False
    spec_augment: bool = False
    #: Turns a symbol into the one that is a target, an output or a reference.
    fold: Callable[[str], str] = str
    #: Chance of a task whose best constant answer is not the empty one.
    constant: Callable[[Manifest], dict[str, float]] | None = None
    #: About so many frames are evaluated at once; bounds the memory.
    eval_frames: int = 8000

    def bind(
        self, features: FeatureStore, manifest: Manifest, budget: TaskBudget, options: RunOptions = DEFAULT_OPTIONS
    ) -> "BoundLinear | BoundRecurrent":
        """The task on these features; raises MissingLabels if a split has no labelled utterance."""
        utterances = manifest.select(kind=self.kind).utterances
        splits = split_labelled(utterances, [self.tokens_of(u) or None for u in utterances], self.wanted)
        rows = {
            split: sorted(
                (_Row(u.id, u.num_samples, tuple(map(self.fold, tokens))) for u, tokens in members),
                key=lambda row: (row.num_samples if self.by_audio else len(row.tokens), row.id),
            )
            for split, members in splits.items()
        }
        seen = {symbol for row in rows["train"] for symbol in row.tokens}
        fixed = manifest.inventories.get(self.inventory) or self.vocabulary or tuple(sorted(seen))
        vocabulary = tuple(dict.fromkeys(map(self.fold, fixed)))
        if len(vocabulary) < 2:
            raise MissingLabels(f"train has fewer than two different {self.wanted}")
        banks = read_banks(features, {split: [row.id for row in rows[split]] for split in rows}, options.memory_bytes)
        examples = {split: _label(banks[split], rows[split], vocabulary, options.device) for split in rows}
        bound = BoundLinear if self.head == "linear" else BoundRecurrent
        return bound(self, examples, vocabulary, budget, options.device)

    def chance(self, manifest: Manifest) -> dict[str, float]:
        """100 % error, that of the empty answer, or what `constant` returns."""
        return {self.selection.name: 100.0} if self.constant is None else self.constant(manifest)


@dataclass(frozen=True)
class _Row:
    id: str
    num_samples: int
    tokens: tuple[str, ...]


@dataclass(frozen=True)
class SequenceExamples:
    """Utterances in training order: frames, padded `targets` (utterance, longest), symbols, (utterance,) `samples`.

    `target_lengths` (utterance,) are on the CPU, where the loss reads them.
    """

    bank: Bank
    targets: Tensor
    target_lengths: Tensor
    symbols: list[list[str]]
    samples: IntArray


def _label(bank: Bank, rows: Sequence[_Row], vocabulary: Sequence[str], device: str) -> SequenceExamples:
    numbers = {symbol: i + 1 for i, symbol in enumerate(vocabulary)}
    end = (END,) if END in numbers else ()
    # A symbol that train lacks can never be predicted: as a target of dev or test it only counts as an error.
    targets = [torch.tensor([numbers.get(s, BLANK) for s in (*r.tokens, *end)], dtype=torch.int64) for r in rows]
    lengths = torch.tensor([len(t) for t in targets])
    padded = nn.utils.rnn.pad_sequence(targets, batch_first=True).to(device)
    samples = np.array([r.num_samples for r in rows], dtype=np.int64)
    return SequenceExamples(bank, padded, lengths, [list(r.tokens) for r in rows], samples)


class BoundCtc(ABC, Generic[Head]):
    """A CtcLearner on one model's features.

    Batches are contiguous windows of the bank: nothing is gathered or padded before the logits.
    """

    def __init__(
        self,
        learner: CtcLearner,
        examples: dict[str, SequenceExamples],
        vocabulary: Sequence[str],
        budget: TaskBudget,
        device: str,
    ) -> None:
        self.examples, self.device = examples, device
        self._learner, self._vocabulary, self._budget = learner, vocabulary, budget
        self.num_train, self.num_dev, self.num_test = (len(examples[s].symbols) for s in ("train", "dev", "test"))
        self.num_outputs = len(vocabulary) + 1
        #: Neighbouring frames that the head reads as one.
        self.stack = budget.stack_frames if learner.head == "recurrent" else 1
        self.start_epochs(0, 1)

    @abstractmethod
    def new_head(self) -> Head:
        """A head with one output per symbol, and the blank as output 0."""

    @abstractmethod
    def logits(
        self, heads: Sequence[Head], features: Tensor, lengths: IntArray, distort: np.random.Generator | None = None
    ) -> Tensor:
        """(head, frame, output) of `features` (layer, frame, width); `distort` draws SpecAugment, None is without."""

    def start_epochs(self, seed: int, batch: int) -> None:
        """Restart the seeded order of batches."""
        train = self.examples["train"]
        self.order = WindowOrder(self._learner.windows(train.samples, min(batch, self.num_train)), seed)
        self._batches = train.bank.stream(self.order.windows())
        self._distort = np.random.default_rng([seed, 1]) if self._learner.spec_augment else None

    def losses(self, heads: Sequence[Head]) -> Tensor:
        """(head,) CTC losses of the next batch, each utterance divided by its target length; impossible ones are 0."""
        window, features = next(self._batches)
        train, of_batch = self.examples["train"], slice(window.start, window.stop)
        lengths = train.bank.lengths[of_batch]
        logits = self.logits(heads, features, lengths, self._distort)
        stacked = reduce_lengths(lengths, self.stack)
        return ctc_losses(logits, stacked, train.targets[of_batch], train.target_lengths[of_batch])

    def evaluate(self, heads: Sequence[Head], split: str) -> list[dict[str, Measure]]:
        """The task's metrics of each head, from greedy decoding."""
        examples = self.examples[split]
        decoded: list[list[IntArray]] = [[] for _ in heads]
        for window, features in examples.bank.stream(_list_windows(examples.bank, self._learner.eval_frames)):
            lengths = examples.bank.lengths[window.start : window.stop]
            best = self.logits(heads, features, lengths).argmax(2).cpu().numpy()
            stacked = reduce_lengths(lengths, self.stack)
            for index, row in enumerate(best):
                decoded[index] += decode_greedily(row, stacked)
        named = [[[self._vocabulary[t - 1] for t in row] for row in rows] for rows in decoded]
        hypotheses = [[[symbol for symbol in row if symbol not in SPECIALS] for row in rows] for rows in named]
        return [self._learner.score(examples.symbols, rows) for rows in hypotheses]


class BoundLinear(BoundCtc[LinearHead]):
    """A CtcLearner with linear heads."""

    def new_head(self) -> LinearHead:
        """A LinearHead."""
        layers, width = self.examples["train"].bank.shape
        return LinearHead(layers, width, PROJECTOR_WIDTH, self.num_outputs).to(self.device)

    def logits(
        self,
        heads: Sequence[LinearHead],
        features: Tensor,
        lengths: IntArray,
        distort: np.random.Generator | None = None,
    ) -> Tensor:
        """(head, frame, output); a linear head is trained without SpecAugment."""
        return linear_logits(heads, features.to(self.device).float())


class BoundRecurrent(BoundCtc[RecurrentHead]):
    """A CtcLearner with recurrent heads."""

    def new_head(self) -> RecurrentHead:
        """A RecurrentHead."""
        layers, width = self.examples["train"].bank.shape
        shape = RecurrentShape(self._budget.head_width, stack=self.stack, layer_norm=self._budget.layer_norm)
        return RecurrentHead(layers, width, self.num_outputs, shape).to(self.device)

    def logits(
        self,
        heads: Sequence[RecurrentHead],
        features: Tensor,
        lengths: IntArray,
        distort: np.random.Generator | None = None,
    ) -> Tensor:
        """(head, frame, output) of the weighted sums, which `distort` changes in training."""
        summed = sum_layers([head.layer_sum for head in heads], features.to(self.device).float())
        if distort is not None:
            summed = augment(summed, lengths, distort)
        return torch.stack([head(row, lengths) for head, row in zip(heads, summed, strict=True)])


def _list_windows(bank: Bank, frames: int) -> list[range]:
    """The utterances of consecutive windows of about so many frames."""
    edges = [0]
    for i in range(1, len(bank) + 1):
        if bank.offsets[i] - bank.offsets[edges[-1]] >= frames or i == len(bank):
            edges.append(i)
    return [range(first, last) for first, last in pairwise(edges)]
