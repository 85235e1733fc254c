"""The architecture of a student, in full: what `build_student` turns into modules."""

from typing import Literal

from pydantic import Field, model_validator

from fithubert.config.base import StrictModel


class TimeReductionConfig(StrictModel):
    """Where and how the frame rate drops. `before_layer` counts transformer layers from 0: 0 is the paper's place."""

    kind: Literal["conv1d", "fc1", "fc2", "mean", "none"] = "conv1d"
    factor: int = Field(2, ge=2, le=4)
    before_layer: int = Field(0, ge=0)
    #: Lose the last frame of odd lengths, as the authors' code does. Only imported checkpoints set this.
    drop_last_frame: bool = False


class HeadsConfig(StrictModel):
    """The projection heads: which student layers they read and which teacher layers they predict.

    `kind` `per_layer`: one upsampler + linear per entry (FitHuBERT). `shared`: several predictions from the last layer
    through one hidden projection (DistilHuBERT). `layer_map` pairs (student layer, teacher layer), layers from 1.
    """

    kind: Literal["per_layer", "shared"] = "per_layer"
    layer_map: tuple[tuple[int, int], ...]
    teacher_width: int = Field(768, gt=0)
    upsampling: Literal["transposed_conv", "repeat"] = "transposed_conv"


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
        outside = [s for s, _ in self.heads.layer_map if not 1 <= s <= self.depth]
        if outside:
            raise ValueError(f"heads.layer_map: student layer {outside[0]} is not in 1..{self.depth}")
        return self
