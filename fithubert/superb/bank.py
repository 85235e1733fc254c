"""Frozen features in memory: read once from the feature store, laid out for heads that sum over layers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fithubert.errors import UserError
from fithubert.superb.metrics import IntArray


class FeatureRow(Protocol):
    """The features of one utterance: `hidden[layer]` is (time, width) float."""

    @property
    def hidden(self) -> Mapping[int, Tensor]:
        """Layer -> (time, width)."""
        ...


class StoreDescription(Protocol):
    """What a store says of its features."""

    @property
    def convolutions(self) -> Sequence[tuple[int, int]]:
        """(kernel, stride) that turn samples into frames."""
        ...


class FeatureSource(Protocol):
    """The part of the feature store that heads read."""

    @property
    def info(self) -> StoreDescription:
        """Where the features came from."""
        ...

    @property
    def ids(self) -> Sequence[str]:
        """The utterances that it holds."""
        ...

    @property
    def layers(self) -> Sequence[int]:
        """The layers that it holds."""
        ...

    @property
    def num_frames(self) -> Sequence[int]:
        """The frames of each utterance, in the order of `ids`."""
        ...

    @property
    def groups(self) -> Sequence[int]:
        """The shard of each utterance; reading shard by shard reads least."""
        ...

    def read(self, row: str, /) -> FeatureRow:
        """The features of one utterance by id."""
        ...


@dataclass(frozen=True)
class FrameBank:
    """All frames of some utterances, one after another: `features` (layer, frame, width) float16.

    Half the memory of float32 and well inside the precision of any codec; arithmetic on windows is float32.
    `offsets` (utterance + 1,): utterance i holds frames offsets[i]..offsets[i + 1].
    """

    features: Tensor
    offsets: IntArray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> IntArray:
        """(utterance,) frames."""
        return np.diff(self.offsets)

    def window(self, first: int, last: int) -> Tensor:
        """(layer, frame, width) float32 of the utterances first..last - 1: one contiguous copy, no padding."""
        return self.features[:, int(self.offsets[first]) : int(self.offsets[last])].float()

    def gather(self, utterances: IntArray) -> tuple[Tensor, IntArray]:
        """(layer, frame, width) float32 of any utterances in this order, and their lengths."""
        frames = torch.from_numpy(self.frames_of(utterances))
        return self.features[:, frames].float(), self.lengths[utterances]

    def frames_of(self, utterances: IntArray) -> IntArray:
        """(frame,) the numbers of the frames of these utterances, in this order."""
        return ragged_arange(self.offsets[utterances], self.lengths[utterances])


def read_frames(source: FeatureSource, ids: Sequence[str]) -> FrameBank:
    """The frames of `ids` in this order. Raises UserError where the layers differ in width or an id is missing."""
    order = _reading_order(source, ids)
    counts = dict(zip(source.ids, source.num_frames, strict=True))
    offsets = np.concatenate([[0], np.cumsum([int(counts[i]) for i in ids])]).astype(np.int64)
    features: Tensor | None = None
    for position in order:
        stacked = _stack_layers(source, ids[position])
        if features is None:
            features = torch.empty((stacked.shape[0], int(offsets[-1]), stacked.shape[2]), dtype=torch.float16)
        # A value beyond float16 would become infinite and poison the sum.
        features[:, int(offsets[position]) : int(offsets[position + 1])] = stacked.clamp(-65504, 65504)
    if features is None:
        raise ValueError("no utterances to read")
    return FrameBank(features, offsets)


def read_means(source: FeatureSource, ids: Sequence[str]) -> Tensor:
    """(layer, utterance, width) float32 means over the true length of each utterance; 0 where it has no frame.

    Everything between features and mean pooling is linear in SUPERB's utterance-level heads, so pooling first is exact.
    """
    means: dict[int, Tensor] = {}
    for position in _reading_order(source, ids):
        row = _stack_layers(source, ids[position])
        means[position] = row.mean(1) if row.shape[1] else row.new_zeros(row.shape[0], row.shape[2])
    return torch.stack([means[position] for position in range(len(ids))], 1)


def ragged_arange(starts: IntArray, lengths: IntArray) -> IntArray:
    """starts[0], starts[0] + 1, .. (lengths[0] numbers), then those of the next start, as one array."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))


def _stack_layers(source: FeatureSource, row_id: str) -> Tensor:
    """(layer, time, width) float32, layers in ascending order."""
    hidden = source.read(row_id).hidden
    layers = [hidden[layer] for layer in sorted(hidden)]
    widths = {layer.shape[1] for layer in layers}
    if len(widths) != 1:
        raise UserError(f"features of {row_id}: layers of different widths {sorted(widths)} cannot be summed")
    return torch.stack(layers).float()


def _reading_order(source: FeatureSource, ids: Sequence[str]) -> list[int]:
    """The places in `ids`, shard by shard; raises UserError where the store lacks one."""
    missing = sorted(set(ids) - set(source.ids))
    if missing:
        raise UserError(
            f"the feature store lacks {len(missing)} utterances of the manifest, first {missing[0]}; extract them again"
        )
    shard_of = dict(zip(source.ids, source.groups, strict=True))
    return sorted(range(len(ids)), key=lambda position: shard_of[ids[position]])
