"""The section `students`: the architecture of a student and its start."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, Field, model_validator

from fithubert.config.base import Size, StrictModel, merge
from fithubert.config.hints import HintParams, PruneParams


class TimeReductionConfig(StrictModel):
    """Time reduction: how the frame rate drops, and before which transformer layer (from 0; the paper uses 0).

    `stack`: the projection reads `factor` frames at once, in front of the positional convolution. Others are behind it.
    """

    kind: Literal["conv1d", "fc1", "fc2", "mean", "stack", "none"] = "conv1d"
    factor: int = Field(2, ge=2, le=16)
    before_layer: int = Field(0, ge=0)
    #: Count groups as the authors' code does: an incomplete last one is dropped; with `fc1` it is completed, and a
    #: complete one is followed by one of zeros. Only imported checkpoints set this.
    drop_last_frame: bool = False


class MaskingConfig(StrictModel):
    """Spans of frames that are masked in training, as in HuBERT's pre-training (ARMHuBERT's masking distillation)."""

    #: Share of the frames that the spans cover [mask_prob].
    share: float = Field(0.8, gt=0, lt=1)
    #: Frames of one masked span [mask_length].
    span_frames: int = Field(10, gt=0)


class UnitHeadConfig(StrictModel):
    """The linear layer that scores the units of a teacher layer in training. Only `hints.units` sets it."""

    #: The student layer that it reads, from 0.
    layer: int = Field(ge=0)
    clusters: Size


class HeadsConfig(StrictModel):
    """The projection heads: which student layers they read and which teacher layers they predict.

    `kind`: `per_layer` has one upsampler and one linear layer per entry (FitHuBERT). `shared` makes several predictions
    from the last layer through one hidden projection (DistilHuBERT). `none` has no parameters and compares the layers
    themselves, with losses that allow any width (STaR).

    `layer_map`: pairs (student layer, teacher layer), counted from 1, or from 0 with `none`. Default: each layer with
    the teacher layer of the same number. The last entry is the last head.
    """

    kind: Literal["per_layer", "shared", "none"] = "per_layer"
    layer_map: tuple[tuple[int, int], ...]
    teacher_width: Size = 768
    upsampling: Literal["transposed_conv", "repeat"] = "transposed_conv"
    #: Width of each prediction's part of the hidden projection of `shared` heads; None: the student's width.
    hidden_width: Size | None = None
    #: Teacher layers whose heads a released student keeps although its read-out does not need them, and with them the
    #: teacher's `final_proj`. Voice conversion by RVC's first version reads layer 9.
    keep: tuple[int, ...] = ()
    #: Teacher layers whose heads the read-out `projections` reads; none named: those of all. The others only train.
    read: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _check_pairs(self) -> "HeadsConfig":
        if len(set(self.layer_map)) < len(self.layer_map):
            raise ValueError("layer_map: the same pair is listed twice")
        for name, layers in (("keep", self.keep), ("read", self.read)):
            for layer in layers:
                if layer not in {teacher_layer for _, teacher_layer in self.layer_map}:
                    raise ValueError(f"{name}: no head predicts teacher layer {layer}")
        return self


def _check_sizes(value: int | tuple[int, ...]) -> int | tuple[int, ...]:
    for size in value if isinstance(value, tuple) else (value,):
        if not 0 < size <= 2**16:
            raise ValueError(f"{size} is not in 1..{2**16}")
    return value


#: One number for all transformer layers, or one for each.
PerLayer = Annotated[int | tuple[int, ...], AfterValidator(_check_sizes)]


class LayerSizes(NamedTuple):
    """One transformer layer: its attention heads, the features of each, and its feed-forward units."""

    heads: int
    head_width: int
    ffn_width: int


class StudentConfig(StrictModel):
    """The architecture of a student. Sizes are counts of channels, features, layers or frames."""

    #: (channels, kernel, stride) of each convolution of the front end; none with `frontend: mel`.
    conv_layers: tuple[tuple[Size, Size, Size], ...] = Field(max_length=64)
    #: `group`: the first convolution, or the bands of `mel`, over the utterance. `layer`: each frame over its channels.
    conv_norm: Literal["group", "layer"] = "group"
    conv_bias: bool = False
    #: `conv`: convolutions of the waveform. `mel`: log-mel filter banks, two windows of 25 ms to each frame.
    frontend: Literal["conv", "mel"] = "conv"
    #: Bands of the filter banks of `mel`; with more, the lowest would hold no frequency of the spectrum.
    mel_bands: int = Field(80, ge=1, le=112)
    #: Layer norm between front end and projection (HuBERT and FitHuBERT have it, DistilHuBERT does not).
    feature_norm: bool = True
    width: Size
    depth: int = Field(gt=0, le=1000)
    #: Feed-forward units and attention heads of every transformer layer, or a list with one number for each.
    ffn_width: PerLayer
    attention_heads: PerLayer
    #: Features of one attention head; None: the width is divided among the heads.
    head_width: Size | None = None
    #: Transformer layers, counted from 0, that reuse the attention map of the layer before (ARMHuBERT).
    reuse_attention: tuple[int, ...] = ()
    #: A reused map goes through softmax a second time, as in ARMHuBERT's public code.
    second_softmax: bool = False
    #: Frames, at a layer's own rate, that a frame attends to on each side; None: all. Then a frame depends on a bounded
    #: part of the utterance (`frames.count_reach_frames`), and `stream` gives the states of the whole.
    context_frames: Size | None = None
    #: The function between the two maps of a feed-forward [activation_fn].
    activation: Literal["gelu", "relu"] = "gelu"
    #: A learnt embedding replaces random frames in training (ARMHuBERT); None masks no frames.
    masking: MaskingConfig | None = None
    #: Factor on the gradients that reach the front end [feature_grad_mult].
    frontend_gradient: float = Field(1.0, ge=0, le=1)
    #: Balance the gradients that a layer gets from its head and from the layers above [layer_grad_scale].
    balance_gradients: bool = False
    layer_norm_first: bool = False
    #: What a pre-norm student takes after its final layer norm: the last state and its heads; the heads only
    #: (DistilHuBERT); nothing (ARMHuBERT, STaRHuBERT).
    final_norm: Literal["all", "heads", "none"] = "all"
    pos_conv_kernel: Size = 128
    pos_conv_groups: Size = 16
    dropout: float = Field(0.1, ge=0, lt=1)
    attention_dropout: float = Field(0.1, ge=0, lt=1)
    activation_dropout: float = Field(0.1, ge=0, lt=1)
    input_dropout: float = Field(0.05, ge=0, lt=1)
    time_reduction: TimeReductionConfig = TimeReductionConfig()
    heads: HeadsConfig
    units: UnitHeadConfig | None = None
    #: The hidden states that downstream tasks read. `last`: the last head (the paper). `layers`: layers 0 to L.
    #: `projections`: every head, or those of `heads.read`. As other authors' code has it, `encoder`: the last layer,
    #: upsampled by shared heads (FitHuBERT without layer-wise heads); `outputs`: layers 1 to L (STaRHuBERT); `all`: the
    #: projected features, layers 1 to L and every head (s3prl's DistilHuBERT).
    readout: Literal["last", "layers", "projections", "encoder", "outputs", "all"] = "last"

    @model_validator(mode="before")
    @classmethod
    def _pair_layers(cls, values: Any) -> Any:
        """Pair each student layer with the teacher layer of the same number if no layer map is given."""
        heads = values.get("heads") if isinstance(values, dict) else None
        if isinstance(heads, dict) and "layer_map" not in heads and isinstance(values.get("depth"), int):
            identity = tuple((layer, layer) for layer in range(1, values["depth"] + 1))
            return {**values, "heads": {**heads, "layer_map": identity}}
        return values

    @model_validator(mode="after")
    def _check_sizes(self) -> "StudentConfig":
        self._check_layers()
        if self.context_frames is not None and self.conv_norm == "group":
            raise ValueError("context_frames: needs conv_norm: layer, since group norm reads the whole utterance")
        if self.width % self.pos_conv_groups:
            raise ValueError(f"pos_conv_groups {self.pos_conv_groups} does not divide width {self.width}")
        if (self.frontend == "mel") == bool(self.conv_layers):
            raise ValueError("conv_layers: frontend conv needs at least one convolution, frontend mel needs []")
        reduction = self.time_reduction
        if reduction.kind != "none" and reduction.before_layer >= self.depth:
            raise ValueError(f"time_reduction.before_layer must be 0..{self.depth - 1}")
        if reduction.kind == "stack" and (reduction.before_layer or reduction.drop_last_frame or self.masking):
            raise ValueError("time_reduction.kind stack: before_layer must be 0, drop_last_frame false, masking null")
        if self.readout in ("last", "projections", "all") and not self.heads.layer_map:
            raise ValueError(f"readout {self.readout!r} needs an entry in heads.layer_map")
        if self.heads.read and self.readout != "projections":
            raise ValueError("heads.read: needs readout: projections")
        for student_layer, teacher_layer in self.heads.layer_map:
            first = 0 if self.heads.kind == "none" else 1
            if not first <= student_layer <= self.depth:
                raise ValueError(f"heads.layer_map: student layer {student_layer} is not in {first}..{self.depth}")
            if teacher_layer < 0:
                raise ValueError(f"heads.layer_map: teacher layer {teacher_layer} is negative")
            if self.heads.kind == "shared" and student_layer != self.depth:
                raise ValueError(f"heads.layer_map: shared heads read the last layer, {self.depth}, only")
        if self.units is not None and self.units.layer > self.depth:
            raise ValueError(f"hints.units.student_layer: {self.units.layer} is not in 0..{self.depth}")
        return self

    def _check_layers(self) -> None:
        """Raise ValueError if the sizes of a transformer layer, or the attention map that it reuses, do not fit."""
        for name in ("ffn_width", "attention_heads"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != self.depth:
                raise ValueError(f"{name}: {len(value)} numbers for {self.depth} layers; give one for each layer")
        for heads in _per_layer(self.attention_heads, self.depth):
            if self.head_width is None and self.width % heads:
                raise ValueError(f"attention_heads {heads} does not divide width {self.width}; set head_width")
        without_map = {0} | ({self.time_reduction.before_layer} if self.time_reduction.kind != "none" else set())
        for layer in self.reuse_attention:
            if layer in without_map or not 0 < layer < self.depth:
                raise ValueError(f"reuse_attention: layer {layer} has no layer before it at the same frame rate")
            if self.layer_sizes[layer].heads != self.layer_sizes[layer - 1].heads:
                raise ValueError(f"reuse_attention: layer {layer} must have as many heads as layer {layer - 1}")

    @property
    def layer_sizes(self) -> tuple[LayerSizes, ...]:
        """The sizes of every transformer layer."""
        heads, units = (_per_layer(value, self.depth) for value in (self.attention_heads, self.ffn_width))
        return tuple(LayerSizes(n, self.head_width or self.width // n, m) for n, m in zip(heads, units, strict=True))

    @property
    def first_reduced(self) -> int:
        """The first layer (0..depth) whose state has the reduced frame rate; depth + 1 if none has."""
        if self.time_reduction.kind == "none":
            return self.depth + 1
        before = self.time_reduction.before_layer
        return before + 1 if before > 0 else 0

    def factor_of(self, layer: int) -> int:
        """The factor by which the frame rate of the state of `layer` (0..depth) is reduced."""
        return self.time_reduction.factor if layer >= self.first_reduced else 1

    @property
    def repeats(self) -> tuple[int, ...]:
        """How many equal frames of each head follow one another, by its layer's reduced frame rate."""
        plain = self.heads.kind == "none" or self.heads.upsampling == "repeat"
        return self.factors if plain else (1,) * len(self.factors)

    @property
    def factors(self) -> tuple[int, ...]:
        """The factor by which the frame rate of each head's layer is reduced."""
        return tuple(self.factor_of(layer) for layer, _ in self.heads.layer_map)

    @property
    def read_pairs(self) -> tuple[tuple[int, int], ...]:
        """The entries of the layer map whose heads the read-out needs."""
        reduced = self.time_reduction.kind != "none" and self.heads.upsampling == "transposed_conv"
        if self.readout in ("projections", "all"):
            read = self.heads.read
            return tuple(pair for pair in self.heads.layer_map if not read or pair[1] in read)
        if self.readout == "last" or (self.readout == "encoder" and reduced and self.heads.kind == "shared"):
            # An upsampling that shared heads have in common lasts as long as one of them.
            return self.heads.layer_map[-1:]
        return ()

    def released(self) -> "StudentConfig":
        """This architecture without what only training needs: other heads, the unit head, the mask embedding."""
        read, keep = self.read_pairs, self.heads.keep
        pairs = tuple(pair for pair in self.heads.layer_map if pair in read or pair[1] in keep)
        heads = self.heads.model_copy(update={"layer_map": pairs})
        return self.model_copy(update={"heads": heads, "units": None, "masking": None})


