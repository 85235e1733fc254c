"""Tasks with one label per utterance: KS, SID, ER, IC."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from fithubert.config.superb import TaskBudget
from fithubert.data.manifest import Manifest, Utterance
from fithubert.superb.bank import FeatureSource, read_means
from fithubert.superb.heads import LinearHead, linear_logits
from fithubert.superb.metrics import IntArray, Measure, accuracy, class_accuracy
from fithubert.superb.protocol import (
    ADAM,
    DEFAULT_RESOURCES,
    PROJECTOR_WIDTH,
    MissingLabels,
    Resources,
    Training,
    split_labelled,
)
from fithubert.superb.sampling import ShuffledBatches, Variants
from fithubert.tasks import ACCURACY, Metric

#: The label of an utterance in each slot, or None where it has none.
LabelsOf = Callable[[Utterance], tuple[str, ...] | None]


_SPLITS = ("train", "dev", "test")
#: s3prl's seed, to which it returns before every evaluation.
_DEV_SEED = 1337


@dataclass(frozen=True)
class PooledTask:
    """Weighted sum, projector 256, mean over the true length, linear, cross entropy per slot; accuracy of all slots.

    `sampling`: `shuffled` epochs without the last incomplete batch, or `balanced`, draws with replacement by inverse
    class frequency (s3prl's KS). `dev`: how dev is counted; `expected` is class-balanced accuracy, the expectation of
    s3prl's resampled dev split, and `resampled` one such draw, the same at every evaluation. `crops`: where train has
    several stored crops of a recording, an epoch sees each recording once. `keep_last`: epochs end with what is left.
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

    def bind(
        self, features: FeatureSource, manifest: Manifest, budget: TaskBudget, resources: Resources = DEFAULT_RESOURCES
    ) -> "PooledLearner":
        """The task on these features; raises MissingLabels where fewer than two classes are labelled."""
        utterances = manifest.select(kind=self.kind).utterances
        labels = [self.labels_of(u) for u in utterances]
        splits = split_labelled(utterances, [x is not None for x in labels], self.wanted)
        train = [x for u in splits["train"] if (x := self.labels_of(u)) is not None]
        classes = [sorted(set(slot)) for slot in zip(*train, strict=True)]
        if max(len(c) for c in classes) < 2:
            raise MissingLabels(f"all of train has one and the same {self.wanted}")
        numbers = [{label: i for i, label in enumerate(c)} for c in classes]
        examples = {}
        for split, members in splits.items():
            rows = [(u.id, _numbers(self.labels_of(u), numbers)) for u in members]
            known = [(row_id, row) for row_id, row in rows if row is not None]
            if not known:
                raise MissingLabels(f"no {self.wanted} of the {split} split occurs in train")
            ids = [row_id for row_id, _ in known]
            recordings = {u.id: u.audio if self.crops else u.id for u in members}
            labels_of_split = torch.from_numpy(np.stack([row for _, row in known]))
            examples[split] = _Examples(read_means(features, ids), labels_of_split, [recordings[i] for i in ids])
        return PooledLearner(self, examples, tuple(len(c) for c in classes), resources)


@dataclass(frozen=True)
class _Examples:
    """`means` (layer, item, width); `labels` (item, slot); `recordings` (item,): what an item is (a crop of).

    On the CPU: 40 kB an item of HuBERT Base, so 5.5 GB for the 138,361 recordings that SID trains on, and as much more
    as their crops are more.
    """

    means: Tensor
    labels: Tensor
    recordings: list[str]


class PooledLearner:
    """A PooledTask on one model's features; pooled first, which is exact because the head is linear."""

    def __init__(
        self, task: PooledTask, examples: dict[str, _Examples], sizes: tuple[int, ...], resources: Resources
    ) -> None:
        self._task = task
        self._device = resources.device
        self._examples = examples
        self._sizes = sizes
        self.num_train, self.num_dev, self.num_test = (len(set(examples[s].recordings)) for s in _SPLITS)
        self.num_outputs = sum(sizes)
        self.start_epochs(0, 1)

    def new_head(self) -> nn.Module:
        """A LinearHead with the outputs of all slots side by side."""
        layers, _, width = self._examples["train"].means.shape
        return LinearHead(layers, width, PROJECTOR_WIDTH, self.num_outputs).to(self._device)

    def start_epochs(self, seed: int, batch: int) -> None:
        """Begin the seeded order of batches anew."""
        train = self._examples["train"]
        weights = _class_weights(train.labels[:, 0].numpy()) if self._task.sampling == "balanced" else None
        self._crops = Variants(train.recordings, seed) if self._task.crops else None
        self._order = ShuffledBatches(self.num_train, batch, seed, weights, self._task.keep_last)

    def losses(self, heads: Sequence[nn.Module]) -> Tensor:
        """(head,) cross entropies on the next batch, summed over slots."""
        train = self._examples["train"]
        drawn = self._order.next_batch()
        batch = torch.from_numpy(self._crops.draw(drawn) if self._crops else drawn)
        logits = self._logits(heads, train.means[:, batch])
        labels = train.labels[batch].repeat(len(heads), 1).to(self._device)
        losses = [
            nn.functional.cross_entropy(slot.flatten(0, 1), labels[:, i], reduction="none").view(len(heads), -1)
            for i, slot in enumerate(logits.split(self._sizes, dim=2))
        ]
        return torch.stack(losses).mean(2).sum(0)

    def evaluate(self, heads: Sequence[nn.Module], split: str) -> list[dict[str, Measure]]:
        """Accuracy of each head."""
        examples = self._examples[split]
        slots = self._logits(heads, examples.means).split(self._sizes, dim=2)
        best = torch.stack([slot.argmax(2) for slot in slots], dim=2).cpu()
        right = (best == examples.labels).all(2).numpy()
        classes = examples.labels[:, 0].numpy()
        if self._task.dev == "expected" and split == "dev":
            return [{"acc": class_accuracy(row, classes)} for row in right]
        if self._task.dev == "resampled" and split == "dev":
            weights = torch.from_numpy(_class_weights(classes))
            drawn = torch.multinomial(weights, len(weights), True, generator=torch.Generator().manual_seed(_DEV_SEED))
            return [{"acc": accuracy(row[drawn.numpy()])} for row in right]
        return [{"acc": accuracy(row)} for row in right]

    def _logits(self, heads: Sequence[nn.Module], means: Tensor) -> Tensor:
        return linear_logits([h for h in heads if isinstance(h, LinearHead)], means.to(self._device))


def _class_weights(classes: IntArray) -> np.ndarray:
    """(item,) weights with which every class is drawn equally often."""
    weights: np.ndarray = 1.0 / np.bincount(classes)[classes]
    return weights


def _numbers(labels: tuple[str, ...] | None, numbers: Sequence[dict[str, int]]) -> IntArray | None:
    """The class numbers of one utterance; None where it has a label that train lacks."""
    if labels is None or any(label not in known for label, known in zip(labels, numbers, strict=True)):
        return None
    return np.array([known[label] for label, known in zip(labels, numbers, strict=True)])


def _er_labels(utterance: Utterance) -> tuple[str] | None:
    return None if utterance.style is None else (utterance.style,)


ER = PooledTask("er", kind="sentence", wanted="prosody style", labels_of=_er_labels)


def _ic_labels(utterance: Utterance) -> tuple[str, str, str] | None:
    intent = utterance.intent
    return None if intent is None else (intent.action, intent.object, intent.location)


IC = PooledTask("ic", kind="command", wanted="intent", labels_of=_ic_labels)


def _ks_labels(utterance: Utterance) -> tuple[str] | None:
    return None if utterance.keyword is None else (utterance.keyword,)


KS = PooledTask("ks", kind="keyword", wanted="keyword", labels_of=_ks_labels, sampling="balanced", dev="expected")


def _sid_labels(utterance: Utterance) -> tuple[str] | None:
    return None if utterance.speaker is None else (utterance.speaker,)


SID = PooledTask("sid", kind="sentence", wanted="speaker", labels_of=_sid_labels)
