"""The canonical HuBERT-family model: any checkpoint becomes this module, exact under padding.

Source: Hsu et al. 2021; fairseq `HubertModel`; checked against torchaudio and transformers in tests/importers.
Differs: the group norm of the first convolution leaves padding out of its statistics (see `models.frontend`).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fithubert.config.teacher import HubertConfig, Precision
from fithubert.errors import UserError
from fithubert.files import digest
from fithubert.frames import attention_mask, count_frames, padding_mask
from fithubert.models.canonical import Projection, canonical_state, digest_model
from fithubert.models.encoder import (
    EncoderLayer,
    EncoderLayerConfig,
    PositionalConv,
    PositionalConvStack,
    RelativePositions,
)
from fithubert.models.frontend import ConvFrontend
from fithubert.models.speech_model import Locality, SpeechOutput, run_one_by_one

#: The layer that RVC's first version reads through `final_proj`.
PROJECTED_LAYER = 9
#: Features from which on a model counts as wide: HuBERT Base has 768.
_WIDE = 512


class HubertModel(nn.Module):
    """Front end, projection, positional convolution and transformer layers of `config`'s shape."""

    def __init__(self, config: HubertConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.frontend = ConvFrontend(config.conv_layers, config.conv_norm, config.conv_bias)
        self.feature_norm = nn.LayerNorm(self.frontend.width) if config.feature_norm else None
        self.projection = nn.Linear(self.frontend.width, config.width)
        self.positional = _build_positional(config)
        self.encoder_norm = nn.LayerNorm(config.width)
        gated = config.relative_buckets is not None
        sizes = (config.width, config.ffn_width, config.attention_heads)
        layer = EncoderLayerConfig(*sizes, dropout, dropout, norm_first=config.norm_first, gated_positions=gated)
        self.layers = nn.ModuleList(EncoderLayer(layer) for _ in range(config.depth))
        self.relative: RelativePositions | None = None
        if config.relative_buckets is not None:
            self.relative = RelativePositions(
                config.relative_buckets, config.relative_max_distance, config.attention_heads
            )

    def forward(
        self, waveforms: Tensor, lengths: Tensor, last_layer: int | None = None, masked: "MaskedFrames | None" = None
    ) -> SpeechOutput:
        """Hidden states 0..`last_layer` (all: None) of waveforms (batch, samples) at 16 kHz.

        Layer 0 is the input of the first transformer layer, layers 1..L the outputs; in a pre-norm model the last one
        is taken after the final layer norm, as s3prl has it (transformers: `last_hidden_state`). `masked` replaces
        frames before the encoder.
        """
        if self.config.normalise_waveform:
            waveforms = normalise_waveforms(waveforms, lengths, self.config.waveform_epsilon)
        x, frames = self.frontend(waveforms, lengths)
        x = self.project(x)
        if masked is not None:
            x = torch.where(masked.mask[:, :, None], masked.embedding.to(x.dtype), x)
        return SpeechOutput(self.encode(x, frames, last_layer), frames)

    def project(self, x: Tensor) -> Tensor:
        """The encoder's width for features `x` (batch, time, channel) of the front end, normed before it."""
        return self.projection(x if self.feature_norm is None else self.feature_norm(x))

    def encode(self, x: Tensor, lengths: Tensor | None, last_layer: int | None = None) -> tuple[Tensor, ...]:
        """Hidden states 0..`last_layer` (all: None) of projected frames `x` (batch, time, feature).

        `lengths` (batch,) frames; None: nothing is padded.
        """
        x = x + self.positional(x, lengths)
        if not self.config.norm_first:
            x = self.encoder_norm(x)
        depth = len(self.layers) if last_layer is None else last_layer
        states = [x]
        mask = attention_mask(lengths, x.shape[1])
        bias = self.relative(x.shape[1]) if self.relative is not None else None
        for layer in self.layers[:depth]:
            x = layer(x, mask, position_bias=bias)
            states.append(x)
        if self.config.norm_first and depth == len(self.layers):
            states[-1] = self.encoder_norm(x)
        return tuple(states)


class MaskedFrames(NamedTuple):
    """The frames `mask` (batch, time) bool that the learnt `embedding` (feature,) replaces before the encoder."""

    mask: Tensor
    embedding: Tensor


def normalise_waveforms(waveforms: Tensor, lengths: Tensor, epsilon: float) -> Tensor:
    """Zero mean and unit variance over each utterance's own samples; padding becomes 0 (fairseq `normalize`).

    `epsilon` is added to the variance; on quiet speech it decides the result (`HubertConfig.waveform_epsilon`).
    """
    mask = padding_mask(lengths, waveforms.shape[1])
    count = lengths[:, None].to(waveforms.dtype)
    mean = (waveforms * mask).sum(1, keepdim=True) / count
    centred = (waveforms - mean) * mask
    variance = centred.square().sum(1, keepdim=True) / count
    return centred * torch.rsqrt(variance + epsilon)


class HubertTeacher:
    """A frozen `HubertModel` that answers as a `SpeechModel`.

    `mask_embedding` (feature,): replaced masked frames in pre-training; None if unknown. `final_proj`: the linear map
    of its states to the space in which pre-training compared them with its labels (ContentVec's and HuBERT's
    `final_proj`, 256 wide); None if unknown. Neither is part of the hidden states of unmasked speech, and so not of the
    fingerprint.
    """

    def __init__(
        self, model: HubertModel, name: str, mask_embedding: Tensor | None = None, final_proj: Projection | None = None
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.name, self.final_proj = name, final_proj
        self.mask_embedding = None if mask_embedding is None else mask_embedding.detach().float().cpu()
        self.widths = (model.config.width,) * (model.config.depth + 1)
        self.convolutions, self.frame_multiple = model.frontend.convolutions, 1
        self.locality = Locality()
        self.precision: Precision = "float32"
        self._weights = fingerprint_weights(model)

    @property
    def fingerprint(self) -> str:
        """A digest of the weights, and of a half precision."""
        return self._weights if self.precision == "float32" else digest(self._weights, self.precision)

    @property
    def device(self) -> torch.device:
        """The device of the weights, to which inputs are moved."""
        return self.model.projection.weight.device

    def to(self, device: torch.device | str) -> "HubertTeacher":
        """This teacher with its weights on `device`."""
        self.model.to(device)
        return self

    @torch.inference_mode()
    def __call__(
        self, waveforms: Tensor, lengths: Tensor, last_layer: int | None = None, masked: Tensor | None = None
    ) -> SpeechOutput:
        """Hidden states of waveforms (batch, samples) float32 at 16 kHz, lengths (batch,) in samples.

        The mask embedding replaces the frames of `masked` (batch, time) bool before the encoder. Raises UserError if
        frames are masked and the teacher has no mask embedding.
        """
        waveforms, lengths = waveforms.to(self.device), lengths.to(self.device)
        frames = None if masked is None else MaskedFrames(masked.to(self.device), self._find_mask_embedding())
        half = self.precision != "float32"
        with torch.autocast(self.device.type, getattr(torch, self.precision) if half else None, enabled=half):
            if self._gains_from_batches or len(lengths) == 1:
                out = self.model(waveforms, lengths, last_layer, frames)
            else:
                out = self._run_one_by_one(waveforms, lengths, last_layer, frames)
        return SpeechOutput(tuple(state.float() for state in out.hidden_states), out.lengths)

    def _find_mask_embedding(self) -> Tensor:
        if self.mask_embedding is None:
            raise UserError(f"teacher {self.name!r}: has no mask embedding, so its frames cannot be masked")
        return self.mask_embedding.to(self.device)

    @property
    def _gains_from_batches(self) -> bool:
        # On a CPU a wide model is at its limit with one utterance: a batch only adds padding (benchmarks/teachers.py).
        return self.device.type != "cpu" or self.model.config.width < _WIDE

    def _run_one_by_one(
        self, waveforms: Tensor, lengths: Tensor, last_layer: int | None, masked: MaskedFrames | None
    ) -> SpeechOutput:
        def run(row: int, waveform: Tensor) -> Sequence[Tensor]:
            one, alone = slice(row, row + 1), masked
            if masked is not None:
                frames = count_frames(waveform.shape[1], self.convolutions)
                alone = MaskedFrames(masked.mask[one, :frames], masked.embedding)
            return self.model(waveform, lengths[one], last_layer, alone).hidden_states

        return run_one_by_one(run, waveforms, lengths, self.convolutions)


def _build_positional(config: HubertConfig) -> PositionalConv | PositionalConvStack:
    shape = config.width, config.pos_conv_kernel, config.pos_conv_groups
    if config.pos_conv_depth > 1:
        return PositionalConvStack(*shape, config.pos_conv_depth)
    return PositionalConv(*shape, config.pos_conv_batch_norm)


def fingerprint_weights(model: HubertModel) -> str:
    """A digest of the shape and of every weight, the same wherever the checkpoint came from."""
    # Defaults are left out, so that an option that a later version adds leaves the fingerprints of before.
    return digest_model(model.config.model_dump_json(exclude_defaults=True), canonical_state(model))
