"""The section `teacher`, and the architecture of a HuBERT-family model."""

from typing import Literal

from pydantic import Field, model_validator

from fithubert.config.base import Size, StrictModel

#: Where and how a teacher is run. Its weights are float32 at any precision.
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["float32", "float16", "bfloat16"]
Runtime = Literal["torch", "compile", "onnx"]


class TeacherParams(StrictModel):
    """The teacher: `source` is any name that `load_teacher` takes (`mini` is embedded); the rest is how it runs."""

    source: str = "mini"
    #: auto: a GPU if there is one.
    device: Device = "auto"
    #: float16 and bfloat16 are for GPUs. Their hidden states differ slightly, so caches get another fingerprint.
    precision: Precision = "float32"
    #: `compile` is torch.compile; `onnx` is ONNX Runtime, the fastest on a CPU.
    runtime: Runtime = "torch"
    #: Train sentences (and a third as many of dev) for the phone probe of every layer; 0 skips the probe.
    probe_utterances: int = Field(240, ge=0)


class HubertConfig(StrictModel):
    """The architecture of a HuBERT-family model. Names in brackets are fairseq's options."""

    #: (channels, kernel, stride) of each convolution [conv_feature_layers].
    conv_layers: tuple[tuple[Size, Size, Size], ...] = Field(min_length=1, max_length=64)
    #: "group" after the first convolution only [extractor_mode default], "layer" after each.
    conv_norm: Literal["group", "layer"] = "group"
    conv_bias: bool = False
    width: Size
    depth: int = Field(gt=0, le=1000)
    ffn_width: Size
    attention_heads: Size
    #: Pre-norm layers [layer_norm_first].
    norm_first: bool = False
    pos_conv_kernel: Size = 128
    pos_conv_groups: Size = 16
    #: 1: one weight-normalised convolution; more: a stack with layer norms, as in data2vec [pos_conv_depth].
    pos_conv_depth: Size = 1
    #: Batch norm before the convolution instead of weight norm, as in mHuBERT-147 [conv_pos_batch_norm].
    pos_conv_batch_norm: bool = False
    #: Buckets of WavLM's gated relative position bias [num_buckets]; None: no bias.
    relative_buckets: int | None = Field(None, gt=0)
    #: Distances of this many frames and more share one bucket [max_distance].
    relative_max_distance: int = Field(800, gt=0)
    #: Layer norm between front end and projection [transformers: feat_proj_layer_norm].
    feature_norm: bool = True
    #: Zero mean and unit variance per utterance before the front end [normalize].
    normalise_waveform: bool = False
    #: Added to the variance of the waveform: fairseq and torchaudio 1e-5, transformers 1e-7.
    waveform_epsilon: float = Field(1e-5, gt=0, le=1e-3)

    @model_validator(mode="after")
    def _check_sizes(self) -> "HubertConfig":
        if self.width % self.attention_heads:
            raise ValueError(f"attention_heads {self.attention_heads} does not divide width {self.width}")
        if self.width % self.pos_conv_groups:
            raise ValueError(f"pos_conv_groups {self.pos_conv_groups} does not divide width {self.width}")
        if self.pos_conv_depth > 1 and self.pos_conv_batch_norm:
            raise ValueError("pos_conv_batch_norm: needs a single positional convolution; leave out pos_conv_depth")
        if self.relative_buckets is not None and self.relative_buckets % 4:
            raise ValueError(f"relative_buckets {self.relative_buckets}: must be a multiple of 4")
        return self


def hubert_base() -> HubertConfig:
    """HuBERT Base (Hsu et al. 2021, table 1): 94,370,944 parameters besides its mask embedding."""
    return HubertConfig(
        conv_layers=((512, 10, 5), *[(512, 3, 2)] * 4, *[(512, 2, 2)] * 2),
        width=768,
        depth=12,
        ffn_width=3072,
        attention_heads=12,
    )
