"""Tasks whose labels are sequences of symbols, by CTC: PR, ASR and SF."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fithubert.config.superb import TaskBudget
from fithubert.data import CHARACTERS, END, SPECIALS, spell, split_words
from fithubert.data.batching import group_consecutive
from fithubert.data.manifest import Manifest, Utterance
from fithubert.frames import receptive_field, reduce_lengths
from fithubert.records import Pooling
from fithubert.store.read import FeatureStore
from fithubert.superb.bank import Bank, ListWindows, ShuffledBatches, keep_longer_halves, list_starts, read_banks
from fithubert.superb.heads import (
    BLANK,
    LinearHead,
    RecurrentHead,
    RecurrentShape,
    append_zero_frames,
    augment,
    ctc_losses,
    decode_greedily,
    linear_logits,
    sum_layers,
)
from fithubert.superb.learners import (
    ADAM,
    DEFAULT_OPTIONS,
    PROJECTOR_WIDTH,
    MissingLabels,
    RunOptions,
    Training,
    split_labelled,
)
from fithubert.superb.metrics import IntArray, Measure, error_rate
from fithubert.superb.slots import SLOT_BEGIN, SLOT_END, best_types, mean_f1, score_slots
from fithubert.tasks import TASKS, Metric

#: An utterance with its symbols in order.
Row = tuple[Utterance, tuple[str, ...]]


@dataclass(frozen=True)
class CtcLearner:
    """Weighted sum, projector, linear or two BLSTM layers, CTC, greedy decoding.

    The training order is s3prl's: utterances sorted by target length (or, `by_audio`, by their own), and a batch of
    consecutive ones from a random start, as `windows` lists them (with `half_long`, only half of a long one). The
    symbols besides the blank are those of the corpus's `inventory`, if it defines one (SUPERB's own label spaces:
    targets then end with the end symbol, which is not scored); else `vocabulary`; else those of the training split.
    """

    name: str
    kind: str
    wanted: str
    #: Symbols of an utterance in order; None or empty if it is not labelled.
    tokens_of: Callable[[Utterance], tuple[str, ...] | None]
    #: Metrics from references and hypotheses, both lists of symbols per utterance.
    score: Callable[[list[list[str]], list[list[str]]], dict[str, Measure]]
    selection: Metric
    inventory: str
    head: Literal["linear", "recurrent"] = "linear"
    vocabulary: tuple[str, ...] | None = None
    training: Training = ADAM
    windows: ListWindows = list_starts
    half_long: bool = False
    by_audio: bool = False
    #: Of recurrent heads, in training.
    spec_augment: bool = False
    #: In training, round(samples / stride) frames of each utterance in its padded batch.
    rounded_frames: bool = False
    #: Turns a symbol into the one that is a target, an output or a reference.
    fold: Callable[[str], str] = str
    #: Chance, from the utterances of train and test, of a task whose best constant answer is not the empty one.
    constant: Callable[[Sequence[Utterance], Sequence[Utterance]], dict[str, float]] | None = None
    #: At most so many frames are evaluated at once; bounds the memory.
    eval_frames: int = 8000

    def bind(
        self, features: FeatureStore, manifest: Manifest, budget: TaskBudget, options: RunOptions = DEFAULT_OPTIONS
    ) -> "BoundCtc":
        """The task on these features; raises MissingLabels if a split has no labelled utterance."""
        utterances = manifest.select(kind=self.kind).utterances
        tokens = [tuple(map(self.fold, self.tokens_of(u) or ())) or None for u in utterances]
        rows = split_labelled(utterances, tokens, self.wanted)
        for members in rows.values():
            members.sort(key=lambda row: (row[0].num_samples if self.by_audio else len(row[1]), row[0].id))
        seen = {symbol for _, symbols in rows["train"] for symbol in symbols}
        fixed = manifest.inventories.get(self.inventory) or self.vocabulary or tuple(sorted(seen))
        vocabulary = tuple(dict.fromkeys(map(self.fold, fixed)))
        if len(vocabulary) < 2:
            raise MissingLabels(f"train has fewer than two different {self.wanted}")
        banks = read_banks(features, {s: [u.id for u, _ in rows[s]] for s in rows}, options.memory_bytes)
        examples = {split: _label(banks[split], rows[split], vocabulary, options.device) for split in rows}
        chance = {self.selection.name: 100.0}
        if self.constant is not None:
            chance = self.constant(*([u for u, _ in rows[split]] for split in ("train", "test")))
        return BoundCtc(self, examples, vocabulary, chance, budget, options.device)

    @property
    def pooling(self) -> Pooling | None:
        """A head that reads every frame by itself can be kept."""
        return "frames" if self.head == "linear" else None

    def list_windows(self, samples: IntArray, batch: int) -> list[tuple[int, int]]:
        """(first, last) of the utterances of one epoch's batches, from (utterance,) samples in training order."""
        windows = self.windows(samples, batch)
        return keep_longer_halves(windows, samples) if self.half_long else windows


