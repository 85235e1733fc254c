"""PR, KS, SID and IC as one would write them from the protocol: one head, one utterance after the other, no shortcut.

The order of work is s3prl's: padded hidden states of a batch, their stacked weighted sum, unpadded, padded again, a
projector, a mean over every utterance's frames (KS, SID, IC), a linear layer, Adam, and evaluations one utterance at a
time. Shares nothing with `fithubert.superb` but the seed, from which both draw the same first parameters and batches.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import groupby

import jiwer
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import WeightedRandomSampler

from fithubert.data.manifest import Manifest, Utterance

#: Padded hidden states (utterance, time, width) of every layer for utterances by id, and the frames of each.
Hear = Callable[[Sequence[str]], tuple[Sequence[Tensor], Sequence[int]]]

_PROJECTOR = 256
_EVALUATION_SEED = 1337


@dataclass(frozen=True)
class Example:
    """An utterance and its targets: numbers of phones, or of the class in every slot."""

    id: str
    targets: tuple[int, ...]


class PlainHead(nn.Module):
    """Weights of layers, projector and output; `pooled` takes the mean over frames between the two."""

    def __init__(self, layers: int, width: int, outputs: int, pooled: bool) -> None:
        super().__init__()
        self.pooled = pooled
        self.weights = nn.Parameter(torch.zeros(layers))
        self.projector = nn.Linear(width, _PROJECTOR)
        self.output = nn.Linear(_PROJECTOR, outputs)

    def forward(self, hidden: Sequence[Tensor], lengths: Sequence[int]) -> list[Tensor]:
        """Logits of every utterance: (time, output), or (output,) where pooled."""
        summed = (self.weights.softmax(0)[:, None, None, None] * torch.stack(list(hidden))).sum(0)
        unpadded = [row[:frames] for row, frames in zip(summed, lengths, strict=True)]
        projected = self.projector(pad_sequence(unpadded, batch_first=True))
        rows = [row[:frames] for row, frames in zip(projected, lengths, strict=True)]
        return [self.output(row.mean(0) if self.pooled else row) for row in rows]


@dataclass
class PlainTask:
    """What a task hears in which order, how a batch is judged and a split is scored.

    `slots`: outputs of every slot; of PR the phones and the blank, which is output 0.
    """

    name: str
    examples: dict[str, list[Example]]
    slots: tuple[int, ...]

    @property
    def is_phones(self) -> bool:
        """Whether the targets are sequences."""
        return self.name == "pr"

    def draw_batches(self, batch: int, seed: int) -> Iterator[list[Example]]:
        """Batches without end in the official order."""
        train, generator = self.examples["train"], np.random.default_rng(seed)
        while True:
            if self.is_phones:
                # Sorted by targets: `batch` neighbours from any start, the outermost ones for starts near the end.
                for last in generator.permutation(len(train)) + 1:
                    yield train[max(0, last - batch) : max(batch, last)]
                continue
            if self.name == "ks":
                counts = np.bincount([example.targets[0] for example in train])
                shares = np.array([1 / counts[example.targets[0]] for example in train])
                order = generator.choice(len(train), len(train), p=shares / shares.sum())
                order = order[: len(train) // batch * batch]
            else:
                order = generator.permutation(len(train))
            for start in range(0, len(order), batch):
                yield [train[i] for i in order[start : start + batch]]

    def loss(self, logits: Sequence[Tensor], batch: Sequence[Example]) -> Tensor:
        """CTC, or the cross entropies of all slots summed."""
        if self.is_phones:
            padded = pad_sequence([row.log_softmax(1) for row in logits])
            targets = [torch.tensor(example.targets) for example in batch]
            lengths = (torch.tensor([len(x) for x in rows]) for rows in (logits, targets))
            return nn.CTCLoss(blank=0, zero_infinity=True)(padded, pad_sequence(targets, batch_first=True), *lengths)
        parts = torch.stack(list(logits)).split(self.slots, dim=1)
        labels = torch.tensor([example.targets for example in batch])
        losses = [nn.functional.cross_entropy(part, labels[:, slot]) for slot, part in enumerate(parts)]
        return torch.stack(losses).sum()

    def score(self, logits: Sequence[Tensor], split: str) -> float:
        """PER or accuracy in percent."""
        examples = self.examples[split]
        if self.is_phones:
            best = [[key for key, _ in groupby(row.argmax(1).tolist()) if key != 0] for row in logits]
            texts = [[" ".join(map(str, row)) for row in rows] for rows in ([e.targets for e in examples], best)]
            return 100 * jiwer.wer(*texts)
        right = [
            [int(part.argmax()) for part in row.split(self.slots)] == list(example.targets)
            for row, example in zip(logits, examples, strict=True)
        ]
        if self.name == "ks" and split == "dev":
            counts = np.bincount([example.targets[0] for example in examples])
            weights = [1 / counts[example.targets[0]] for example in examples]
            draw = torch.Generator().manual_seed(_EVALUATION_SEED)
            right = [right[i] for i in WeightedRandomSampler(weights, len(weights), generator=draw)]
        return 100 * sum(right) / len(right)


@dataclass
class PlainTraining:
    """The training of one head from the first step on; `hear` is asked in every step and in every evaluation."""

    task: PlainTask
    hear: Hear
    batch: int
    accumulate: int
    learning_rate: float
    seed: int
    #: Of every micro-batch so far.
    losses: list[float] = field(default_factory=list)
    best_dev: float | None = None

    def __post_init__(self) -> None:
        hidden, _ = self.hear([self.task.examples["train"][0].id])
        torch.manual_seed(self.seed)
        self.head = PlainHead(len(hidden), hidden[0].shape[2], sum(self.task.slots), not self.task.is_phones)
        self.best = deepcopy(self.head)
        self._adam = torch.optim.Adam(self.head.parameters(), lr=self.learning_rate)
        self._batches = self.task.draw_batches(self.batch, self.seed)

    def step(self) -> None:
        """One optimiser step."""
        for _ in range(self.accumulate):
            batch = next(self._batches)
            hidden, lengths = self.hear([example.id for example in batch])
            loss = self.task.loss(self.head(hidden, lengths), batch)
            self.losses.append(loss.item())
            (loss / self.accumulate).backward()
        if math.isfinite(nn.utils.clip_grad_norm_(self.head.parameters(), 1.0)):
            self._adam.step()
        self._adam.zero_grad()

    @torch.no_grad()
    def score(self, head: PlainHead, split: str) -> float:
        """The metric of `head` on a split, one utterance at a time."""
        logits = [head(*self.hear([example.id]))[0] for example in self.task.examples[split]]
        return self.task.score(logits, split)

    def keep_best(self) -> None:
        """Score dev and keep the head where it is strictly better than before."""
        value = self.score(self.head, "dev")
        sign = 1 if self.task.is_phones else -1
        if self.best_dev is None or sign * value < sign * self.best_dev:
            self.best_dev, self.best = value, deepcopy(self.head)

    def run(self, steps: int, eval_every: int) -> float:
        """Train to the end; the metric on test of the head that was best on dev."""
        for step in range(1, steps + 1):
            self.step()
            if step % eval_every == 0 or step == steps:
                self.keep_best()
        return self.score(self.best, "test")


def plain_phones(manifest: Manifest) -> PlainTask:
    """PR: phones of train as outputs 1.., sentences sorted by their number of phones."""

    def phones(utterance: Utterance) -> list[str]:
        return [phone.label for phone in utterance.phones or ()]

    splits = {split: manifest.select(split, "sentence").utterances for split in ("train", "dev", "test")}
    symbols = sorted({symbol for utterance in splits["train"] for symbol in phones(utterance)})
    examples = {
        split: [
            Example(u.id, tuple(symbols.index(x) + 1 for x in phones(u)))
            for u in sorted(members, key=lambda u: (len(phones(u)), u.id))
        ]
        for split, members in splits.items()
    }
    return PlainTask("pr", examples, (len(symbols) + 1,))


def plain_classes(name: str, manifest: Manifest) -> PlainTask:
    """KS, SID or IC: classes of every slot in ascending order; SID hears recordings in the order of their names."""
    kind = {"ks": "keyword", "sid": "sentence", "ic": "command"}[name]

    def labels(utterance: Utterance) -> tuple[str, ...]:
        if name == "ic" and utterance.intent is not None:
            return utterance.intent.action, utterance.intent.object, utterance.intent.location
        return (str(utterance.keyword if name == "ks" else utterance.speaker),)

    splits = {split: list(manifest.select(split, kind).utterances) for split in ("train", "dev", "test")}
    if name == "sid":
        splits["train"].sort(key=lambda u: u.audio)
    classes = [sorted(set(slot)) for slot in zip(*map(labels, splits["train"]), strict=True)]
    examples = {
        split: [
            Example(u.id, tuple(known.index(x) for x, known in zip(labels(u), classes, strict=True)))
            for u in members
            if all(x in known for x, known in zip(labels(u), classes, strict=True))
        ]
        for split, members in splits.items()
    }
    return PlainTask(name, examples, tuple(len(known) for known in classes))


def hear_stored(read: Callable[[str], Sequence[Tensor]]) -> Hear:
    """Hear what `read` says of an utterance, (time, width) of every layer, padded with the rest of the batch."""

    def hear(ids: Sequence[str]) -> tuple[Sequence[Tensor], Sequence[int]]:
        rows = [read(row_id) for row_id in ids]
        padded = [pad_sequence(list(layer), batch_first=True) for layer in zip(*rows, strict=True)]
        return padded, [len(row[0]) for row in rows]

    return hear
