"""A corpus and its units as two memory-mapped files, so that 960 hours need no memory of their own."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from os import cpu_count
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fithubert.data.batching import Crop
from fithubert.data.manifest import Manifest
from fithubert.errors import UserError
from fithubert.files import atomic_file
from fithubert.frames import (
    HUBERT_CONVOLUTIONS,
    HUBERT_STRIDE_SAMPLES,
    SAMPLE_RATE_HZ,
    count_frames,
    count_samples,
)

#: Utterances that are decoded together before they are written.
_DECODED = 256


def write_waveforms(manifest: Manifest, path: Path) -> None:
    """Every waveform of `manifest` end to end in `path`, 16-bit: 115 MB an hour; nothing is done where it is there.

    The samples of 16-bit files are kept exactly; those of any other are rounded.
    """
    total = sum(u.num_samples for u in manifest)
    if path.exists() and path.stat().st_size == 2 * total:
        return
    if not total:
        raise UserError("pretrain: there is no training audio; check the train split of the corpus")
    utterances = manifest.utterances
    with atomic_file(path) as aside, aside.open("wb") as written, ThreadPoolExecutor(cpu_count() or 1) as pool:
        for start in range(0, len(utterances), _DECODED):
            for waveform in pool.map(manifest.read, utterances[start : start + _DECODED]):
                samples = (waveform * 32768).round().clamp(-32768, 32767)
                written.write(samples.numpy().astype("<i2").tobytes())


class WaveformBank:
    """The utterances of `manifest` with their samples from the file that `write_waveforms` left in `path`."""

    def __init__(self, manifest: Manifest, path: Path) -> None:
        self.utterances = manifest.utterances
        self.num_frames = [count_frames(u.num_samples) for u in self.utterances]
        self._samples = np.memmap(path, "<i2", mode="r")
        self._offsets = list(accumulate((u.num_samples for u in self.utterances), initial=0))

    @property
    def hours(self) -> float:
        """All audio together, in hours."""
        return len(self._samples) / SAMPLE_RATE_HZ / 3600

    def whole(self, index: int) -> Tensor:
        """The waveform (samples,) float32 of one utterance."""
        return _as_waveform(self._samples[self._offsets[index] : self._offsets[index + 1]])

    def crops(self, crops: Sequence[Crop]) -> tuple[Tensor, Tensor]:
        """Waveforms (batch, samples) float32 and lengths (batch,) of crops that begin on frame edges."""
        lengths = [count_samples(c.num_frames, HUBERT_CONVOLUTIONS) for c in crops]
        waveforms = torch.zeros(len(crops), max(lengths))
        for row, (crop, length) in enumerate(zip(crops, lengths, strict=True)):
            start = self._offsets[crop.index] + crop.start_frame * HUBERT_STRIDE_SAMPLES
            waveforms[row, :length] = _as_waveform(self._samples[start : start + length])
        return waveforms, torch.tensor(lengths)


class UnitBank:
    """The units of every utterance of a WaveformBank, from the file that `write_units` left in `path`."""

    def __init__(self, path: Path, num_frames: Sequence[int]) -> None:
        self._offsets = list(accumulate(num_frames, initial=0))
        try:
            self._units = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            raise UserError(f"{path}: not readable as units; delete it to have them made again") from None
        if self._units.shape != (self._offsets[-1],):
            raise UserError(f"{path}: holds {self._units.shape} units for {self._offsets[-1]} frames; delete it")

    def whole(self, index: int) -> NDArray[np.int64]:
        """The units (time,) of one utterance."""
        return self._units[self._offsets[index] : self._offsets[index + 1]].astype(np.int64)

    def crops(self, crops: Sequence[Crop]) -> Tensor:
        """Units (batch, time) int64 of the crops, -1 after each one's end."""
        units = torch.full((len(crops), max(c.num_frames for c in crops)), -1)
        for row, crop in enumerate(crops):
            start = self._offsets[crop.index] + crop.start_frame
            units[row, : crop.num_frames] = torch.from_numpy(
                self._units[start : start + crop.num_frames].astype(np.int64)
            )
        return units


def write_units(units: Tensor, path: Path) -> None:
    """The units (frames,) of a corpus, utterance after utterance, in `path`."""
    # Into an open file, since numpy would add its own ending to the name.
    with atomic_file(path) as aside, aside.open("wb") as written:
        np.save(written, units.cpu().numpy().astype("<i4"), allow_pickle=False)


def _as_waveform(samples: NDArray[np.int16]) -> Tensor:
    return torch.from_numpy(samples.astype(np.float32)) / 32768
