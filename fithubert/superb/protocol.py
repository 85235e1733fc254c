"""What a task is, what it answers, and why it may not be scorable."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from fithubert.config.superb import TaskBudget
from fithubert.data.manifest import Manifest, Utterance
from fithubert.superb.bank import FeatureSource
from fithubert.superb.metrics import Measure, Score
from fithubert.tasks import Metric

#: Projector width before the head of PR, KS, SID, ER and IC.
PROJECTOR_WIDTH = 256


@dataclass(frozen=True)
class Resources:
    """What a run may use: the `device` on which heads are trained, and how many bytes of frozen features it may hold.

    Results on a CPU do not depend on `memory_bytes`: what does not fit is streamed from the feature store.
    """

    device: Literal["cpu", "cuda"] = "cpu"
    memory_bytes: float = 8e9


DEFAULT_RESOURCES = Resources()


class MissingLabels(Exception):
    """The corpus lacks what a task needs; becomes a NotScorable result."""


@dataclass(frozen=True)
class NotScorable:
    """A task that this corpus cannot score, and why; the pipeline goes on and the report says so."""

    task: str
    reason: str


@dataclass(frozen=True)
class Candidate:
    """One learning rate (or, without training, one layer) and its best value on dev."""

    setting: float
    dev: float


@dataclass(frozen=True)
class TaskResult:
    """One task scored for one model.

    `metrics`: on test, by name (per, wer, acc, eer, der, mtwv, f1, cer; percent). `dev`: the metric that selects, mean
    over seeds. `learning_rate` was chosen on dev with the first seed among `candidates`; None for a task that trains
    nothing. `layer_weights`: softmax of the learnt weights, layer 0 first, mean over seeds. `steps`: optimiser steps of
    every run; `selected_steps`: the step whose parameters were kept, per seed. `seconds`: wall time with reading.
    `departures`: in what an official result is not one; always empty under the mini protocol.
    """

    task: str
    protocol: str
    metrics: dict[str, Score]
    dev: dict[str, float]
    learning_rate: float | None
    candidates: tuple[Candidate, ...]
    layer_weights: tuple[float, ...]
    steps: int
    selected_steps: tuple[int, ...]
    seconds: float
    num_train: int
    num_dev: int
    num_test: int
    seeds: tuple[int, ...]
    departures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Training:
    """The optimiser with its defaults (AdamW's weight decay is 0.01) and the norm that gradients are clipped to.

    `test_selection`: the best value on test of all evaluations is reported beside the one that dev selects.
    """

    optimiser: type[torch.optim.Adam] | type[torch.optim.AdamW] = torch.optim.Adam
    gradient_clip: float = 1.0
    test_selection: bool = False


#: Every task but ASV.
ADAM = Training()


class Learner(Protocol):
    """One task bound to one model's features: what the training loop needs of it.

    Heads are trained side by side, one per learning rate, on the same batches: `losses` answers one loss per head.
    """

    num_train: int
    num_dev: int
    num_test: int
    #: Size of the head's output.
    num_outputs: int

    def new_head(self) -> nn.Module:
        """A head with fresh parameters from torch's global generator."""
        ...

    def start_epochs(self, seed: int, batch: int) -> None:
        """Begin the seeded order of batches anew."""
        ...

    def losses(self, heads: Sequence[nn.Module]) -> Tensor:
        """(head,) training losses on the next batch."""
        ...

    def evaluate(self, heads: Sequence[nn.Module], split: str) -> list[dict[str, Measure]]:
        """The metrics of each head on `dev` or `test`, by name."""
        ...


class Task(Protocol):
    """The declaration of one trained task."""

    @property
    def name(self) -> str:
        """Its name in params and results."""
        ...

    @property
    def selection(self) -> Metric:
        """What decides on dev."""
        ...

    @property
    def training(self) -> Training:
        """How its head is optimised."""
        ...

    def bind(
        self, features: FeatureSource, manifest: Manifest, budget: TaskBudget, resources: Resources = DEFAULT_RESOURCES
    ) -> Learner:
        """The task on these features and labels; raises MissingLabels where the corpus cannot be scored."""
        ...


@dataclass(frozen=True)
class SearchOutcome:
    """What a task without training found: `metric` of every layer on dev, the best layer, its measure on test.

    `num_dev`, `num_test`: scored pairs.
    """

    metric: str
    dev: tuple[float, ...]
    layer: int
    test: Measure
    num_dev: int
    num_test: int


class SearchTask(Protocol):
    """The declaration of a task that trains nothing and reads one layer."""

    @property
    def name(self) -> str:
        """Its name in params and results."""
        ...

    def search(self, features: FeatureSource, manifest: Manifest) -> SearchOutcome:
        """The task on these features and labels; raises MissingLabels where the corpus cannot be scored."""
        ...


def split_labelled(
    utterances: Sequence[Utterance], labelled: Sequence[bool], wanted: str
) -> dict[str, list[Utterance]]:
    """The labelled utterances of train, dev and test; raises MissingLabels naming `wanted` where a split has none."""
    splits: dict[str, list[Utterance]] = {"train": [], "dev": [], "test": []}
    for utterance, known in zip(utterances, labelled, strict=True):
        if known and utterance.split in splits:
            splits[utterance.split].append(utterance)
    for split, members in splits.items():
        if not members:
            raise MissingLabels(f"no utterance with {wanted} in the {split} split")
    return splits
