"""The sections `ablation` and `sweep`: variants and shapes of one student, and the budget of a short trial."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from fithubert.config.base import Name, Seed, StrictModel
from fithubert.config.students import StudentParams
from fithubert.config.superb import TaskBudget, mini_budgets

Count = Annotated[int, Field(gt=0)]
COSTS = ("macs_per_second", "params", "latency_ratio")


class TrialBudget(StrictModel):
    """A trial: the updates of one student, and the tasks that are then probed on dev and test.

    Batches, schedule and codecs are those of `distill` and `extract`.
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


class SpaceParams(StrictModel):
    """What a sweep chooses from. Every list holds the values of one choice; every combination of shapes is valid.

    Evenly spaced numbers are modelled as numbers, other values as categories without an order.

    The default is scaled to the embedded teacher (192 wide, 12 deep) and contains the paper's shape scaled to it.

    Besides the lists of shapes, a space may name any other key of the student or of `distill`, dotted as after `--set`:
    `hints.normalise`, `hints.losses.gram`, `shape.dropout`, `init`, `distill.learning_rate`. Mappings among its
    values are merged into the student's key by key. A space of such keys alone keeps the student's shape.
    """

    depth: tuple[Count, ...] = Field((2, 4, 6, 8, 10, 12), min_length=1)
    width: tuple[Count, ...] = Field((48, 72, 96, 120, 144, 168, 192), min_length=1)
    ffn_width: tuple[Count, ...] = Field((60, 120, 180, 240, 300, 360, 420, 480), min_length=1)
    attention_heads: tuple[Count, ...] = Field((4, 6, 12), min_length=1)
    #: Factors on the channels of every convolution in the front end of `of`, or `mel` for filter banks.
    front_end: tuple[Annotated[float, Field(gt=0)] | Literal["mel"], ...] = Field((0.5, 0.75, 1.0, 1.25), min_length=1)
    #: `stack` is in front of the positional convolution, whatever `position` is.
    time_reduction: tuple[Literal["none", "conv1d", "fc1", "fc2", "mean", "stack"], ...] = Field(
        ("none", "conv1d", "mean"), min_length=1
    )
    factor: tuple[Annotated[int, Field(ge=2, le=4)], ...] = Field((2, 3, 4), min_length=1)
    #: The layer before which the frame rate drops, as a share of the depth: 0 is the first layer.
    position: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = Field((0.0, 0.25, 0.5), min_length=1)
    readout: tuple[Literal["last", "layers", "projections"], ...] = Field(("last", "projections"), min_length=1)

    #: The lists of other keys, as the before-validator collects them.
    keys: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = {}
    #: Keep the shape of `of` and choose `keys` only.
    own_shape: bool = False

    @model_validator(mode="before")
    @classmethod
    def _collect_keys(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        rest = {name: value for name, value in values.items() if name in cls.model_fields or not _is_key(str(name))}
        keys = {name: value for name, value in values.items() if name not in rest}
        if keys:
            rest["own_shape"] = rest.get("own_shape", not rest.keys() - {"keys"})
            rest["keys"] = {**rest.get("keys", {}), **keys}
        return rest

    @property
    def choices(self) -> dict[str, tuple[Any, ...]]:
        """Choice -> its values; lists and mappings are JSON, as a database stores them."""
        shapes = {} if self.own_shape else {n: v for n, v in self if n not in ("keys", "own_shape")}
        return shapes | {name: tuple(map(as_choice, values)) for name, values in self.keys.items()}

    @model_validator(mode="after")
    def _check_combinations(self) -> "SpaceParams":
        for name, values in self.choices.items():
            if len(set(values)) < len(values):
                raise ValueError(f"{name}: a value is listed twice")
        for width in () if self.own_shape else self.width:
            for heads in self.attention_heads:
                if width % heads:
                    raise ValueError(f"attention_heads: {heads} does not divide width {width}")
        return self


def _is_key(name: str) -> bool:
    """Whether `name` is a key of a student or of `distill`."""
    first, _, rest = name.partition(".")
    return first in StudentParams.model_fields if rest else first in ("recipe", "init", "init_seconds")


def as_choice(value: Any) -> Any:
    """A value as a choice: a scalar, or the JSON of a list or a mapping."""
    return json.dumps(value) if isinstance(value, list | tuple | Mapping) else value


def from_choice(value: Any) -> Any:
    """The value that `as_choice` was given."""
    return json.loads(value) if isinstance(value, str) and value[:1] in ("[", "{") else value


class SweepParams(StrictModel):
    """The frontier of quality against cost over the shapes of one student."""

    #: The student whose recipe, losses and first weights all trials share.
    of: str = "fithubert"
    #: The number of trained trials; infeasible ones do not count.
    trials: int = Field(20, gt=0)
    #: Optimised together: tasks of the budget (their metric on dev), `dev_loss` (of the last head), and costs.
    objectives: tuple[str, ...] = Field(("pr", "macs_per_second"), min_length=2)
    space: SpaceParams = SpaceParams()
    budget: TrialBudget = TrialBudget(
        updates=100, dev_every_updates=25, init_seconds=30.0, tasks={"pr": trial_budget("pr", steps=250, eval_every=50)}
    )
    seed: int = Field(1, ge=0)
    #: A trial is stopped if `stop_after` finished ones that cost no more were better by this share at the same update,
    #: from half of the updates on.
    stop_margin: float = Field(0.1, gt=0)
    stop_after: int = Field(2, gt=0)

    @model_validator(mode="after")
    def _check_objectives(self) -> "SweepParams":
        known = (*self.budget.tasks, "dev_loss", *COSTS)
        for objective in self.objectives:
            if objective not in known:
                raise ValueError(f"objectives: {objective!r} is not one of {', '.join(known)}")
        if len(set(self.objectives)) < len(self.objectives):
            raise ValueError("objectives: one is listed twice")
        if not set(self.objectives) & set(COSTS) or set(self.objectives) <= set(COSTS):
            raise ValueError("objectives: at least one quality and one cost are needed")
        return self
