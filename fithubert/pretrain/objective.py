"""Masked prediction of units: the masks and overlaps of an update, the loss, and its regularisation."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fithubert.config.pretrain import PretrainParams, SpeakerParams
from fithubert.data.batching import Crop
from fithubert.frames import HUBERT_CONVOLUTIONS, count_samples, padding_mask, zero_padding
from fithubert.models.hubert import HubertModel, MaskedFrames
from fithubert.training.updates import Part, PlannedUpdate, derive_seed, split_update

#: fairseq's `final_dim` and `logit_temp`, of every published HuBERT Base.
_COSINE_WIDTH, _TEMPERATURE = 256, 0.1
#: The other voice of a mixed utterance covers at most this share of it.
_LONGEST_SHARE = 0.5
#: The energy of a mixed utterance over that of the other voice.
_RATIO_DB = (-5.0, 5.0)


@dataclass(frozen=True)
class Overlap:
    """`num_samples` of `crop`, from its sample `begin`, lie over an utterance from the sample `start` of that one.

    `ratio_db`: the energy of the utterance over that of the crop, both as a whole.
    """

    crop: Crop
    begin: int
    start: int
    num_samples: int
    ratio_db: float


@dataclass(frozen=True)
class MaskedPart:
    """One forward pass and its masked frames, (crops, time) bool. `seed`: of the dropout."""

    part: Part
    mask: Tensor
    seed: int


class Batch(NamedTuple):
    """The crops of one forward pass: waveforms (batch, samples), their lengths (batch,) in samples, their units.

    `units` (batch, time) int64, -1 at padding. `speakers` (batch,) int64: numbers from 0, -1 for an unknown one.
    """

    waveforms: Tensor
    lengths: Tensor
    units: Tensor
    speakers: Tensor


class Totals(NamedTuple):
    """Numbers in a whole update, so that sums over its parts are means over it."""

    masked_frames: int
    shown_frames: int
    crops: int


@dataclass(frozen=True)
class MaskedUpdate:
    """An update cut into forward passes.

    `dropped_layers`: transformer layers that the whole update leaves out. `overlaps`: other voices, by the row of the
    utterance that they lie over.
    """

    update: PlannedUpdate
    parts: tuple[MaskedPart, ...]
    totals: Totals
    dropped_layers: tuple[int, ...]
    overlaps: Mapping[int, Overlap]


def mask_update(params: PretrainParams, seed: int, update: PlannedUpdate, parts: int) -> MaskedUpdate:
    """`update` as `parts` forward passes; the mask and the overlaps are the same for any number of parts."""
    lengths = torch.tensor([crop.num_frames for crop in update.crops])
    generator = torch.Generator().manual_seed(derive_seed(seed, update.number, "mask"))
    mask = draw_overlapping_mask(lengths, int(lengths[-1]), params.mask_probability, params.mask_frames, generator)
    drawn = torch.rand(params.model.depth, generator=generator) < params.layer_dropout
    passes = []
    for part in split_update(update, parts):
        longest = part.crops[-1].num_frames
        passes.append(MaskedPart(part, mask[part.rows, :longest], derive_seed(seed, update.number, part.index)))
    masked_frames = int(mask.sum())
    dropped_layers = tuple(drawn.nonzero()[:, 0].tolist())
    overlaps = draw_overlaps(update.crops, params.mixing_probability, derive_seed(seed, update.number, "mixing"))
    totals = Totals(masked_frames, update.num_frames - masked_frames, len(update.crops))
    return MaskedUpdate(update, tuple(passes), totals, dropped_layers, overlaps)


def draw_overlapping_mask(
    lengths: Tensor, num_frames: int, probability: float, span_frames: int, generator: torch.Generator
) -> Tensor:
    """(batch, num_frames) bool: spans whose starts are drawn with rate `probability` / `span_frames`.

    Spans may overlap; at least one frame of every utterance is masked. Differs from fairseq's
    `compute_mask_indices`: each start is drawn on its own instead of a fixed number per utterance.
    """
    shape = (lengths.shape[0], num_frames)
    starts = torch.rand(shape, generator=generator, device=lengths.device) < probability / span_frames
    forced = (torch.rand(shape[0], generator=generator, device=lengths.device) * lengths).long()
    starts = starts | F.one_hot(forced, num_frames).bool()
    reach = F.max_pool1d(F.pad(starts.float()[:, None], (span_frames - 1, 0)), span_frames, stride=1)[:, 0]
    return (reach > 0) & padding_mask(lengths, num_frames)


def draw_overlaps(crops: Sequence[Crop], probability: float, seed: int) -> dict[int, Overlap]:
    """Utterance mixing: the overlaps of an update by the row of the utterance in `crops`; none for a single crop.

    Source: WavLM (Chen et al. 2022), section III.B and algorithm 1: another voice over part of an utterance, whose
    units stay those of its own voice. Differs: the other voice is a crop of the same update.
    """
    if len(crops) < 2 or probability == 0:
        return {}
    generator = torch.Generator().manual_seed(seed)
    # The same draws for every row, so that one row's do not depend on whether another one is mixed.
    draws = torch.rand(len(crops), 6, generator=generator, dtype=torch.float64).tolist()
    lengths = [count_samples(crop.num_frames, HUBERT_CONVOLUTIONS) for crop in crops]
    overlaps = {}
    for row, (mixed, partner, share, begin, start, ratio) in enumerate(draws):
        if mixed >= probability:
            continue
        other = (row + 1 + int(partner * (len(crops) - 1))) % len(crops)
        num_samples = min(1 + int(share * _LONGEST_SHARE * lengths[row]), lengths[other])
        overlaps[row] = Overlap(
            crops[other],
            int(begin * (lengths[other] - num_samples + 1)),
            int(start * (lengths[row] - num_samples + 1)),
            num_samples,
            _RATIO_DB[0] + ratio * (_RATIO_DB[1] - _RATIO_DB[0]),
        )
    return overlaps


def overlay(utterance: Tensor, other: Tensor, overlap: Overlap) -> Tensor:
    """`utterance` (samples,) with the part of `other` (samples,) that `overlap` names laid over it."""
    energy, other_energy = utterance.square().mean(), other.square().mean()
    if energy == 0 or other_energy == 0:
        return utterance
    scale = (energy / (other_energy * 10 ** (overlap.ratio_db / 10))).sqrt()
    mixed = utterance.clone()
    part = other[overlap.begin : overlap.begin + overlap.num_samples]
    mixed[overlap.start : overlap.start + overlap.num_samples] += scale * part
    return mixed


class CosineClassifier(nn.Module):
    """Units by the angle between a frame's projection and their embeddings (fairseq `final_proj`, `label_embs`).

    It learns slowly at first: 200 small updates hardly change it.
    """

    def __init__(self, width: int, units: int) -> None:
        super().__init__()
        self.projection = nn.Linear(width, _COSINE_WIDTH)
        self.embeddings = nn.Parameter(torch.empty(units, _COSINE_WIDTH).uniform_())

    def forward(self, states: Tensor) -> Tensor:
        """(frames, units) logits of states (frames, feature)."""
        projected = F.normalize(self.projection(states).float(), dim=-1)
        # In half precision, cosines divided by the temperature are off by more than they differ.
        with torch.autocast(states.device.type, enabled=False):
            return projected @ F.normalize(self.embeddings.float(), dim=-1).T / _TEMPERATURE


class UnitPredictor(nn.Module):
    """A HuBERT model with a mask embedding, a classifier over units, and one over speakers if `speakers` is given."""

    def __init__(
        self, params: PretrainParams, clusters: int, speakers: SpeakerParams | None = None, num_speakers: int = 0
    ) -> None:
        super().__init__()
        self.params, self.speakers = params, speakers
        self.hubert = HubertModel(params.model, params.dropout)
        self.regularisers = Regularisers(self.hubert, params)
        self.mask_embedding = nn.Parameter(torch.empty(params.model.width).uniform_())
        kind = nn.Linear if params.classifier == "linear" else CosineClassifier
        self.classifier: nn.Module = kind(params.model.width, clusters)
        self.speaker_classifier = None if speakers is None else nn.Linear(params.model.width, num_speakers)

    def forward(
        self, batch: Batch, mask: Tensor, totals: Totals, dropped_layers: Collection[int] = ()
    ) -> tuple[Tensor, Tensor]:
        """The loss on the units of `batch`, with the frames of `mask` (batch, time) masked, and on its speakers.

        Also the masked frames whose unit is predicted correctly, as a share of all masked frames of the update.
        """
        self.regularisers.dropped_layers = dropped_layers
        masked = MaskedFrames(mask, self.mask_embedding)
        states = self.hubert(batch.waveforms, batch.lengths, masked=masked).hidden_states
        valid = batch.units >= 0
        logits, wanted, is_masked = self.classifier(states[-1][valid]).float(), batch.units[valid], mask[valid]
        # Weights instead of a selection: a selection would wait for the device.
        shown_weight = self.params.unmasked_weight / max(1, totals.shown_frames)
        weight = torch.where(is_masked, 1 / totals.masked_frames, shown_weight)
        loss = (F.cross_entropy(logits, wanted, reduction="none") * weight).sum()
        if self.params.feature_penalty and self.training:
            frames = totals.masked_frames + totals.shown_frames
            loss = loss + self.params.feature_penalty * self._feature_power(valid, frames)
        if self.speakers is not None and self.speaker_classifier is not None:
            named = self.speaker_classifier(_mean_over_time(states[self.speakers.layer], valid)).float()
            on_speakers = F.cross_entropy(named, batch.speakers, ignore_index=-1, reduction="sum") / totals.crops
            loss = loss + self.speakers.weight * on_speakers
        right = ((logits.argmax(1) == wanted) & is_masked).sum() / totals.masked_frames
        return loss, right

    def _feature_power(self, valid: Tensor, frames: int) -> Tensor:
        """The share of this part in the mean square of the front end's output (fairseq `features_pen`)."""
        features = self.regularisers.features
        assert features is not None  # The hook has set it.
        return zero_padding(features.float(), valid.sum(1)).square().sum() / (frames * features.shape[2])


