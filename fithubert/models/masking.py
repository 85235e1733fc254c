"""Random spans of masked frames, for distillation and for pre-training."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fithubert.config.students import MaskingConfig
from fithubert.frames import padding_mask


def draw_mask(
    lengths: Tensor, num_frames: int, config: MaskingConfig, generator: torch.Generator | None = None
) -> Tensor:
    """(batch, num_frames) bool, True at masked frames, from `generator` or torch's own random state.

    Spans of `span_frames` that neither touch nor overlap, as many as cover `share` of each utterance, or as fit
    (fairseq `compute_mask_indices` with `no_mask_overlap`, `mask_min_space` 1). Differs from fairseq: every placement
    is equally likely.
    """
    mask = torch.zeros(len(lengths), num_frames, dtype=torch.bool)
    for row, frames in enumerate(lengths.tolist()):
        spans = int(config.share * frames / config.span_frames + torch.rand((), generator=generator).item())
        spans = min(spans, (frames + 1) // (config.span_frames + 1))
        # the spans and the gap behind each taken out, what is left to choose is which frames begin one
        choices = frames - spans * config.span_frames + 1
        starts = (
            torch.randperm(choices, generator=generator)[:spans].sort().values
            + torch.arange(spans) * config.span_frames
        )
        mask[row, (starts[:, None] + torch.arange(config.span_frames)).flatten()] = True
    return mask.to(lengths.device)


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
