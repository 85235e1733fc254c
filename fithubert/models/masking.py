"""Random spans of frames that are hidden from a student in training."""

import torch
from torch import Tensor

from fithubert.config.students import MaskingConfig


def draw_mask(
    lengths: Tensor, num_frames: int, config: MaskingConfig, generator: torch.Generator | None = None
) -> Tensor:
    """(batch, num_frames) bool, True where a frame is hidden, from `generator` or torch's own random state.

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
