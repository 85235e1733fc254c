"""The training loop of every head: frozen features, Adam at a constant rate, the best step on dev kept."""

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fithubert.config.params import TaskBudget
from fithubert.superb.protocol import GRADIENT_CLIP, Learner, Selection

#: Called with the number of steps done and the number of all steps.
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Fitted:
    """A trained head: its learning rate, the parameters of its best step, that step and its metric on dev."""

    learning_rate: float
    head: nn.Module
    step: int
    dev: float
    skipped_steps: int


def fit(
    learner: Learner,
    selection: Selection,
    budget: TaskBudget,
    learning_rates: Sequence[float],
    seed: int,
    on_progress: OnProgress | None = None,
    optimiser: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    gradient_clip: float = GRADIENT_CLIP,
) -> list[Fitted]:
    """One trained head per learning rate, all from the same first parameters and on the same batches.

    Side by side, each as if it were alone: own gradient clipping, own optimiser state, own best step. A step whose
    gradient is not finite is skipped for that head alone, as s3prl does.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        first = learner.new_head()
        heads = [deepcopy(first) for _ in learning_rates]
        optimisers = [optimiser(h.parameters(), lr=lr) for h, lr in zip(heads, learning_rates, strict=True)]
        best: list[_Best | None] = [None] * len(heads)
        skipped = [0] * len(heads)
        learner.start_epochs(seed, budget.batch)
        for step in range(1, budget.steps + 1):
            learner.losses(heads).sum().backward()
            for index, (head, adam) in enumerate(zip(heads, optimisers, strict=True)):
                skipped[index] += not _update(head, adam, gradient_clip)
            if step % budget.eval_every == 0 or step == budget.steps:
                _keep_best(learner, selection, heads, best, step)
                if on_progress is not None:
                    on_progress(step, budget.steps)
    kept = [b for b in best if b is not None]
    for head, chosen in zip(heads, kept, strict=True):
        head.load_state_dict(chosen.state)
    return [
        Fitted(lr, head.eval(), chosen.step, chosen.dev, missed)
        for lr, head, chosen, missed in zip(learning_rates, heads, kept, skipped, strict=True)
    ]


@dataclass(frozen=True)
class _Best:
    dev: float
    step: int
    state: dict[str, Tensor]


def _update(head: nn.Module, optimiser: torch.optim.Optimizer, gradient_clip: float) -> bool:
    """One clipped step; False where the gradient was not finite and the step was skipped."""
    norm = nn.utils.clip_grad_norm_(head.parameters(), gradient_clip)
    finite = math.isfinite(norm)
    if finite:
        optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return finite


@torch.no_grad()
def _keep_best(learner: Learner, selection: Selection, heads: Sequence[nn.Module], best: list[Any], step: int) -> None:
    """Evaluate every head on dev and keep the parameters of those that are strictly better than before."""
    for head in heads:
        head.eval()
    for index, measures in enumerate(learner.evaluate(heads, "dev")):
        value = measures[selection.metric].value
        if selection.is_better(value, best[index].dev if best[index] else None):
            state = {name: tensor.clone() for name, tensor in heads[index].state_dict().items()}
            best[index] = _Best(value, step, state)
    for head in heads:
        head.train()
