"""The official protocol's tasks with single quirks off, on small budgets."""

from fithubert.config.superb import OfficialQuirks, TaskBudget
from fithubert.superb.official import official_tasks
from fithubert.superb.protocol import Task

#: The small corpus is made of short sentences with their silences, as loud as they are.
OPEN = OfficialQuirks(asv_silence_trim=False, asv_crops=False, sox_gain=False)


def official(name: str, **off: bool) -> Task:
    """The task by the official protocol with these quirks off."""
    return next(t for t in official_tasks(OfficialQuirks(**off)) if t.name == name)


def small(name: str, **changes: object) -> TaskBudget:
    """A budget of a few steps."""
    budget = {"steps": 4, "batch": 4, "eval_every": 2, "learning_rates": (1e-2,), "head_width": 16, **changes}
    return TaskBudget(steps=0) if name == "qbe" else TaskBudget.model_validate(budget)
