"""The tasks' learners, and the interface that they share: a declaration, bound to one model's features and labels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from fithubert.config.superb import TaskBudget
from fithubert.config.teacher import Device
from fithubert.data.manifest import Manifest, Utterance
from fithubert.records import Pooling
from fithubert.store.read import FeatureStore
from fithubert.superb.metrics import Measure
from fithubert.tasks import Metric

#: Projector width of the heads of PR, KS, SID, ER and IC.
PROJECTOR_WIDTH = 256
#: Called with the number of completed steps and the number of all steps.
OnProgress = Callable[[int, int], None]
Head = TypeVar("Head", bound=nn.Module)
Label = TypeVar("Label")


@dataclass(frozen=True)
class TrainedHead:
    """The head that is best on dev of those of all seeds: its outputs, its seed and its own values in percent."""

    head: nn.Module
    pooling: Pooling
    labels: tuple[tuple[str, ...], ...]
    seed: int
    dev: Mapping[str, float]
    test: Mapping[str, float]


@dataclass(frozen=True)
class RunOptions:
    """How a task is run, without effect on its result.

    `device`: the device on which heads are trained. `memory_bytes`: the frozen features that may be in memory; the rest
    is streamed from the feature store. `on_progress`: called at every evaluation on dev. `on_head`: called with the
    trained head of a learner with `pooling`.
    """

    device: Device = "cpu"
    memory_bytes: float = 8e9
    on_progress: OnProgress | None = None
    on_head: Callable[[TrainedHead], None] | None = None


DEFAULT_OPTIONS = RunOptions()


class MissingLabels(Exception):
    """The corpus lacks what a task needs; the result then has this reason instead of scores."""


@dataclass(frozen=True)
class Training:
    """The optimiser with its defaults (AdamW's weight decay is 0.01) and the norm that gradients are clipped to.

    `test_selection`: the best value on test of all evaluations is reported too, next to the one that dev selects.
    """

    optimiser: type[torch.optim.Adam] | type[torch.optim.AdamW] = torch.optim.Adam
    gradient_clip: float = 1.0
    test_selection: bool = False


#: Every task but ASV.
ADAM = Training()


class BoundLearner(Protocol[Head]):
    """A learner with the features of one model and the labels of one corpus: all that the training loop needs.

    Heads are trained side by side, one per learning rate, on the same batches: `losses` returns one loss per head.
    """

    num_train: int
    num_dev: int
    num_test: int
    #: Size of the head's output.
    num_outputs: int
    #: Metric -> percent on test of the best answer that does not depend on the audio.
    chance: dict[str, float]
    #: The names of the outputs, slot after slot; none of an embedding, or of a head that is not kept.
    output_labels: tuple[tuple[str, ...], ...]

    def new_head(self) -> Head:
        """A head with initial parameters from torch's global generator."""
        ...

    def start_epochs(self, seed: int, batch: int) -> None:
        """Restart the seeded order of batches."""
        ...

    def losses(self, heads: Sequence[Head]) -> Tensor:
        """(head,) training losses on the next batch."""
        ...

    def evaluate(self, heads: Sequence[Head], split: str) -> list[dict[str, Measure]]:
        """The metrics of each head on `dev` or `test`, by name."""
        ...


class Learner(Protocol[Head]):
    """The declaration of a task whose head is trained: `name` in params and results, `selection` the metric on dev."""

    @property
    def name(self) -> str: ...

    @property
    def selection(self) -> Metric: ...

    @property
    def training(self) -> Training: ...

    @property
    def pooling(self) -> Pooling | None:
        """How frames become outputs, of a task whose trained head can be kept; else None."""
        ...

    def bind(
        self, features: FeatureStore, manifest: Manifest, budget: TaskBudget, options: RunOptions = DEFAULT_OPTIONS
    ) -> BoundLearner[Head]:
        """The task on these features and labels. Raises MissingLabels if the corpus cannot be scored."""
        ...


def split_labelled(
    utterances: Sequence[Utterance], labels: Sequence[Label | None], wanted: str
) -> dict[str, list[tuple[Utterance, Label]]]:
    """The utterances of train, dev and test that have a label, with it.

    Raises MissingLabels naming `wanted` if a split has none.
    """
    splits: dict[str, list[tuple[Utterance, Label]]] = {"train": [], "dev": [], "test": []}
    for utterance, label in zip(utterances, labels, strict=True):
        if label is not None and utterance.split in splits:
            splits[utterance.split].append((utterance, label))
    for split, members in splits.items():
        if not members:
            raise MissingLabels(f"no utterance with {wanted} in the {split} split")
    return splits
