"""CTC heads for sequences of tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from fithubert.config.superb import TaskBudget
from fithubert.data.manifest import Manifest, Utterance
from fithubert.data.synthetic.phones import CHARACTERS, END, SPECIALS, WORD_EDGE
from fithubert.frames import reduce_lengths
from fithubert.superb.bank import Bank, FeatureSource, read_banks
from fithubert.superb.heads import LinearHead, RecurrentHead, linear_logits, sum_layers
from fithubert.superb.metrics import IntArray, Measure
from fithubert.superb.protocol import (
    ADAM,
    DEFAULT_RESOURCES,
    PROJECTOR_WIDTH,
    MissingLabels,
    Resources,
    Training,
    split_labelled,
)
from fithubert.superb.sampling import ListWindows, WindowOrder, list_starts
from fithubert.superb.specaug import augment
from fithubert.tasks import Metric


def number_tokens(*groups: Sequence[Sequence[str]]) -> list[list[IntArray]]:
    """The same lists of sequences with every different symbol as one number, shared by all groups."""
    numbers: dict[str, int] = {}
    return [
        [np.array([numbers.setdefault(symbol, len(numbers)) for symbol in row], dtype=np.int64) for row in group]
        for group in groups
    ]


def spell(words: Sequence[str]) -> tuple[str, ...]:
    """The upper-case characters of the words, each word ended by WORD_EDGE; other characters are dropped."""
    return tuple(c for word in words for c in (*word.upper(), WORD_EDGE) if c in CHARACTERS)


def split_words(characters: Sequence[str]) -> list[str]:
    """The words of a character sequence, split at WORD_EDGE; empty words vanish."""
    return [word for word in "".join(characters).split(WORD_EDGE) if word]


BLANK = 0
#: Frames of one evaluation window; bounds its memory.
_EVAL_FRAMES = 8000
#: SUPERB's recurrent head: layers, dropout after each.
_DEPTH, _DROPOUT = 2, 0.2

#: Symbols of an utterance in order, or None where it is not labelled.
TokensOf = Callable[[Utterance], tuple[str, ...] | None]
#: Metrics from references and hypotheses, both lists of symbols per utterance.
ScoreTokens = Callable[[list[list[str]], list[list[str]]], dict[str, Measure]]


@dataclass(frozen=True)
class CtcTask:
    """Weighted sum, projector, linear or two BLSTM layers, CTC, greedy decoding.

    The training order is s3prl's: utterances sorted by target length (or, `by_audio`, by their own) and a batch of
    consecutive ones from a random start, as `windows` lists them. The symbols besides the blank are those of the
    corpus's `inventory`, where it defines one (SUPERB's own label spaces: targets then end with the end symbol, which
    is not scored); else `vocabulary`; else those of the training split.
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
    #: How a symbol is written before it is a target, an output or a reference.
    fold: Callable[[str], str] = str

    def bind(
        self, features: FeatureSource, manifest: Manifest, budget: TaskBudget, resources: Resources = DEFAULT_RESOURCES
    ) -> "CtcLearner":
        """The task on these features; raises MissingLabels where a split has no labelled utterance."""
        utterances = manifest.select(kind=self.kind).utterances
        splits = split_labelled(utterances, [bool(self.tokens_of(u)) for u in utterances], self.wanted)
        tokens = {s: [tuple(map(self.fold, self.tokens_of(u) or ())) for u in us] for s, us in splits.items()}
        seen = {symbol for row in tokens["train"] for symbol in row}
        fixed = manifest.inventories.get(self.inventory) or self.vocabulary or tuple(sorted(seen))
        vocabulary = tuple(dict.fromkeys(map(self.fold, fixed)))
        if len(vocabulary) < 2:
            raise MissingLabels(f"train has fewer than two different {self.wanted}")
        ordered = {}
        for split, members in splits.items():
            rows = [_Row(u.id, u.num_samples, row) for u, row in zip(members, tokens[split], strict=True)]
            ordered[split] = sorted(rows, key=lambda r: (r.num_samples if self.by_audio else len(r.tokens), r.id))
        ids = {split: [r.id for r in rows] for split, rows in ordered.items()}
        banks = read_banks(features, ids, resources.memory_bytes)
        examples = {split: _examples(banks[split], rows, vocabulary, resources) for split, rows in ordered.items()}
        return CtcLearner(self, examples, vocabulary, budget, resources)


@dataclass(frozen=True)
class _Row:
    id: str
    num_samples: int
    tokens: tuple[str, ...]


@dataclass(frozen=True)
class _Examples:
    """Utterances in training order: frames, padded `targets` (utterance, longest), symbols, (utterance,) `samples`.

    `target_lengths` (utterance,) are on the CPU, where the loss reads them.
    """

    bank: Bank
    targets: Tensor
    target_lengths: Tensor
    symbols: list[list[str]]
    samples: IntArray


def _examples(bank: Bank, rows: Sequence[_Row], vocabulary: Sequence[str], resources: Resources) -> _Examples:
    numbers = {symbol: i + 1 for i, symbol in enumerate(vocabulary)}
    end = (END,) if END in numbers else ()
    # A symbol that train lacks can never be predicted: as a target of dev or test it only counts as an error.
    targets = [torch.tensor([numbers.get(s, BLANK) for s in (*r.tokens, *end)], dtype=torch.int64) for r in rows]
    lengths = torch.tensor([len(t) for t in targets])
    padded = nn.utils.rnn.pad_sequence(targets, batch_first=True).to(resources.device)
    samples = np.array([r.num_samples for r in rows], dtype=np.int64)
    return _Examples(bank, padded, lengths, [list(r.tokens) for r in rows], samples)