def _mean_over_time(states: Tensor, valid: Tensor) -> Tensor:
    """(batch, feature) the mean of `states` (batch, time, feature) over the `valid` frames (batch, time)."""
    return zero_padding(states, valid.sum(1)).sum(1) / valid.sum(1, keepdim=True)


class Regularisers:
    """Hooks in `hubert` that act in training: dropout of the encoder's input, layers left out, a slower front end.

    Source: fairseq `dropout_input`, `dropout` before the first layer, `encoder_layerdrop`, `feature_grad_mult`.
    Differs: the caller chooses the layers to leave out, once for a whole update.
    """

    def __init__(self, hubert: HubertModel, params: PretrainParams) -> None:
        self.params = params
        #: Layers that the next pass leaves out, from 0.
        self.dropped_layers: Collection[int] = ()
        #: The front end's output (batch, time, feature) of the last pass, for a penalty on it.
        self.features: Tensor | None = None
        hubert.frontend.register_forward_hook(self._after_frontend)
        hubert.projection.register_forward_hook(self._after_projection)
        hubert.layers[0].register_forward_pre_hook(self._before_layers)
        for index, layer in enumerate(hubert.layers):
            layer.register_forward_hook(lambda *call, index=index: self._after_layer(index, *call))

    def _after_frontend(self, module: nn.Module, _: Any, output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        if not module.training:
            return output
        features, lengths = output
        share = self.params.frontend_gradient
        if share != 1:
            features = features * share + features.detach() * (1 - share)
        self.features = features
        return features, lengths

    def _after_projection(self, module: nn.Module, _: Any, output: Tensor) -> Tensor:
        return F.dropout(output, self.params.input_dropout, module.training)

    def _before_layers(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return F.dropout(inputs[0], self.params.dropout, module.training), *inputs[1:]

    def _after_layer(self, index: int, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        return inputs[0] if module.training and index in self.dropped_layers else output