@dataclass(frozen=True)
class SequenceExamples:
    """Utterances in training order: frames, padded `targets` (utterance, longest), symbols, (utterance,) `samples`.

    `target_lengths` (utterance,) are on the CPU, where the loss reads them. `rounded` (utterance,): samples / stride.
    """

    bank: Bank
    targets: Tensor
    target_lengths: Tensor
    symbols: list[list[str]]
    samples: IntArray
    rounded: IntArray


def _label(bank: Bank, rows: Sequence[Row], vocabulary: Sequence[str], device: str) -> SequenceExamples:
    numbers = {symbol: i + 1 for i, symbol in enumerate(vocabulary)}
    end = (END,) if END in numbers else ()
    # A symbol that train lacks can never be predicted: as a target of dev or test it only counts as an error.
    targets = [torch.tensor([numbers.get(s, BLANK) for s in (*row, *end)], dtype=torch.int64) for _, row in rows]
    lengths = torch.tensor([len(t) for t in targets])
    padded = nn.utils.rnn.pad_sequence(targets, batch_first=True).to(device)
    samples = np.array([u.num_samples for u, _ in rows], dtype=np.int64)
    rounded = np.rint(samples / receptive_field(bank.source.info.convolutions)[1]).astype(np.int64)
    return SequenceExamples(bank, padded, lengths, [list(row) for _, row in rows], samples, rounded)


@dataclass
class BoundCtc:
    """A CtcLearner on one model's features.

    Batches are contiguous windows of the bank: nothing is gathered or padded before the logits.
    """

    learner: CtcLearner
    examples: dict[str, SequenceExamples]
    vocabulary: Sequence[str]
    chance: dict[str, float]
    budget: TaskBudget
    device: str

    def __post_init__(self) -> None:
        self.num_train, self.num_dev, self.num_test = (len(self.examples[s].symbols) for s in ("train", "dev", "test"))
        self.num_outputs = len(self.vocabulary) + 1
        symbols = ("" if symbol in SPECIALS else symbol for symbol in self.vocabulary)
        self.output_labels: tuple[tuple[str, ...], ...] = (("", *symbols),)
        #: Neighbouring frames that the head reads as one.
        self.stack = self.budget.stack_frames if self.learner.head == "recurrent" else 1
        self.start_epochs(0, 1)

    def new_head(self) -> LinearHead | RecurrentHead:
        """A head with one output per symbol, and the blank as output 0."""
        layers, width = self.examples["train"].bank.shape
        if self.learner.head == "linear":
            return LinearHead(layers, width, PROJECTOR_WIDTH, self.num_outputs).to(self.device)
        shape = RecurrentShape(self.budget.head_width, stack=self.stack, layer_norm=self.budget.layer_norm)
        return RecurrentHead(layers, width, self.num_outputs, shape).to(self.device)

    def logits(
        self, heads: Sequence[Any], features: Tensor, lengths: IntArray, distort: np.random.Generator | None = None
    ) -> Tensor:
        """(head, frame, output) of `features` (layer, frame, width); `distort` draws a recurrent head's SpecAugment."""
        features = features.to(self.device).float()
        if self.learner.head == "linear":
            return linear_logits(heads, features)
        summed = sum_layers([head.layer_sum for head in heads], features)
        if distort is not None:
            summed = augment(summed, lengths, distort)
        return torch.stack([head(row, lengths) for head, row in zip(heads, summed, strict=True)])

    def start_epochs(self, seed: int, batch: int) -> None:
        """Restart the seeded order of batches."""
        train = self.examples["train"]
        listed = self.learner.list_windows(train.samples, min(batch, self.num_train))
        self.windows = windows = [range(first, last) for first, last in listed]
        #: Draws one window after another.
        self.order = ShuffledBatches(len(windows), 1, seed)
        # Of a local name: a thread that held the learner would keep it alive.
        self._batches = train.bank.stream(windows[int(drawn[0])] for drawn in self.order.batches())
        self._distort = np.random.default_rng([seed, 1]) if self.learner.spec_augment else None

    def losses(self, heads: Sequence[Any]) -> Tensor:
        """(head,) CTC losses of the next batch, each utterance divided by its target length; impossible ones are 0."""
        window, features = next(self._batches)
        train, of_batch = self.examples["train"], slice(window.start, window.stop)
        lengths = train.bank.lengths[of_batch]
        if self.learner.rounded_frames:
            features, lengths = append_zero_frames(features, lengths, train.rounded[of_batch])
        logits = self.logits(heads, features, lengths, self._distort)
        stacked = reduce_lengths(lengths, self.stack)
        return ctc_losses(logits, stacked, train.targets[of_batch], train.target_lengths[of_batch])

    def evaluate(self, heads: Sequence[Any], split: str) -> list[dict[str, Measure]]:
        """The task's metrics of each head, from greedy decoding."""
        examples = self.examples[split]
        decoded: list[list[IntArray]] = [[] for _ in heads]
        frames = examples.bank.lengths
        groups = group_consecutive(range(len(frames)), lambda i: int(frames[i]), self.learner.eval_frames)
        for window, features in examples.bank.stream(range(group[0], group[-1] + 1) for group in groups):
            lengths = frames[window.start : window.stop]
            best = self.logits(heads, features, lengths).argmax(2).cpu().numpy()
            stacked = reduce_lengths(lengths, self.stack)
            for index, row in enumerate(best):
                decoded[index] += decode_greedily(row, stacked)
        named = [[[self.vocabulary[t - 1] for t in row] for row in rows] for rows in decoded]
        hypotheses = [[[symbol for symbol in row if symbol not in SPECIALS] for row in rows] for rows in named]
        return [self.learner.score(examples.symbols, rows) for rows in hypotheses]


