"""Tasks with one label per utterance: KS, SID, ER, IC."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fithubert.config.superb import TaskBudget
from fithubert.data.manifest import Manifest, Utterance
from fithubert.records import Pooling
from fithubert.store.read import FeatureStore
from fithubert.superb.bank import ShuffledBatches, Variants, read_means
from fithubert.superb.heads import LinearHead, linear_logits
from fithubert.superb.learners import (
    ADAM,
    DEFAULT_OPTIONS,
    PROJECTOR_WIDTH,
    MissingLabels,
    RunOptions,
    Training,
    split_labelled,
)
from fithubert.superb.metrics import IntArray, Measure, accuracy, class_accuracy
from fithubert.tasks import ACCURACY, Metric

#: The label of an utterance in each slot, or None if it has none.
LabelsOf = Callable[[Utterance], tuple[str, ...] | None]

#: s3prl's seed, to which it returns before every evaluation.
_DEV_SEED = 1337


@dataclass(frozen=True)
class PooledLearner:
    """Weighted sum, projector 256, mean over the true length, linear, cross entropy per slot; accuracy of all slots.

    `sampling`: `shuffled` epochs without the last incomplete batch, or `balanced`, draws with replacement by inverse
    class frequency (s3prl's KS). `dev`: how dev is counted; `expected` is class-balanced accuracy, the expectation of
    s3prl's resampled dev split, and `resampled` one such draw, the same at every evaluation. `crops`: if train has
    several stored crops of a recording, an epoch reads one of them. `keep_last`: epochs end with the incomplete batch.
    """

    name: str
    kind: str
    wanted: str
    labels_of: LabelsOf
    sampling: Literal["shuffled", "balanced"] = "shuffled"
    dev: Literal["plain", "expected", "resampled"] = "plain"
    crops: bool = False
    keep_last: bool = False
    selection: Metric = ACCURACY
    training: Training = ADAM
    pooling: ClassVar[Pooling] = "mean"

    def bind(
        self, features: FeatureStore, manifest: Manifest, budget: TaskBudget, options: RunOptions = DEFAULT_OPTIONS
    ) -> "BoundPooled":
        """The task on these features; raises MissingLabels if fewer than two classes are labelled."""
        utterances = manifest.select(kind=self.kind).utterances
        splits = split_labelled(utterances, [self.labels_of(u) for u in utterances], self.wanted)
        classes = [sorted(set(slot)) for slot in zip(*(labels for _, labels in splits["train"]), strict=True)]
        if max(len(c) for c in classes) < 2:
            raise MissingLabels(f"all of train has one and the same {self.wanted}")
        numbers = [{label: i for i, label in enumerate(c)} for c in classes]
        examples = {}
        for split, members in splits.items():
            # A label that train lacks cannot be learnt: such utterances are left out.
            rows = [(u, [known.get(x) for x, known in zip(labels, numbers, strict=True)]) for u, labels in members]
            known = [(u, row) for u, row in rows if None not in row]
            if not known:
                raise MissingLabels(f"no {self.wanted} of the {split} split occurs in train")
            means = read_means(features, [u.id for u, _ in known])
            recordings = [u.audio if self.crops else u.id for u, _ in known]
            examples[split] = PooledExamples(means, torch.tensor([row for _, row in known]), recordings)
        # The accuracy on test of the commonest label of train.
        train, test = ([labels for _, labels in splits[split]] for split in ("train", "test"))
        chance = {"acc": 100.0 * test.count(Counter(train).most_common(1)[0][0]) / len(test)}
        return BoundPooled(self, examples, tuple(map(tuple, classes)), chance, options.device)


@dataclass(frozen=True)
class PooledExamples:
    """`means` (layer, item, width); `labels` (item, slot); `recordings` (item,): the recording of each item.

    On the CPU: 40 kB an item of HuBERT Base, so 5.5 GB for the 138,361 recordings that SID trains on, times the number
    of crops of each.
    """

    means: Tensor
    labels: Tensor
    recordings: list[str]


@dataclass
class BoundPooled:
    """A PooledLearner on one model's features; pooled first, which is exact because the head is linear."""

    learner: PooledLearner
    examples: dict[str, PooledExamples]
    output_labels: tuple[tuple[str, ...], ...]
    chance: dict[str, float]
    device: str

    def __post_init__(self) -> None:
        counts = (len(set(self.examples[split].recordings)) for split in ("train", "dev", "test"))
        self.num_train, self.num_dev, self.num_test = counts
        self.slot_sizes = tuple(map(len, self.output_labels))
        self.num_outputs = sum(self.slot_sizes)
        self.start_epochs(0, 1)

    def new_head(self) -> LinearHead:
        """A LinearHead with the outputs of all slots side by side."""
        layers, _, width = self.examples["train"].means.shape
        return LinearHead(layers, width, PROJECTOR_WIDTH, self.num_outputs).to(self.device)

    def start_epochs(self, seed: int, batch: int) -> None:
        """Restart the seeded order of batches."""
        train = self.examples["train"]
        weights = _class_weights(train.labels[:, 0].numpy()) if self.learner.sampling == "balanced" else None
        self.crops = Variants(train.recordings, seed) if self.learner.crops else None
        self.order = ShuffledBatches(self.num_train, batch, seed, weights, self.learner.keep_last)

    def losses(self, heads: Sequence[LinearHead]) -> Tensor:
        """(head,) cross entropies on the next batch, summed over slots."""
        train = self.examples["train"]
        drawn = self.order.next_batch()
        batch = torch.from_numpy(self.crops.draw(drawn) if self.crops else drawn)
        logits = self.logits(heads, train.means[:, batch])
        labels = train.labels[batch].repeat(len(heads), 1).to(self.device)
        losses = [
            nn.functional.cross_entropy(slot.flatten(0, 1), labels[:, i], reduction="none").view(len(heads), -1)
            for i, slot in enumerate(logits.split(self.slot_sizes, dim=2))
        ]
        return torch.stack(losses).mean(2).sum(0)

    def evaluate(self, heads: Sequence[LinearHead], split: str) -> list[dict[str, Measure]]:
        """Accuracy of each head."""
        examples = self.examples[split]
        slots = self.logits(heads, examples.means).split(self.slot_sizes, dim=2)
        best = torch.stack([slot.argmax(2) for slot in slots], dim=2).cpu()
        right = (best == examples.labels).all(2).numpy()
        classes = examples.labels[:, 0].numpy()
        if self.learner.dev == "expected" and split == "dev":
            return [{"acc": class_accuracy(row, classes)} for row in right]
        if self.learner.dev == "resampled" and split == "dev":
            weights = torch.from_numpy(_class_weights(classes))
            drawn = torch.multinomial(weights, len(weights), True, generator=torch.Generator().manual_seed(_DEV_SEED))
            return [{"acc": accuracy(row[drawn.numpy()])} for row in right]
        return [{"acc": accuracy(row)} for row in right]

    def logits(self, heads: Sequence[LinearHead], means: Tensor) -> Tensor:
        """(head, item, output) of `means` (layer, item, width)."""
        return linear_logits(heads, means.to(self.device))


def _class_weights(classes: IntArray) -> np.ndarray:
    """(item,) weights that draw every class equally often."""
    weights: np.ndarray = 1.0 / np.bincount(classes)[classes]
    return weights


ER = PooledLearner(
    "er", "sentence", wanted="prosody style", labels_of=lambda u: None if u.style is None else (u.style,)
)
IC = PooledLearner(
    "ic",
    "command",
    wanted="intent",
    labels_of=lambda u: None if u.intent is None else (u.intent.action, u.intent.object, u.intent.location),
)
KS = PooledLearner(
    "ks",
    "keyword",
    wanted="keyword",
    labels_of=lambda u: None if u.keyword is None else (u.keyword,),
    sampling="balanced",
    dev="expected",
)
SID = PooledLearner(
    "sid", "sentence", wanted="speaker", labels_of=lambda u: None if u.speaker is None else (u.speaker,)
)
