"""How long downstream heads and trials are trained."""

from pydantic import Field, PositiveFloat

from fithubert.config.base import StrictModel


class TaskBudget(StrictModel):
    """Training budget of one downstream head. The learning rate is chosen on dev from `learning_rates`."""

    #: 0 and no learning rates for QbE, which trains nothing.
    steps: int = Field(ge=0)
    batch: int = Field(32, gt=0)
    #: Batches whose gradients are averaged in one step.
    accumulate: int = Field(1, gt=0)
    eval_every: int = Field(100, gt=0)
    learning_rates: tuple[PositiveFloat, ...] = ()
    #: Steps after which only the learning rate that is best on dev goes on; None trains all of them to the end.
    search_steps: int | None = Field(None, gt=0)
    #: Width of recurrent layers (ASR, SF, SD) and of the x-vector network (ASV); linear heads are always 256 wide.
    head_width: int = Field(128, gt=0)
    #: Neighbouring frames that the recurrent head of ASR and SF reads as one (s3prl's `sample_rate`, style `concat`).
    stack_frames: int = Field(1, gt=0)
    #: Layer norms after the projector and every recurrent layer of ASR and SF (s3prl's `layer_norm`; official: none).
    layer_norm: bool = False


def mini_budgets() -> dict[str, TaskBudget]:
    """Budgets of the `mini` protocol for all tasks: a few seconds to half a minute a task and model on two cores."""
    pooled = {"steps": 1500, "batch": 32, "eval_every": 100}
    recurrent = {"learning_rates": (3e-3,), "head_width": 64, "stack_frames": 2, "layer_norm": True}
    return {
        "pr": TaskBudget(steps=800, batch=16, search_steps=200, learning_rates=(1e-3, 3e-3, 1e-2)),
        "ks": TaskBudget(**pooled, learning_rates=(3e-4, 1e-3, 3e-3, 1e-2)),
        "sid": TaskBudget(**pooled, learning_rates=(1e-3, 3e-3, 1e-2, 3e-2)),
        "er": TaskBudget(**pooled, learning_rates=(3e-4, 1e-3, 3e-3, 1e-2)),
        "ic": TaskBudget(**pooled, learning_rates=(3e-4, 1e-3, 3e-3, 1e-2)),
        "asr": TaskBudget(steps=500, batch=16, **recurrent),
        "sf": TaskBudget(steps=300, batch=32, eval_every=50, **recurrent),
        "asv": TaskBudget(steps=200, batch=16, eval_every=50, learning_rates=(1e-3,), head_width=64),
        "sd": TaskBudget(steps=100, batch=4, eval_every=20, learning_rates=(3e-3,), head_width=64),
        "qbe": TaskBudget(steps=0),
    }


class TrialBudget(StrictModel):
    """A trial: one student trained for so many updates, and the tasks that are then probed on dev and test.

    Batches, schedule and codecs are those of `distill` and `features`.
    """

    updates: int = Field(150, gt=0)
    dev_every_updates: int = Field(50, gt=0)
    #: At most so much speech for `init: cut_teacher`.
    init_seconds: float = Field(60.0, gt=0)
    tasks: dict[str, TaskBudget] = Field(default_factory=lambda: {"pr": trial_budget("pr"), "sid": trial_budget("sid")})
    #: Heads per task, each with other first weights and another order of batches; a score is the mean of theirs.
    probe_seeds: int = Field(1, gt=0)


def trial_budget(task: str, steps: int = 400, eval_every: int = 100) -> TaskBudget:
    """The probe of a trial: the mini protocol's budget with fewer steps, at the rate that it mostly chooses for PR."""
    changes = {"steps": steps, "eval_every": eval_every, "learning_rates": (3e-3,), "search_steps": None}
    return mini_budgets()[task].model_copy(update=changes)
