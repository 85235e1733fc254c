"""What every update sees: a pure function of the seed, whatever the number of ranks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fithubert.config.pretrain import PretrainParams
from fithubert.data.batching import Crop, plan_batches
from fithubert.files import digest
from fithubert.frames import HUBERT_STRIDE_SAMPLES, SAMPLE_RATE_HZ, padding_mask

_FRAMES_PER_SECOND = SAMPLE_RATE_HZ / HUBERT_STRIDE_SAMPLES


@dataclass(frozen=True)
class Part:
    """What one forward pass sees: crops, and which of their frames are hidden, `mask` (crops, time) bool.

    `weight` is 1, or 0 where a crop is repeated only so that the pass has something to do.
    """

    crops: tuple[Crop, ...]
    mask: Tensor
    seed: int
    weight: float


@dataclass(frozen=True)
class Update:
    """Batch `position` of `epoch`, cut into forward passes; how many frames of it are masked and are shown.

    `dropped_layers` take no part in the whole update.
    """

    epoch: int
    position: int
    parts: tuple[Part, ...]
    masked_frames: int
    shown_frames: int
    dropped_layers: tuple[int, ...]

    @property
    def num_frames(self) -> int:
        """Unpadded frames, masked or not."""
        return self.masked_frames + self.shown_frames


def planned_updates(
    params: PretrainParams, seed: int, num_frames: Sequence[int], parts: int, update: int, epoch: int, position: int
) -> Iterator[Update]:
    """Endless updates from number `update` on, which is batch `position` of `epoch`; some utterance has a frame."""
    while True:
        batches = plan_batches(
            num_frames,
            batch_frames=max(1, round(params.batch_seconds * _FRAMES_PER_SECOND)),
            crop_frames=max(1, round(params.crop_seconds * _FRAMES_PER_SECOND)),
            seed=seed,
            epoch=epoch,
        )
        for place in range(position, len(batches)):
            yield _plan_update(params, seed, update, epoch, place, batches[place], parts)
            update += 1
        epoch, position = epoch + 1, 0


def _plan_update(
    params: PretrainParams, seed: int, update: int, epoch: int, position: int, crops: Sequence[Crop], parts: int
) -> Update:
    """`crops` as `parts` passes of similar lengths each, with a mask drawn for all of them at once."""
    ordered = sorted(crops, key=lambda crop: (crop.num_frames, crop.index, crop.start_frame))
    lengths = torch.tensor([crop.num_frames for crop in ordered])
    generator = torch.Generator().manual_seed(_derive_seed(seed, update, "mask"))
    mask = draw_mask(lengths, int(lengths[-1]), params.mask_probability, params.mask_frames, generator)
    masked, total = int(mask.sum()), int(lengths.sum())
    drawn = torch.rand(params.model.depth, generator=generator) < params.layer_dropout
    passes = []
    for index in range(parts):
        first, end = (share * len(ordered) // parts for share in (index, index + 1))
        weight, rows = (1.0, slice(first, end)) if first < end else (0.0, slice(0, 1))
        longest = int(lengths[rows][-1])
        draws = _derive_seed(seed, update, str(index))
        passes.append(Part(tuple(ordered[rows]), mask[rows, :longest], draws, weight))
    return Update(epoch, position, tuple(passes), masked, total - masked, tuple(drawn.nonzero()[:, 0].tolist()))


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


def _derive_seed(seed: int, update: int, purpose: str) -> int:
    return int(digest(f"{seed} {update} {purpose}")[:15], 16)
