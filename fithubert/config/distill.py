"""How students are trained: the shared schedule, each student's hints and start."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from fithubert.config.base import StrictModel, merge


class DistillParams(StrictModel):
    """How every student is trained. An update sees at most `batch_seconds` of padded audio."""

    targets: Literal["cached", "live"] = "cached"
    seed: int = Field(1, ge=0)
    updates: int = Field(2000, gt=0)
    batch_seconds: float = Field(32.0, gt=0)
    #: Longer utterances are cropped at a random frame edge; None keeps them whole.
    crop_seconds: float | None = Field(8.0, gt=0)
    #: `shards` takes the cache's shards one after the other, in a drawn order: for a cache larger than the memory.
    shuffle: Literal["corpus", "shards"] = "corpus"
    learning_rate: float = Field(5e-4, gt=0)
    warmup_share: float = Field(0.05, ge=0, lt=1)
    weight_decay: float = Field(1e-6, ge=0)
    betas: tuple[float, float] = (0.9, 0.98)
    epsilon: float = Field(1e-6, gt=0)
    gradient_clip: float | None = Field(None, gt=0)
    #: Forward passes that one update is cut into on each rank; the update itself stays the same.
    accumulate: int = Field(1, gt=0)
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    #: Moving average of the weights, which is then what is evaluated and saved; None trains without.
    ema_decay: float | None = Field(None, gt=0, lt=1)
    #: A loss above this many times the first one stops the training.
    explosion_factor: float = Field(100.0, gt=1)
    dev_every_updates: int = Field(200, gt=0)
    #: Dev evaluations without improvement before training stops early.
    patience: int = Field(15, gt=0)
    checkpoint_every_updates: int = Field(200, gt=0)
    keep_checkpoints: int = Field(2, gt=0)
    #: Batches read ahead of need.
    prefetch_batches: int = Field(4, gt=0)


class HintParams(StrictModel):
    """The hint loss: a weighted sum over heads of the terms named in `losses`, each with its weight.

    Published FitHuBERT: `mse`, last head 1.0, every other head 0.1. DistilHuBERT: `l1` + `cosine`, both weights 1.0,
    `average_heads`. STaR: `gram` + `intra_gram` on heads of kind `none`, last and other heads 1.0.
    """

    losses: dict[Literal["mse", "l1", "cosine", "gram", "intra_gram"], float] = {"mse": 1.0}
    last_weight: float = Field(1.0, ge=0)
    hint_weight: float = Field(0.1, ge=0)
    #: Hint heads drawn anew each epoch beside the last one; None uses all.
    random_hints: int | None = Field(None, ge=1)
    #: Share of the updates in which heads join one by one from the lowest layer up (FitNets, Romero et al. 2015); the
    #: highest one so far then has the last head's weight. 0 trains all from the start.
    bottom_up_share: float = Field(0.0, ge=0, le=1)
    #: Frames that are not masked learn from a teacher that hears the same masked speech, masked ones from one that
    #: hears all of it (ARMHuBERT's masking distillation); needs `shape.masking` and live targets.
    masked_teacher: bool = False
    #: Divide the sum by the number of heads.
    average_heads: bool = False

    @model_validator(mode="after")
    def _check_terms(self) -> "HintParams":
        if not any(self.losses.values()) or min(self.losses.values()) < 0:
            raise ValueError("losses: needs a term, and weights that are not negative")
        if "intra_gram" in self.losses and self.random_hints is not None:
            raise ValueError("random_hints: intra_gram compares neighbouring heads and so needs all of them")
        if self.bottom_up_share and self.random_hints is not None:
            raise ValueError("bottom_up_share: heads that join one by one cannot be drawn too; leave out random_hints")
        return self


class StudentParams(StrictModel):
    """One student: a recipe, what differs from it, and how it learns."""

    recipe: str
    #: Fields of StudentConfig that replace the recipe's; nested sections are merged key by key.
    shape: dict[str, Any] = {}
    hints: HintParams = HintParams()
    #: Where the first weights come from: nowhere; the teacher's lower layers, copied; the whole teacher, cut to size.
    init: Literal["random", "teacher_layers", "cut_teacher"] = "random"
    #: Speech of the train split that `cut_teacher` fits the student's layers on.
    init_seconds: float = Field(300.0, gt=0)
    #: The peak learning rate that suits this start; None: that of `distill`.
    learning_rate: float | None = Field(None, gt=0)

    def changed(self, changes: Mapping[str, Any]) -> "StudentParams":
        """This student with other fields; sections are merged key by key. Raises ValueError for a key that is none."""
        return StudentParams.model_validate(merge(self.model_dump(mode="json"), changes))
