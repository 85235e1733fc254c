"""The training loop of every head: frozen features, Adam at a constant rate, the best step on dev kept."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fithubert.config.superb import TaskBudget
from fithubert.superb.metrics import Measure
from fithubert.superb.protocol import Learner, Task
from fithubert.tasks import Metric

#: Called with the number of steps done and the number of all steps.
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Fitted:
    """A trained head: its learning rate, the parameters of its best step, that step and its metric on dev.

    `on_test`: the best measure on test of all evaluations, where the task asks for it.
    """

    learning_rate: float
    head: nn.Module
    step: int
    dev: float
    skipped_steps: int
    on_test: Measure | None = None


def fit(
    learner: Learner,
    task: Task,
    budget: TaskBudget,
    learning_rates: Sequence[float],
    seed: int,
    on_progress: OnProgress | None = None,
) -> list[Fitted]:
    """One trained head per learning rate, all from the same first parameters and on the same batches.

    Side by side, each as if it were alone: own gradient clipping, own optimiser state, own best step. A step whose
    gradient is not finite is skipped for that head alone, as s3prl does. After `budget.search_steps` only the head that
    is best on dev goes on; the others keep what they have.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        first = learner.new_head()
        runs = [_Run(rate, deepcopy(first), task) for rate in learning_rates]
        active = list(runs)
        learner.start_epochs(seed, budget.batch)
        for step in range(1, budget.steps + 1):
            for _ in range(budget.accumulate):
                (learner.losses([run.head for run in active]).sum() / budget.accumulate).backward()
            for run in active:
                run.update()
            if step % budget.eval_every == 0 or step in (budget.steps, budget.search_steps):
                _keep_best(learner, task, active, step)
                if on_progress is not None:
                    on_progress(step, budget.steps)
            if step == budget.search_steps:
                active = [_find_best(active, task.selection)]
    return [run.finish() for run in runs]


class _Run:
    """One head in training."""

    def __init__(self, learning_rate: float, head: nn.Module, task: Task) -> None:
        self.head = head
        self.best: _Best | None = None
        self.on_test: Measure | None = None
        self._learning_rate = learning_rate
        self._clip = task.training.gradient_clip
        parameters = list(head.parameters())
        self._on_gpu = parameters[0].is_cuda
        self._optimiser = task.training.optimiser(parameters, lr=learning_rate, fused=self._on_gpu or None)
        self._skipped = torch.zeros((), device=parameters[0].device)

    def update(self) -> None:
        """One clipped step, or none where the gradient is not finite."""
        norm = nn.utils.clip_grad_norm_(self.head.parameters(), self._clip)
        skip = (~norm.isfinite()).float()
        self._skipped += skip
        if self._on_gpu:
            # Fused optimisers read there whether to step, as for a gradient scaler: nobody waits for the GPU.
            self._optimiser.found_inf = skip  # type: ignore[attr-defined]
        if self._on_gpu or not skip:
            self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)

    def finish(self) -> Fitted:
        """The head with the parameters of its best step."""
        if self.best is None:
            raise RuntimeError("a head was never evaluated")
        self.head.load_state_dict(self.best.state)
        head, skipped = self.head.eval(), int(self._skipped)
        return Fitted(self._learning_rate, head, self.best.step, self.best.dev, skipped, self.on_test)


@dataclass(frozen=True)
class _Best:
    dev: float
    step: int
    state: dict[str, Tensor]


@torch.no_grad()
def _keep_best(learner: Learner, task: Task, runs: Sequence[_Run], step: int) -> None:
    """Evaluate every head on dev and keep the parameters of those that are strictly better than before."""
    selection, heads = task.selection, [run.head for run in runs]
    for run in runs:
        run.head.eval()
    if task.training.test_selection:
        for run, measures in zip(runs, learner.evaluate(heads, "test"), strict=True):
            found = measures[selection.name]
            if selection.is_better(found.value, run.on_test.value if run.on_test else None):
                run.on_test = found
    for run, measures in zip(runs, learner.evaluate(heads, "dev"), strict=True):
        value = measures[selection.name].value
        if selection.is_better(value, run.best.dev if run.best else None):
            state = {name: tensor.clone() for name, tensor in run.head.state_dict().items()}
            run.best = _Best(value, step, state)
        run.head.train()


def _find_best(runs: Sequence[_Run], selection: Metric) -> _Run:
    best = runs[0]
    for run in runs[1:]:
        if run.best and best.best and selection.is_better(run.best.dev, best.best.dev):
            best = run
    return best