class CtcLearner:
    """A CtcTask on one model's features. Batches are contiguous windows of the bank: nothing is gathered or padded
    before the logits."""

    def __init__(
        self,
        task: CtcTask,
        examples: dict[str, _Examples],
        vocabulary: Sequence[str],
        budget: TaskBudget,
        resources: Resources,
    ) -> None:
        self._task = task
        self._examples = examples
        self._vocabulary = vocabulary
        self._budget = budget
        self._stack = budget.stack_frames if task.head == "recurrent" else 1
        self._device = resources.device
        self.num_train, self.num_dev, self.num_test = (len(examples[s].symbols) for s in ("train", "dev", "test"))
        self.num_outputs = len(vocabulary) + 1
        self.start_epochs(0, 1)

    def new_head(self) -> nn.Module:
        """A LinearHead or a RecurrentHead with one output per symbol and the blank as output 0."""
        layers, width = self._examples["train"].bank.shape
        if self._task.head == "linear":
            return LinearHead(layers, width, PROJECTOR_WIDTH, self.num_outputs).to(self._device)
        hidden, norm = self._budget.head_width, self._budget.layer_norm
        head = RecurrentHead(layers, width, hidden, _DEPTH, _DROPOUT, self.num_outputs, self._stack, norm)
        return head.to(self._device)

    def start_epochs(self, seed: int, batch: int) -> None:
        """Begin the seeded order of batches anew."""
        train = self._examples["train"]
        self._order = WindowOrder(self._task.windows(train.samples, min(batch, self.num_train)), seed)
        self._batches = train.bank.stream(self._order.windows())
        self._distortion = np.random.default_rng([seed, 1]) if self._task.spec_augment else None

    def losses(self, heads: Sequence[nn.Module]) -> Tensor:
        """(head,) CTC losses of the next batch, each utterance divided by its target length; impossible ones are 0."""
        window, features = next(self._batches)
        train, of_batch = self._examples["train"], slice(window.start, window.stop)
        lengths = train.bank.lengths[of_batch]
        logits = self._logits(heads, features, lengths, self._distortion)
        stacked = reduce_lengths(lengths, self._stack)
        return ctc_losses(logits, stacked, train.targets[of_batch], train.target_lengths[of_batch])

    def evaluate(self, heads: Sequence[nn.Module], split: str) -> list[dict[str, Measure]]:
        """The task's metrics of each head, from greedy decoding."""
        examples = self._examples[split]
        decoded: list[list[IntArray]] = [[] for _ in heads]
        for window, features in examples.bank.stream(_windows(examples.bank)):
            lengths = examples.bank.lengths[window.start : window.stop]
            best = self._logits(heads, features, lengths).argmax(2).cpu().numpy()
            stacked = reduce_lengths(lengths, self._stack)
            for index, row in enumerate(best):
                decoded[index] += decode_greedily(row, stacked)
        named = [[[self._vocabulary[t - 1] for t in row] for row in rows] for rows in decoded]
        hypotheses = [[[symbol for symbol in row if symbol not in SPECIALS] for row in rows] for rows in named]
        return [self._task.score(examples.symbols, rows) for rows in hypotheses]

    def _logits(
        self,
        heads: Sequence[nn.Module],
        features: Tensor,
        lengths: IntArray,
        distortion: np.random.Generator | None = None,
    ) -> Tensor:
        """(head, frame, output); `distortion` draws SpecAugment's."""
        features = features.to(self._device).float()
        linear = [h for h in heads if isinstance(h, LinearHead)]
        if linear:
            return linear_logits(linear, features)
        recurrent = [h for h in heads if isinstance(h, RecurrentHead)]
        summed = sum_layers([h.layer_sum for h in recurrent], features)
        if distortion is not None:
            summed = augment(summed, lengths, distortion)
        return torch.stack([head(row, lengths) for head, row in zip(recurrent, summed, strict=True)])


def ctc_losses(logits: Tensor, lengths: IntArray, targets: Tensor, target_lengths: Tensor) -> Tensor:
    """(head,) mean CTC losses of `logits` (head, frame, output), utterance after utterance of `lengths` frames.

    `targets` (utterance, longest) of which `target_lengths`, on the CPU, count. PyTorch's `mean` reduction: an
    utterance's loss is divided by its target length, and one with more targets than frames counts as 0 (zero_infinity).
    """
    heads, _, outputs = logits.shape
    starts = np.cumsum(lengths) - lengths
    steps = np.minimum(np.arange(int(lengths.max()))[:, None], np.maximum(lengths - 1, 0)[None])
    at = torch.from_numpy((starts[None] + steps).clip(max=logits.shape[1] - 1).ravel()).to(logits.device)
    # (time, head * utterance, output): what is beyond an utterance's end repeats its last frame and is not read.
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


def _windows(bank: Bank) -> list[range]:
    """The utterances of consecutive windows of about `_EVAL_FRAMES` frames."""
    edges = [0]
    for i in range(1, len(bank) + 1):
        if bank.offsets[i] - bank.offsets[edges[-1]] >= _EVAL_FRAMES or i == len(bank):
            edges.append(i)
    return [range(first, last) for first, last in pairwise(edges)]