def _per_layer(value: int | tuple[int, ...], depth: int) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,) * depth


class StudentParams(StrictModel):
    """One student: a recipe, the changes to it, its hints and its initial weights."""

    recipe: str
    #: Fields of StudentConfig that replace the recipe's; nested sections are merged key by key.
    shape: dict[str, Any] = {}
    hints: HintParams = HintParams()
    #: Initial weights: random; a copy of the lowest teacher layers; or the whole teacher, cut to the student's size.
    #: `prune` is `cut_teacher` with a student that then becomes smaller while it learns: `shape` is that at the start.
    init: Literal["random", "teacher_layers", "cut_teacher", "prune"] = "random"
    prune: PruneParams | None = None
    #: Seconds of train speech on which `cut_teacher` and `prune` fit the layers of the student.
    init_seconds: float = Field(300.0, gt=0)
    #: The peak learning rate for these initial weights; None: that of `distill`.
    learning_rate: float | None = Field(None, gt=0)
    #: 0 leaves the initial weights as they are; None: those of `distill`.
    updates: int | None = Field(None, ge=0)
    #: Other keys of `distill` that differ for this student.
    distill: dict[str, Any] = {}

    @model_validator(mode="after")
    def _check_prune(self) -> "StudentParams":
        if (self.init == "prune") != (self.prune is not None):
            raise ValueError("prune: goes with init: prune, which needs prune.macs_per_second or prune.share")
        return self

    def changed(self, changes: Mapping[str, Any]) -> "StudentParams":
        """A copy with some fields changed; sections are merged key by key. Raises ValueError for an unknown key."""
        return StudentParams.model_validate(merge(self.model_dump(mode="json"), changes))
