"""The section `students`: the architecture of a student, its hints and its start."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from fithubert.config.base import StrictModel, merge


class TimeReductionConfig(StrictModel):
    """Where and how the frame rate drops. `before_layer` counts transformer layers from 0: 0 is the paper's place."""

    kind: Literal["conv1d", "fc1", "fc2", "mean", "none"] = "conv1d"
    factor: int = Field(2, ge=2, le=4)
    before_layer: int = Field(0, ge=0)
    #: Lose the last frame of odd lengths, as the authors' code does. Only imported checkpoints set this.
    drop_last_frame: bool = False


class MaskingConfig(StrictModel):
    """Frames hidden from a student in training, as in HuBERT's pre-training (ARMHuBERT's masking distillation)."""

    #: Share of the frames that the spans cover [mask_prob].
    share: float = Field(0.8, gt=0, lt=1)
    #: Frames in a row that are hidden together [mask_length].
    span_frames: int = Field(10, gt=0)


class HeadsConfig(StrictModel):
    """The projection heads: which student layers they read and which teacher layers they predict.

    `kind` `per_layer`: one upsampler + linear per entry (FitHuBERT). `shared`: several predictions from the last layer
    through one hidden projection (DistilHuBERT). `none`: the layers themselves, without parameters, for losses that
    compare widths of any size (STaR). `layer_map` pairs (student layer, teacher layer), layers from 1, or with `none`
    from 0; left out, each layer is paired with the teacher's of the same number. The last entry is the last head.
    """

    kind: Literal["per_layer", "shared", "none"] = "per_layer"
    layer_map: tuple[tuple[int, int], ...]
    teacher_width: int = Field(768, gt=0)
    upsampling: Literal["transposed_conv", "repeat"] = "transposed_conv"
    #: Width of each prediction's part of the hidden projection of `shared` heads; None: the student's width.
    hidden_width: int | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _check_pairs(self) -> "HeadsConfig":
        if len(set(self.layer_map)) < len(self.layer_map):
            raise ValueError("layer_map: a pair is there twice")
        return self


class StudentConfig(StrictModel):
    """A student's whole shape. Sizes are counts of channels, features, layers or frames."""

    #: (channels, kernel, stride) of each convolution of the front end.
    conv_layers: tuple[tuple[int, int, int], ...]
    conv_norm: Literal["group", "layer"] = "group"
    conv_bias: bool = False
    #: Layer norm between front end and projection (HuBERT and FitHuBERT have it, DistilHuBERT does not).
    feature_norm: bool = True
    width: int = Field(gt=0)
    depth: int = Field(gt=0)
    ffn_width: int = Field(gt=0)
    attention_heads: int = Field(gt=0)
    #: Transformer layers, counted from 0, that attend as the layer before them did (ARMHuBERT).
    reuse_attention: tuple[int, ...] = ()
    #: A learnt embedding takes the place of random frames in training (ARMHuBERT); None hides none.
    masking: MaskingConfig | None = None
    #: Factor on the gradients that reach the front end [feature_grad_mult].
    frontend_gradient: float = Field(1.0, gt=0, le=1)
    #: Balance the gradients that a layer gets from its head and from the layers above [layer_grad_scale].
    balance_gradients: bool = False
    layer_norm_first: bool = False
    pos_conv_kernel: int = Field(128, gt=0)
    pos_conv_groups: int = Field(16, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    attention_dropout: float = Field(0.1, ge=0, lt=1)
    activation_dropout: float = Field(0.1, ge=0, lt=1)
    input_dropout: float = Field(0.05, ge=0, lt=1)
    time_reduction: TimeReductionConfig = TimeReductionConfig()
    heads: HeadsConfig
    #: What downstream use reads: the last head (the paper), every block, or every head.
    readout: Literal["last", "layers", "projections"] = "last"

    @model_validator(mode="before")
    @classmethod
    def _pair_layers(cls, values: Any) -> Any:
        """Each student layer with the teacher's of the same number, where no layer map is given."""
        heads = values.get("heads") if isinstance(values, dict) else None
        if isinstance(heads, dict) and "layer_map" not in heads and isinstance(values.get("depth"), int):
            identity = tuple((layer, layer) for layer in range(1, values["depth"] + 1))
            return {**values, "heads": {**heads, "layer_map": identity}}
        return values

    @model_validator(mode="after")
    def _check_sizes(self) -> "StudentConfig":
        if self.width % self.attention_heads:
            raise ValueError(f"attention_heads {self.attention_heads} does not divide width {self.width}")
        if self.width % self.pos_conv_groups:
            raise ValueError(f"pos_conv_groups {self.pos_conv_groups} does not divide width {self.width}")
        if any(n <= 0 for layer in self.conv_layers for n in layer):
            raise ValueError("conv_layers: channels, kernels and strides must be positive")
        if self.time_reduction.kind != "none" and self.time_reduction.before_layer >= self.depth:
            raise ValueError(f"time_reduction.before_layer must be 0..{self.depth - 1}")
        if self.readout != "layers" and not self.heads.layer_map:
            raise ValueError(f"readout {self.readout!r} needs an entry in heads.layer_map")
        for student_layer, teacher_layer in self.heads.layer_map:
            first = 0 if self.heads.kind == "none" else 1
            if not first <= student_layer <= self.depth:
                raise ValueError(f"heads.layer_map: student layer {student_layer} is not in {first}..{self.depth}")
            if teacher_layer < 0:
                raise ValueError(f"heads.layer_map: teacher layer {teacher_layer} is negative")
            if self.heads.kind == "shared" and student_layer != self.depth:
                raise ValueError(f"heads.layer_map: shared heads read the last layer, {self.depth}, only")
        without_map = {0} | ({self.time_reduction.before_layer} if self.time_reduction.kind != "none" else set())
        for layer in self.reuse_attention:
            if layer in without_map or not 0 < layer < self.depth:
                raise ValueError(f"reuse_attention: layer {layer} has no layer before it at the same frame rate")
        return self

    @property
    def first_reduced(self) -> int:
        """The first layer (0..depth) whose state has the reduced frame rate; depth + 1 where none has."""
        if self.time_reduction.kind == "none":
            return self.depth + 1
        before = self.time_reduction.before_layer
        return before + 1 if before > 0 else 0

    def factor_of(self, layer: int) -> int:
        """By how much the frame rate of `layer`'s state (0..depth) is reduced."""
        return self.time_reduction.factor if layer >= self.first_reduced else 1

    def released(self) -> "StudentConfig":
        """This shape without what only training needs: heads that `readout` does not read, the mask embedding."""
        pairs = {"last": self.heads.layer_map[-1:], "layers": (), "projections": self.heads.layer_map}[self.readout]
        heads = self.heads.model_copy(update={"layer_map": pairs})
        return self.model_copy(update={"heads": heads, "masking": None})


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
