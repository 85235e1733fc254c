"""Masked prediction of units: which frames are hidden, and the loss on guessing their units."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fithubert.config.teacher import PretrainParams
from fithubert.frames import padding_mask
from fithubert.teachers.hubert import HubertModel, MaskedFrames


def draw_mask(lengths: Tensor, num_frames: int, probability: float, span: int, generator: torch.Generator) -> Tensor:
    """(batch, num_frames) bool: spans of `span` frames whose starts are drawn with rate `probability` / `span`.

    Spans may overlap; at least one frame of every utterance is masked. Differs from fairseq's
    `compute_mask_indices`: each start is drawn on its own instead of a fixed number per utterance.
    """
    shape = (lengths.shape[0], num_frames)
    starts = torch.rand(shape, generator=generator, device=lengths.device) < probability / span
    forced = (torch.rand(shape[0], generator=generator, device=lengths.device) * lengths).long()
    starts = starts | F.one_hot(forced, num_frames).bool()
    reach = F.max_pool1d(F.pad(starts.float()[:, None], (span - 1, 0)), span, stride=1)[:, 0]
    return (reach > 0) & padding_mask(lengths, num_frames)


@dataclass(frozen=True)
class PredictionLoss:
    """`total` to minimise, and the share of masked frames whose unit was guessed."""

    total: Tensor
    masked_accuracy: Tensor


class UnitPredictor(nn.Module):
    """A HuBERT model with a mask embedding and a linear classifier over units.

    Differs from fairseq's cosine classifier (`final_proj`, `label_embs`), which hardly moved within 200 small updates.
    """

    def __init__(self, params: PretrainParams, clusters: int) -> None:
        super().__init__()
        self.params = params
        self.hubert = HubertModel(params.model, params.dropout)
        self.mask_embedding = nn.Parameter(torch.empty(params.model.width).uniform_())
        self.classifier = nn.Linear(params.model.width, clusters)

    def forward(self, waveforms: Tensor, lengths: Tensor, units: Tensor, mask: Tensor) -> PredictionLoss:
        """Loss on `units` (batch, time) int64, -1 at padding, with the frames of `mask` (batch, time) hidden."""
        masked = MaskedFrames(mask, self.mask_embedding)
        states = self.hubert(waveforms, lengths, masked=masked).hidden_states[-1]
        valid = units >= 0
        logits, wanted, hidden = self.classifier(states[valid]).float(), units[valid], mask[valid]
        loss = F.cross_entropy(logits, wanted, reduction="none")
        # A masked mean by weights, so that nothing waits for the device.
        weight = torch.where(hidden, 1.0 / hidden.sum(), self.params.unmasked_weight / (~hidden).sum().clamp(min=1))
        right = ((logits.argmax(1) == wanted) & hidden).sum() / hidden.sum()
        return PredictionLoss((loss * weight).sum(), right)
