"""A corpus held in memory as one run of samples, so that a batch of crops is one gather."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fithubert.data.batching import Crop
from fithubert.data.manifest import Manifest
from fithubert.frames import HUBERT_CONVOLUTIONS, HUBERT_STRIDE_SAMPLES, count_frames, count_samples, padding_mask


class WaveformBank:
    """Every waveform of `manifest` end to end, 16-bit, on `device`: 115 MB an hour of speech."""

    def __init__(self, manifest: Manifest, device: torch.device) -> None:
        self.utterances = manifest.utterances
        self.num_frames = [count_frames(u.num_samples) for u in self.utterances]
        samples = torch.empty(sum(u.num_samples for u in self.utterances), dtype=torch.int16)
        self.offsets: list[int] = []
        position = 0
        for utterance in self.utterances:
            waveform = manifest.read(utterance)
            samples[position : position + len(waveform)] = (waveform * 32767).round().to(torch.int16)
            self.offsets.append(position)
            position += len(waveform)
        self.samples = samples.to(device)

    def whole(self, index: int) -> Tensor:
        """The waveform (samples,) float32 of one utterance."""
        start = self.offsets[index]
        return self.samples[start : start + self.utterances[index].num_samples].float() / 32767

    def crops(self, crops: Sequence[Crop]) -> tuple[Tensor, Tensor]:
        """Waveforms (batch, samples) float32 and lengths (batch,) of crops that begin on frame edges."""
        starts = [self.offsets[c.index] + c.start_frame * HUBERT_STRIDE_SAMPLES for c in crops]
        lengths = [count_samples(c.num_frames, HUBERT_CONVOLUTIONS) for c in crops]
        gathered, lengths_tensor = gather_runs(self.samples, starts, lengths)
        return gathered.float() / 32767, lengths_tensor


class UnitBank:
    """The units of every utterance of a WaveformBank, end to end."""

    def __init__(self, units: Sequence[Tensor], device: torch.device) -> None:
        self.units = torch.cat(list(units)).to(device)
        counts = torch.tensor([0] + [len(u) for u in units])
        self.offsets = counts.cumsum(0)[:-1].tolist()

    def crops(self, crops: Sequence[Crop]) -> Tensor:
        """Units (batch, time) int64 of the crops, -1 after each one's end."""
        starts = [self.offsets[c.index] + c.start_frame for c in crops]
        gathered, lengths = gather_runs(self.units, starts, [c.num_frames for c in crops])
        return gathered.masked_fill(~padding_mask(lengths, gathered.shape[1]), -1)


def gather_runs(flat: Tensor, starts: Sequence[int], lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Runs of `flat` (length,) as one (batch, longest) tensor, zero after each run's end, and the lengths."""
    start = torch.tensor(starts, device=flat.device)
    length = torch.tensor(lengths, device=flat.device)
    index = torch.arange(max(lengths), device=flat.device)[None, :]
    inside = index < length[:, None]
    return flat[(start[:, None] + index).clamp(max=len(flat) - 1)] * inside, length
