"""The section `sweep`: the shapes to search, the objectives, and the budget of a trial."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fithubert.config.ablation import TrialBudget, trial_budget
from fithubert.config.base import StrictModel

Count = Annotated[int, Field(gt=0)]
COSTS = ("macs_per_second", "params", "latency_ratio")


class SpaceParams(StrictModel):
    """The shapes that a sweep chooses from. Every list holds the values of one choice; every combination is valid.

    Evenly spaced numbers are modelled as numbers, other values as categories without an order.

    The default is scaled to the embedded teacher (192 wide, 12 deep) and contains the paper's shape scaled to it.
    """

    depth: tuple[Count, ...] = Field((2, 4, 6, 8, 10, 12), min_length=1)
    width: tuple[Count, ...] = Field((48, 72, 96, 120, 144, 168, 192), min_length=1)
    ffn_width: tuple[Count, ...] = Field((60, 120, 180, 240, 300, 360, 420, 480), min_length=1)
    attention_heads: tuple[Count, ...] = Field((4, 6, 12), min_length=1)
    #: Factors on the channels of every convolution in the front end of `of`.
    front_end: tuple[Annotated[float, Field(gt=0)], ...] = Field((0.5, 0.75, 1.0, 1.25), min_length=1)
    time_reduction: tuple[Literal["none", "conv1d", "fc1", "fc2", "mean"], ...] = Field(
        ("none", "conv1d", "mean"), min_length=1
    )
    factor: tuple[Annotated[int, Field(ge=2, le=4)], ...] = Field((2, 3, 4), min_length=1)
    #: The layer before which the frame rate drops, as a share of the depth: 0 is the first layer.
    position: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = Field((0.0, 0.25, 0.5), min_length=1)
    readout: tuple[Literal["last", "layers", "projections"], ...] = Field(("last", "projections"), min_length=1)

    @model_validator(mode="after")
    def _check_combinations(self) -> "SpaceParams":
        for name, values in self:
            if len(set(values)) < len(values):
                raise ValueError(f"{name}: a value is listed twice")
        for width in self.width:
            for heads in self.attention_heads:
                if width % heads:
                    raise ValueError(f"attention_heads: {heads} does not divide width {width}")
        return self


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
