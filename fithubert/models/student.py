"""The student: front end, projection, positional convolution, time reduction, transformer layers, heads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fithubert.config.students import StudentConfig
from fithubert.errors import UserError
from fithubert.frames import (
    attention_mask,
    count_samples,
    count_stacked_frames,
    draw_mask,
    keep_whole,
    pad_waveforms,
    reduce_lengths,
)
from fithubert.models.encoder import EncoderLayer, EncoderLayerConfig, PositionalConv
from fithubert.models.frontend import TimeReduction, build_frontend, group_frames, repeat_frames
from fithubert.models.heads import LayerHead, ScaledGradient, build_heads


@dataclass(frozen=True)
class StudentOutput:
    """The output of a student for one padded batch, all at the teacher's frame rate.

    `hidden_states`: layer 0..L, each (batch, time, feature); reduced layers have their frames repeated. `lengths`:
    (batch,) valid frames. `projections[i]` (batch, time, teacher feature) belongs to `config.heads.layer_map[i]`.
    Values at or after an utterance's length mean nothing.
    """

    hidden_states: tuple[Tensor, ...]
    lengths: Tensor
    projections: tuple[Tensor, ...]


torch.export.register_dataclass(StudentOutput)


@dataclass(frozen=True)
class Encoded:
    """Layers 0..k at the frame rates they are computed at (`config.factor_of`).

    `head_states`: the layers as heads read them (see `final_norm`). `features` (batch, time, feature): the input of the
    positional convolution, of which each is for `stacked` frames. `lengths` (batch,) and `num_frames` count the
    student's own frames at the teacher's rate (see `frame_multiple`).
    """

    features: Tensor
    states: tuple[Tensor, ...]
    head_states: tuple[Tensor, ...]
    lengths: Tensor
    num_frames: int


class Hinted(NamedTuple):
    """What a training compares with the teacher, for the requested heads in order.

    `projections`: (batch, time, teacher feature) each, at the teacher's rate. `lengths`: (batch,) valid frames.
    `states`: the layers that the heads read, (batch, time, feature) each at its own rate. `units`: (batch, time,
    clusters) scores at the teacher's rate, None without `config.units`.
    """

    projections: tuple[Tensor, ...]
    lengths: Tensor
    states: tuple[Tensor, ...]
    units: Tensor | None


class Student(nn.Module):
    """A student of `config`'s shape; `build_student` makes one.

    Source: Lee et al. 2022 (FitHuBERT), sections 2 and 3; module and state names are those of the canonical HuBERT
    model, so that a teacher's weights fit if the shapes agree. In a pre-norm student the last state, and with it
    the last head, is taken after the final layer norm (the authors' code does so downstream but not in training),
    unless `final_norm` says otherwise.

    `final_proj`: weight and bias of the teacher's linear map behind its states, which an export may put behind a head.
    It is no parameter, and no part of the fingerprint.
    """

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.config = config
        reduction = config.time_reduction
        self.frontend = build_frontend(config)
        self.feature_norm = nn.LayerNorm(self.frontend.width) if config.feature_norm else None
        self.stacked = count_stacked_frames(reduction)
        features = self.frontend.width * self.stacked
        # fairseq: no projection if the width stays the same
        self.projection = nn.Linear(features, config.width) if features != config.width else None
        self.mask_embedding = nn.Parameter(torch.rand(config.width)) if config.masking is not None else None
        self.positional = PositionalConv(config.width, config.pos_conv_kernel, config.pos_conv_groups)
        self.encoder_norm = nn.LayerNorm(config.width)
        self.time_reduction = None
        if reduction.kind not in ("none", "stack"):
            self.time_reduction = TimeReduction(
                reduction.kind, config.width, reduction.factor, reduction.drop_last_frame
            )
        rates = (config.dropout, config.attention_dropout, config.activation_dropout)
        kind: dict[str, Any] = {"norm_first": config.layer_norm_first, "activation": config.activation}
        self.layers = nn.ModuleList()
        for index, (heads, head_width, units) in enumerate(config.layer_sizes):
            reuse = index in config.reuse_attention
            layer = EncoderLayerConfig(config.width, units, heads, *rates, reuse, head_width=head_width, **kind)
            self.layers.append(EncoderLayer(layer))
        self.heads = build_heads(config)
        self.final_proj: tuple[Tensor, Tensor] | None = None
        self.unit_head = None
        if config.units is not None:
            factor = config.factor_of(config.units.layer)
            self.unit_head = LayerHead(config.width, config.units.clusters, factor, "transposed_conv")

    def forward(self, waveforms: Tensor | Sequence[Tensor], lengths: Tensor | None = None) -> StudentOutput:
        """Hidden states and all projections of waveforms (batch, samples) float32 at 16 kHz.

        `lengths` (batch,) int64 in samples; None if nothing is padded. A list of 1-D waveforms of any lengths needs
        none. Raises UserError if the longest waveform is shorter than one frame.
        """
        encoded = self.encode(waveforms, lengths)
        return StudentOutput(
            self.at_teacher_rate(encoded), encoded.lengths, self.heads(encoded.head_states, encoded.num_frames)
        )

    def hints(
        self,
        waveforms: Tensor | Sequence[Tensor],
        lengths: Tensor | None = None,
        heads: Sequence[int] | None = None,
        masked: Tensor | None = None,
    ) -> Hinted:
        """The outputs of `heads` (indices in the layer map; None: all) and of the unit head, nothing else.

        `masked` (batch, time) bool marks frames of the teacher's rate whose place the mask embedding takes, (1, 1) all
        or none; None draws them in training by `config.masking`.
        """
        pairs, units = self.config.heads.layer_map, self.config.units
        layers = [pairs[i][0] for i in (range(len(pairs)) if heads is None else heads)]
        deepest = max([*layers, 0 if units is None else units.layer])
        encoded = self.encode(waveforms, lengths, deepest, masked)
        states, frames = encoded.head_states, encoded.num_frames
        scores = None if self.unit_head is None or units is None else self.unit_head(states[units.layer], frames)
        outputs = self.heads(states, frames, heads)
        return Hinted(outputs, encoded.lengths, tuple(states[layer] for layer in layers), scores)

    def read(
        self, waveforms: Tensor | Sequence[Tensor], lengths: Tensor | None = None, last_layer: int | None = None
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """The states (batch, time, feature) that `config.readout` names, and their lengths (batch,), once released.

        Reduced layers have their frames repeated. `last_layer` counts the states from 0 and ends the result, and mostly
        the work, there. Inputs as in `forward`.
        """
        readout, end = self.config.readout, None if last_layer is None else last_layer + 1
        if readout in ("last", "projections"):
            heads = [self.config.heads.layer_map.index(pair) for pair in self.config.read_pairs]
            return self.hints(waveforms, lengths, heads if readout == "last" else heads[:end])[:2]
        depth = end if readout == "outputs" else last_layer
        encoded = self.encode(waveforms, lengths, depth if readout in ("layers", "outputs") else None)
        layers, frames = self.at_teacher_rate(encoded), encoded.num_frames
        if readout == "encoder":
            layers = (self.heads.upsample(encoded.states[-1], frames, self.config.factor_of(self.config.depth)),)
        elif readout == "outputs":
            layers = layers[1:]
        elif readout == "all":
            features = repeat_frames(encoded.features, self.stacked, frames)
            layers = (features, *layers[1:], *self.heads(encoded.head_states, frames))[:end]
        return layers, encoded.lengths

    @property
    def read_widths(self) -> tuple[int, ...]:
        """The feature size of each state that `read` returns."""
        config = self.config
        width = config.width if config.heads.kind == "none" else config.heads.teacher_width
        heads = (width,) * len(config.read_pairs)
        layers = (config.width,) * (config.depth + 1)
        widths = {"layers": layers, "outputs": layers[1:], "encoder": layers[:1], "all": layers + heads}
        return widths.get(config.readout, heads)

    def encode(
        self,
        waveforms: Tensor | Sequence[Tensor],
        lengths: Tensor | None = None,
        last_layer: int | None = None,
        masked: Tensor | None = None,
    ) -> Encoded:
        """Layers 0..`last_layer` (None: all) at the rates they are computed at."""
        waveforms, lengths = _as_batch(waveforms, lengths)
        count, shortest = waveforms.shape[1], self.shortest_samples
        if not torch.compiler.is_compiling() and count < shortest:
            raise UserError(f"a waveform of {count} samples gives no frame; at least {shortest} are needed")
        x, lengths = self.frontend(waveforms, lengths)
        num_frames, kept = keep_whole(x.shape[1], self.frame_multiple), keep_whole(lengths, self.frame_multiple)
        features, lengths = self._project(x, lengths, masked)
        x = self._add_positions(features, lengths)
        reduction, before = self.time_reduction, self.config.time_reduction.before_layer
        depth = self.config.depth if last_layer is None else last_layer
        if reduction is not None and before == 0:
            x, lengths = reduction(x, lengths)
        context = self.config.context_frames
        mask, attention_map, states = attention_mask(lengths, x.shape[1], context), None, [x]
        for index in range(depth):
            if reduction is not None and index == before > 0:
                x, lengths = reduction(x, lengths)
                mask = attention_mask(lengths, x.shape[1], context)
            x, attention_map = self._layer(index, x, mask, attention_map)
            if self.training and self.config.balance_gradients:
                above = (self.config.depth - index) / (self.config.depth - index + 1)
                x = ScaledGradient.apply(x, above)
                states.append(ScaledGradient.apply(x, 1 - above))
            else:
                states.append(x)
        layers = normed = tuple(states)
        if self.config.layer_norm_first and depth == self.config.depth:
            normed = (*layers[:-1], self.encoder_norm(layers[-1]))
        final = self.config.final_norm
        layers, head_states = normed if final == "all" else layers, layers if final == "none" else normed
        return Encoded(features, layers, head_states, kept, num_frames)

    def at_teacher_rate(self, encoded: Encoded) -> tuple[Tensor, ...]:
        """Encoded layers, those of the reduced rate with repeated frames: (batch, num_frames, feature) each."""
        return tuple(
            repeat_frames(x, self.config.factor_of(layer), encoded.num_frames) for layer, x in enumerate(encoded.states)
        )

    @property
    def frame_multiple(self) -> int:
        """Every frame count is a multiple of this: the factor of a reduction that drops an incomplete last group."""
        reduction = self.time_reduction
        return reduction.factor if reduction is not None and not reduction.added_frames else 1

    @property
    def shortest_samples(self) -> int:
        """The fewest samples that have a frame."""
        return count_samples(self.frame_multiple, self.frontend.convolutions)

    def _project(self, x: Tensor, lengths: Tensor, masked: Tensor | None) -> tuple[Tensor, Tensor]:
        """The output `x` of the front end and its lengths, stacked, projected and masked."""
        config = self.config
        if self.training and config.frontend_gradient != 1.0:
            x = ScaledGradient.apply(x, config.frontend_gradient)
        if self.feature_norm is not None:
            x = self.feature_norm(x)
        if self.stacked > 1:
            added = self.stacked - 1
            x, lengths = group_frames(x, lengths, self.stacked, added), reduce_lengths(lengths, self.stacked, added)
        if self.projection is not None:
            x = self.projection(x)
        x = F.dropout(x, config.input_dropout, self.training)
        if masked is None and config.masking is not None and self.training:
            masked = draw_mask(lengths, x.shape[1], config.masking)
        if masked is not None:
            if self.mask_embedding is None:
                raise ValueError("frames can be masked only in a student with masking")
            x = torch.where(masked[:, :, None], self.mask_embedding.to(x.dtype), x)
        return x, lengths

    def _add_positions(self, x: Tensor, lengths: Tensor) -> Tensor:
        """The input of the time reduction or of the first layer."""
        x = x + self.positional(x, lengths)
        if not self.config.layer_norm_first:
            x = self.encoder_norm(x)
        return F.dropout(x, self.config.dropout, self.training)

    def _layer(
        self, index: int, x: Tensor, mask: Tensor | None, attention_map: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Output of transformer layer `index` (from 0), and the attention map that the next layer may reuse."""
        layer: EncoderLayer = self.layers[index]  # type: ignore[assignment]
        if index in self.config.reuse_attention:
            return layer(x, mask, attention_map), attention_map
        own = layer.attention_map(x, mask) if index + 1 in self.config.reuse_attention else None
        passed = own
        if own is not None and self.config.second_softmax:
            passed = torch.softmax(own if mask is None else own.masked_fill(~mask, float("-inf")), dim=-1)
        return layer(x, mask, own), passed


def build_student(config: StudentConfig) -> Student:
    """A student of `config`'s shape with random weights and all its heads, in training mode."""
    return Student(config)


def _as_batch(waveforms: Tensor | Sequence[Tensor], lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    if not isinstance(waveforms, Tensor):
        return pad_waveforms(waveforms)
    if lengths is None:
        lengths = torch.full((waveforms.shape[0],), waveforms.shape[1], dtype=torch.int64, device=waveforms.device)
    return waveforms, lengths
