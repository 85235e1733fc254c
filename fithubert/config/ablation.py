"""The section `ablation`: variants of one student, and the budget of a short trial."""

from typing import Any

from pydantic import Field

from fithubert.config.base import Name, Seed, StrictModel
from fithubert.config.superb import TaskBudget, mini_budgets


class TrialBudget(StrictModel):
    """A trial: the updates of one student, and the tasks that are then probed on dev and test.

    Batches, schedule and codecs are those of `distill` and `features`.
    """

    updates: int = Field(150, gt=0)
    dev_every_updates: int = Field(50, gt=0)
    #: The most speech that `init: cut_teacher` uses.
    init_seconds: float = Field(60.0, gt=0)
    tasks: dict[Name, TaskBudget] = Field(
        default_factory=lambda: {"pr": trial_budget("pr"), "sid": trial_budget("sid")}
    )
    #: Heads per task, each with its own first weights and order of batches; a score is the mean over them.
    probe_seeds: int = Field(1, gt=0)


def trial_budget(task: str, steps: int = 400, eval_every: int = 100) -> TaskBudget:
    """The budget of a trial's probe: the mini protocol's with fewer steps, at the rate it mostly chooses for PR."""
    changes = {"steps": steps, "eval_every": eval_every, "learning_rates": (3e-3,), "search_steps": None}
    return mini_budgets()[task].model_copy(update=changes)


class AblationParams(StrictModel):
    """Variants of the student `of`, all trained with the same budget.

    A variant holds only the fields of `students.NAME` that differ from `of`, merged key by key; {} is `of` itself.
    """

    of: str
    variants: dict[Name, dict[str, Any]] = Field(min_length=2)
    seeds: tuple[Seed, ...] = Field((1, 2, 3), min_length=1)
    budget: TrialBudget = TrialBudget()
    #: Trials at once, each on one thread; results do not depend on it.
    workers: int = Field(2, gt=0)