ASR = CtcLearner(
    "asr",
    kind="sentence",
    wanted="words",
    tokens_of=lambda utterance: spell(utterance.words or ()),
    score=lambda references, hypotheses: {
        "wer": error_rate(map(split_words, references), map(split_words, hypotheses))
    },
    selection=TASKS["asr"].selection,
    inventory="characters",
    head="recurrent",
    vocabulary=CHARACTERS,
)


def _phones(utterance: Utterance) -> tuple[str, ...] | None:
    if utterance.pronunciation is not None:
        return utterance.pronunciation
    return None if utterance.phones is None else tuple(p.label for p in utterance.phones)


PR = CtcLearner(
    "pr",
    kind="sentence",
    wanted="phones",
    tokens_of=_phones,
    score=lambda references, hypotheses: {"per": error_rate(references, hypotheses)},
    selection=TASKS["pr"].selection,
    inventory="phones",
)


def _tagged(utterance: Utterance) -> tuple[str, ...] | None:
    """Characters of the words, `B-type` before the first and `E-type` after the last word of each slot."""
    if utterance.slots is None or utterance.words is None:
        return None
    first = {slot.first_word: slot.name for slot in utterance.slots}
    last = {slot.first_word + slot.num_words - 1: slot.name for slot in utterance.slots}
    tokens: list[str] = []
    for position, word in enumerate(utterance.words):
        tokens += [SLOT_BEGIN + first[position]] if position in first else []
        tokens += spell([word])
        tokens += [SLOT_END + last[position]] if position in last else []
    return tuple(tokens)


def _slot_chance(train: Sequence[Utterance], test: Sequence[Utterance]) -> dict[str, float]:
    """F1 of the set of slot types that is best on train, whose values are empty."""
    on_train, on_test = (Counter(frozenset(s.name for s in u.slots or ()) for u in split) for split in (train, test))
    types = frozenset[str]().union(*on_train)
    answers = [best_types(on_train, types, size) for size in range(len(types) + 1)]
    best = max(answers, key=lambda answer: mean_f1(on_train, answer))
    return {"f1": 100.0 * mean_f1(on_test, best), "cer": 100.0}


SF = CtcLearner(
    "sf",
    kind="command",
    wanted="slots",
    tokens_of=_tagged,
    score=score_slots,
    selection=TASKS["sf"].selection,
    inventory="slots",
    head="recurrent",
    constant=_slot_chance,
)
