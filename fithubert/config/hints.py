"""The parts `hints` and `prune` of a student's parameters: what it learns, and how it becomes smaller meanwhile."""

from typing import Literal

from pydantic import Field, model_validator

from fithubert.config.base import Size, StrictModel


class UnitsParams(StrictModel):
    """The hint `units`: the student names the k-means cluster of every frame of a teacher layer, by cross-entropy.

    Source: HuBERT's targets (Hsu et al. 2021), as a hint without masks; DiceHuBERT (2507.02911) trains on them alone.
    The clusters are fitted at the start of the training, on training speech, and kept in its checkpoints.
    """

    teacher_layer: int = Field(ge=0)
    #: The student layer that a linear layer reads; None: the last. It scores each teacher frame that a frame of a
    #: reduced layer stands for, and is dropped after training.
    student_layer: int | None = Field(None, ge=0)
    clusters: Size = 100
    weight: float = Field(1.0, gt=0)
    #: Training speech that the clusters are fitted on.
    seconds: float = Field(300.0, gt=0)


class HintParams(StrictModel):
    """The hint loss: a weighted sum over heads of the terms named in `losses`, each with its weight.

    Published FitHuBERT: `mse`, last head 1.0, every other head 0.1. DistilHuBERT: `l1` + `cosine`, both weights 1.0,
    `average_heads`. STaR: `gram` + `intra_gram` on heads of kind `none`, last and other heads 1.0.
    """

    losses: dict[Literal["mse", "l1", "cosine", "gram", "intra_gram"], float] = {"mse": 1.0}
    last_weight: float = Field(1.0, ge=0)
    hint_weight: float = Field(0.1, ge=0)
    #: Hint heads drawn for each epoch in addition to the last head; None uses all.
    random_hints: int | None = Field(None, ge=1)
    #: Share of the updates in which heads are added one by one from the lowest layer up (FitNets, Romero et al. 2015).
    #: Until then the highest one has the weight of the last head. 0 trains all heads from the start.
    bottom_up_share: float = Field(0.0, ge=0, le=1)
    #: ARMHuBERT's masking distillation: the targets of unmasked frames come from a teacher with masked input, those of
    #: masked frames from one with unmasked input. Needs `shape.masking` and live targets.
    masked_teacher: bool = False
    #: Share of the updates after which frames are masked, and `masked_teacher` begins; 0 masks from the start.
    masking_from: float = Field(0.0, ge=0, lt=1)
    #: Divide the sum by the number of heads.
    average_heads: bool = False
    #: Divide each term of a head by the scale of its teacher layer, measured on training speech at the start: `gram`
    #: and `intra_gram` by the mean squared product of two frames, `mse` by the variance, `l1` by its root. Then equal
    #: relative errors cost the same on every layer. `units` is divided by the entropy of the units; `cosine` has no
    #: scale.
    normalise: bool = False
    #: Gram terms compare frames less their mean over the utterance, which holds the voice.
    gram_centred: bool = False
    #: What Gram terms compare with a teacher layer: the prediction of its head, or the student layer that the head
    #: reads, at that layer's own frame rate. Without heads (`heads.kind: none`) both are the same.
    gram_of: Literal["heads", "layers"] = "heads"
    units: UnitsParams | None = None

    @model_validator(mode="after")
    def _check_terms(self) -> "HintParams":
        if not any(self.losses.values()) or min(self.losses.values()) < 0:
            raise ValueError("losses: needs at least one term, and no negative weight")
        if "intra_gram" in self.losses and self.random_hints is not None:
            raise ValueError("random_hints: intra_gram compares neighbouring heads, so it needs all heads")
        if self.gram_of == "layers" and not self.losses.keys() - {"gram", "intra_gram"}:
            raise ValueError("gram_of: layers leaves the heads untrained; add mse, or use heads.kind: none without it")
        if self.bottom_up_share and self.random_hints is not None:
            raise ValueError("bottom_up_share: cannot be combined with random_hints; leave one of them out")
        return self


class PruneParams(StrictModel):
    """Learned pruning to a number of multiply-accumulates per second of audio (of 10 s), or a share of the teacher's.

    Source: DPHuBERT (Peng et al. 2023). It prunes to a number of parameters in two thirds of the updates, which reach
    the target after a tenth; this is its peak learning rate for 50,000 of them.
    """

    macs_per_second: float | None = Field(None, gt=0)
    share: float | None = Field(None, gt=0)
    #: Share of the updates that prune. The others train the smaller student, with a warm-up of their own.
    updates_share: float = Field(0.5, gt=0, lt=1)
    #: Share of the pruning updates in which the permitted cost falls to the target.
    ramp_share: float = Field(0.5, gt=0, le=1)
    #: The learning rate of the gates and of the multipliers, without a schedule. Fewer updates need a higher one.
    learning_rate: float = Field(0.02, gt=0)

    @model_validator(mode="after")
    def _check_target(self) -> "PruneParams":
        if (self.macs_per_second is None) == (self.share is None):
            raise ValueError("give one of macs_per_second and share")
        return self
