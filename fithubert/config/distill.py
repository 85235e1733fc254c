"""The section `distill`: how every student is trained."""

from typing import Annotated, Literal

from pydantic import Field

from fithubert.config.base import StrictModel

Beta = Annotated[float, Field(ge=0, lt=1)]


class DistillParams(StrictModel):
    """How every student is trained. An update reads at most `batch_seconds` of padded audio."""

    targets: Literal["cached", "live"] = "cached"
    seed: int = Field(1, ge=0)
    #: 0 keeps the first weights as they are.
    updates: int = Field(2000, ge=0)
    batch_seconds: float = Field(32.0, gt=0)
    #: Longer utterances are cropped at a random frame edge; None keeps them whole.
    crop_seconds: float | None = Field(8.0, gt=0)
    #: `shards` takes the cache's shards one after the other, in a drawn order: for a cache larger than the memory.
    shuffle: Literal["corpus", "shards"] = "corpus"
    learning_rate: float = Field(5e-4, gt=0)
    warmup_share: float = Field(0.05, ge=0, lt=1)
    weight_decay: float = Field(1e-6, ge=0)
    betas: tuple[Beta, Beta] = (0.9, 0.98)
    epsilon: float = Field(1e-6, gt=0)
    gradient_clip: float | None = Field(None, gt=0)
    #: Forward passes that one update is cut into on each rank; the update itself stays the same.
    accumulate: int = Field(1, gt=0)
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    #: Decay of a moving average of the weights, which is then evaluated and saved; None keeps no average.
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
