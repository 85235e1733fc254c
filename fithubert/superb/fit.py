"""The interface of a learner, and the training of heads: a constant rate, and the best step on dev is kept."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from fithubert.config.superb import TaskBudget
from fithubert.data.manifest import Manifest, Utterance
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
class RunOptions:
    """How a task is run, without effect on its result.

    `device`: the device on which heads are trained. `memory_bytes`: the frozen features that may be in memory; the rest
    is streamed from the feature store. `on_progress`: called at every evaluation on dev.
    """

    device: Literal["cpu", "cuda"] = "cpu"
    memory_bytes: float = 8e9
    on_progress: OnProgress | None = None


DEFAULT_OPTIONS = RunOptions()


class MissingLabels(Exception):
    """The corpus lacks what a task needs; becomes a NotScorable result."""


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
    """The declaration of a task whose head is trained."""

    @property
    def name(self) -> str:
        """The name of the task in params and results."""
        ...

    @property
    def selection(self) -> Metric:
        """The metric that selects on dev."""
        ...

    @property
    def training(self) -> Training:
        """How the head is optimised."""
        ...

    def bind(
        self, features: FeatureStore, manifest: Manifest, budget: TaskBudget, options: RunOptions = DEFAULT_OPTIONS
    ) -> BoundLearner[Head]:
        """The task on these features and labels. Raises MissingLabels if the corpus cannot be scored."""
        ...

    def chance(self, manifest: Manifest) -> dict[str, float]:
        """Metric -> percent on test of the best answer that does not depend on the audio; empty without labels."""
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


@dataclass(frozen=True)
class Fitted(Generic[Head]):
    """A trained head: its learning rate, the parameters of its best step, that step and its metric on dev.

    `on_test`: the best measure on test of all evaluations, if the task reports it.
    """

    learning_rate: float
    head: Head
    step: int
    dev: float
    skipped_steps: int
    on_test: Measure | None = None


def fit(
    bound: BoundLearner[Head],
    learner: Learner[Head],
    budget: TaskBudget,
    learning_rates: Sequence[float],
    seed: int,
    on_progress: OnProgress | None = None,
) -> list[Fitted[Head]]:
    """One trained head per learning rate, all with the same initial parameters and batches.

    Each head is trained as if it were alone: own gradient clipping, own optimiser state, own best step. A step with a
    gradient that is not finite is skipped for that head alone, as s3prl does. After `budget.search_steps` only the head
    that is best on dev is trained further.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        first = bound.new_head()
        runs = [HeadRun(rate, deepcopy(first), learner) for rate in learning_rates]
        active = list(runs)
        bound.start_epochs(seed, budget.batch)
        for step in range(1, budget.steps + 1):
            for _ in range(budget.accumulate):
                (bound.losses([run.head for run in active]).sum() / budget.accumulate).backward()
            for run in active:
                run.update()
            if step % budget.eval_every == 0 or step in (budget.steps, budget.search_steps):
                _keep_best(bound, learner, active, step)
                if on_progress is not None:
                    on_progress(step, budget.steps)
            if step == budget.search_steps:
                active = [find_best(active, learner.selection)]
    return [run.finish() for run in runs]


class HeadRun(Generic[Head]):
    """One head in training."""

    def __init__(self, learning_rate: float, head: Head, learner: Learner[Head]) -> None:
        self.head = head
        self.best: Best | None = None
        self.on_test: Measure | None = None
        self._learning_rate = learning_rate
        self._clip = learner.training.gradient_clip
        parameters = list(head.parameters())
        self._on_gpu = parameters[0].is_cuda
        self._optimiser = learner.training.optimiser(parameters, lr=learning_rate, fused=self._on_gpu or None)
        #: (): the number of skipped steps, on the head's device.
        self.skipped = torch.zeros((), device=parameters[0].device)

    @property
    def dev(self) -> float:
        """The metric of the best step on dev."""
        if self.best is None:
            raise RuntimeError("a head was never evaluated")
        return self.best.dev

    def update(self) -> None:
        """One clipped step, or none if the gradient is not finite."""
        norm = nn.utils.clip_grad_norm_(self.head.parameters(), self._clip)
        skip = (~norm.isfinite()).float()
        self.skipped += skip
        if self._on_gpu:
            # Fused optimisers read this as they do for a gradient scaler: no copy from the GPU is needed.
            self._optimiser.found_inf = skip  # type: ignore[attr-defined]
        if self._on_gpu or not skip:
            self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)

    def finish(self) -> Fitted[Head]:
        """The head with the parameters of its best step."""
        if self.best is None:
            raise RuntimeError("a head was never evaluated")
        self.head.load_state_dict(self.best.state)
        head, skipped = self.head.eval(), int(self.skipped)
        return Fitted(self._learning_rate, head, self.best.step, self.best.dev, skipped, self.on_test)


@dataclass(frozen=True)
class Best:
    """The best step of a head: its metric on dev and its parameters."""

    dev: float
    step: int
    state: dict[str, Tensor]


@torch.no_grad()
def _keep_best(bound: BoundLearner[Head], learner: Learner[Head], runs: Sequence[HeadRun[Head]], step: int) -> None:
    """Evaluate every head on dev and keep the parameters of those that are strictly better than before."""
    selection, heads = learner.selection, [run.head for run in runs]
    for run in runs:
        run.head.eval()
    if learner.training.test_selection:
        for run, measures in zip(runs, bound.evaluate(heads, "test"), strict=True):
            found = measures[selection.name]
            if selection.is_better(found.value, run.on_test.value if run.on_test else None):
                run.on_test = found
    for run, measures in zip(runs, bound.evaluate(heads, "dev"), strict=True):
        value = measures[selection.name].value
        if selection.is_better(value, run.best.dev if run.best else None):
            state = {name: tensor.clone() for name, tensor in run.head.state_dict().items()}
            run.best = Best(value, step, state)
        run.head.train()


class Evaluated(Protocol):
    """Anything with a value on dev."""

    @property
    def dev(self) -> float:
        """The metric that selects."""
        ...


Candidate = TypeVar("Candidate", bound=Evaluated)


def find_best(candidates: Sequence[Candidate], selection: Metric) -> Candidate:
    """The candidate that is best on dev; the first one of several that are."""
    best = candidates[0]
    for other in candidates[1:]:
        if selection.is_better(other.dev, best.dev):
            best = other
    return best
