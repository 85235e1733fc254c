"""Frame labels from time-aligned phones."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fithubert.data.manifest import Phone
from fithubert.frames import SAMPLE_RATE_HZ, receptive_field


def frame_phones(
    phones: Sequence[Phone], inventory: Mapping[str, int], num_frames: int, convolutions: Sequence[tuple[int, int]]
) -> NDArray[np.int64]:
    """(num_frames,) the number in `inventory` of the phone at each frame's centre; -1 where there is none.

    `convolutions` (kernel, stride) say which samples a frame covers; phones are in order and do not overlap.
    """
    field, step = receptive_field(convolutions)
    centres = (np.arange(num_frames) * step + field / 2) / SAMPLE_RATE_HZ
    starts = np.array([p.start_seconds for p in phones])
    ends = np.array([p.end_seconds for p in phones])
    labels = np.array([inventory[p.label] for p in phones], dtype=np.int64)
    at = np.searchsorted(starts, centres, side="right") - 1
    inside = (at >= 0) & (centres < ends[at.clip(min=0)])
    return np.where(inside, labels[at.clip(min=0)], -1)
