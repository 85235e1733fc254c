"""Reading, resampling and writing recordings, and cutting silences as SUPERB does."""

import io
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio
from numpy.typing import NDArray
from torch import Tensor

from fithubert.errors import UserError
from fithubert.frames import HUBERT_MIN_SAMPLES, SAMPLE_RATE_HZ


def name_for_soundfile(path: Path | str) -> bytes:
    """`path` in the form that soundfile accepts, even if it is not valid UTF-8."""
    return os.fsencode(path)


def why_unreadable(error: Exception) -> str:
    """The reason in a soundfile error, in one line and without the path, which the caller names."""
    return " ".join(re.sub(r"Error opening .*: ", "", str(error)).split())


#: 0.1 s: that much sound in a row ends a silence, and that much silence in a row begins one.
HOLD_SAMPLES = SAMPLE_RATE_HZ // 10
#: 20 ms: the level of a sample is the root mean square of the window that ends with it.
_WINDOW_SAMPLES = SAMPLE_RATE_HZ // 50
#: Sox computes on 32-bit integers; a level above a thousandth of full scale is sound.
_FULL_SCALE, _THRESHOLD_PERCENT = 2**31 - 1, 0.1
_BLOCK_SAMPLES = 16_384


def trim_silence(waveform: Tensor, gain_db: float = 0.0) -> Tensor:
    """The parts of `waveform` (samples,) float32 at 16 kHz that contain sound, joined; `gain_db` is not applied.

    Silence is judged after the gain, sample for sample as by sox's `gain GAIN silence 1 0.1 0.1% -1 0.1 0.1%` (14.4.2).
    Differs if the gain is 0: sox then rounds the levels of a 16-bit file to 16 bits.
    """
    samples = waveform.double().numpy() * 2.0**31 * math.exp(gain_db * math.log(10) * 0.05)
    rounded = np.trunc(samples + np.copysign(0.5, samples)).clip(-(2**31), _FULL_SCALE)
    return torch.cat([waveform[:0], *(waveform[first:last] for first, last in find_sound(rounded))])


def find_sound(samples: NDArray[np.float64]) -> list[tuple[int, int]]:
    """(first, last) of the stretches that sox keeps of `samples`, which are whole numbers of 32 bits.

    A stretch begins with the first HOLD_SAMPLES loud samples in a row, and ends before as many quiet ones or with the
    recording. Levels start from nothing after every silence that was found.
    """
    kept: list[tuple[int, int]] = []
    begun = 0
    while begun < len(samples):
        start, held = -1, 0
        for first, loud in _loudness(samples, begun):
            if start < 0:
                end, held = _find_run(loud, held)
                if end < 0:
                    continue
                start, first, loud, held = first + end - HOLD_SAMPLES, first + end, loud[end:], 0
            end, held = _find_run(~loud, held)
            if end >= 0:
                begun = first + end
                kept.append((start, begun - HOLD_SAMPLES))
                break
        else:
            return [*kept, (start, len(samples))] if start >= 0 else kept
    return kept


def _loudness(samples: NDArray[np.float64], begun: int) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """(first sample, whether each is loud) block by block from `begun` on; samples before it are ignored."""
    total = 0.0
    for first in range(begun, len(samples), _BLOCK_SAMPLES):
        last = min(first + _BLOCK_SAMPLES, len(samples))
        power = np.square(samples[max(begun, first - _WINDOW_SAMPLES) : last])
        # The running sum in sox's own order, minus the sample that leaves, plus the one that comes: equal to the bit.
        changes = np.zeros((last - first, 2))
        changes[:, 1] = power[first - last :]
        leaving = power[: max(0, last - begun - _WINDOW_SAMPLES)][: last - first]
        changes[len(changes) - len(leaving) :, 0] = -leaving
        sums = np.cumsum(np.concatenate([[total], changes.ravel()]))
        total = float(sums[-1])
        with np.errstate(invalid="ignore"):  # a sum that rounding made negative has no level and is quiet
            level = np.floor(np.sqrt(sums[2::2] / _WINDOW_SAMPLES))
        yield first, level / _FULL_SCALE * 100 > _THRESHOLD_PERCENT


def _find_run(hits: NDArray[np.bool_], held: int) -> tuple[int, int]:
    """The end of the first HOLD_SAMPLES hits in a row (-1: none), and the number of hits in a row at the end.

    `held`: the number of hits in a row just before.
    """
    places = np.arange(len(hits))
    runs = places - np.maximum.accumulate(np.where(hits, -1 - held, places))
    ends = np.flatnonzero(runs >= HOLD_SAMPLES)
    return (int(ends[0]) + 1, 0) if len(ends) else (-1, int(runs[-1]) if len(runs) else held)


Samples = NDArray[np.float32]
SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".opus", ".aiff", ".aif", ".caf", ".au")
#: Recordings that libsndfile cannot read.
TO_CONVERT = (".m4a", ".aac", ".wma", ".amr", ".3ga", ".ape", ".wv", ".mka", ".weba")
#: Longer recordings are cut at their quietest place between these two lengths.
SEGMENT_SECONDS = (14.0, 20.0)

_BLOCK_SECONDS = 30
_RATES_HZ = (4_000, 768_000)
#: A peak below this is only rounding noise of 16 bits.
_SILENT_PEAK = 1e-4
#: Samples of the coarser rate on each side of a block, more than the resampling kernel reaches.
_CONTEXT_PERIODS = 64
#: libsndfile's length for a stream of unknown length.
_UNKNOWN_LENGTH = 2**62


class UnusableError(Exception):
    """Why a recording cannot be used, in a few words."""


@dataclass(frozen=True)
class Checked:
    """A recording that can be used: its peak (1.0 is full scale), length, length in samples at 16 kHz, and own rate."""

    peak: float
    seconds: float
    num_samples: int
    rate_hz: int


def check_recording(path: Path, allow_silence: bool = False) -> Checked:
    """The content of a recording, read to its end; raises UnusableError if it cannot be used."""
    if path.suffix.lower() in TO_CONVERT:
        raise UnusableError(f"{path.suffix[1:]} is not read; convert it: ffmpeg -i {path.name} {path.stem}.wav")
    try:
        if path.stat().st_size == 0:
            raise UnusableError("empty file")
        with soundfile.SoundFile(name_for_soundfile(path)) as file:
            return _check_samples(file, allow_silence)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise UnusableError(f"not readable as audio ({why_unreadable(error)})") from None
    except OSError as error:
        raise UnusableError(error.strerror or "cannot be read") from None


def _check_samples(file: soundfile.SoundFile, allow_silence: bool) -> Checked:
    if not _RATES_HZ[0] <= file.samplerate <= _RATES_HZ[1]:
        raise UnusableError(f"sample rate of {file.samplerate} Hz; {_RATES_HZ[0]} to {_RATES_HZ[1]} Hz can be read")
    peak, count = 0.0, 0
    for block in _blocks(file):
        if not np.isfinite(block).all():
            raise UnusableError("holds NaN or infinite samples")
        peak, count = max(peak, float(np.abs(block).max(initial=0.0))), count + len(block)
    if file.frames < _UNKNOWN_LENGTH and count < file.frames and file.format != "MP3":
        raise UnusableError(f"truncated: {count} of {file.frames} samples")
    if count * SAMPLE_RATE_HZ < HUBERT_MIN_SAMPLES * file.samplerate:
        raise UnusableError(f"shorter than one frame ({count / file.samplerate:.4f} s of {1 / 40} s)")
    if peak < _SILENT_PEAK and not allow_silence:
        raise UnusableError("silent")
    return Checked(peak, count / file.samplerate, count_samples_at_16_khz(count, file.samplerate), file.samplerate)


def read_recording(path: Path) -> Tensor:
    """(samples,) float32 of a whole file at 16 kHz mono; raises UserError that names it if it is missing or broken."""
    return torch.cat([torch.zeros(0), *read_blocks(path)])


def read_blocks(path: Path) -> Iterator[Tensor]:
    """The samples of `read_recording` in parts of at most about 30 s: memory holds one. Raises the same errors."""
    if not path.is_file():
        raise UserError(f"{path}: no such audio file; run `fithubert prepare` again if the corpus has moved")
    try:
        yield from map(torch.from_numpy, _resampled(path))
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise UserError(f"{path}: not readable as audio ({why_unreadable(error)})") from None


def count_samples_at_16_khz(num_samples: int, rate_hz: int) -> int:
    """The number of samples that `read_recording` returns for `num_samples` at `rate_hz`."""
    period, wanted = _ratio(rate_hz)
    return -(-num_samples * wanted // period)


def read_segments(path: Path, peak: float, whole: bool) -> Iterator[tuple[int, NDArray[np.int16]]]:
    """(first sample, samples) of each segment of a checked recording, 16 kHz mono 16-bit, in order.

    Segments are at most 20 s long unless `whole`. A recording whose peak is over full scale is lowered to it.
    """
    scale = 1.0 / peak if peak > 1.0 else 1.0
    position = 0
    for segment in _cut(_resampled(path), whole):
        yield position, np.round(np.clip(segment * scale, -1, 1) * 32767).astype(np.int16)
        position += len(segment)


def encode_flac(samples: NDArray[np.int16]) -> bytes:
    """Mono samples at 16 kHz as a FLAC file in memory, so that a full disk is an OSError of one later write."""
    encoded = io.BytesIO()
    soundfile.write(encoded, samples, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    return encoded.getvalue()


def is_silent(samples: NDArray[np.int16]) -> bool:
    """Whether a segment is only rounding noise of 16 bits."""
    return int(np.abs(samples.astype(np.int32)).max(initial=0)) < _SILENT_PEAK * 32767


def _blocks(file: soundfile.SoundFile) -> Iterator[Samples]:
    while len(block := file.read(_BLOCK_SECONDS * file.samplerate, dtype="float32", always_2d=True)):
        yield block.mean(axis=1) if block.shape[1] > 1 else block[:, 0]


def _resampled(path: Path) -> Iterator[Samples]:
    """Runs of 16 kHz samples; each is resampled with the samples around it, which avoids clicks."""
    with soundfile.SoundFile(name_for_soundfile(path)) as file:
        if file.samplerate == SAMPLE_RATE_HZ:
            yield from _blocks(file)
            return
        period, wanted = _ratio(file.samplerate)
        context = period * max(_CONTEXT_PERIODS, -(-512 // period))
        held = np.zeros(0, dtype=np.float32)
        before = 0
        for block in _blocks(file):
            held = np.concatenate([held, block])
            usable = (len(held) - context) // period * period
            if usable > before:
                output = _resample(held, period, wanted)
                yield output[before // period * wanted : usable // period * wanted]
                drop = max(0, usable - context)
                held, before = held[drop:], usable - drop
        yield _resample(held, period, wanted)[before // period * wanted :]


def _ratio(rate_hz: int) -> tuple[int, int]:
    """(samples at `rate_hz`, samples at 16 kHz) of the same duration.

    An odd rate is taken as the nearest small fraction of 16 kHz (less than 1 in 100,000 off): the resampling kernel has
    as many rows as the fraction's numerator.
    """
    ratio = Fraction(SAMPLE_RATE_HZ, rate_hz).limit_denominator(1_000)
    return ratio.denominator, ratio.numerator


def _resample(samples: Samples, period: int, wanted: int) -> Samples:
    return torchaudio.functional.resample(torch.from_numpy(samples), period, wanted).numpy()


def _cut(runs: Iterator[Samples], whole: bool) -> Iterator[Samples]:
    first, last = (round(seconds * SAMPLE_RATE_HZ) for seconds in SEGMENT_SECONDS)
    held = np.zeros(0, dtype=np.float32)
    for run in runs:
        held = np.concatenate([held, run])
        # Enough is kept that the rest is never too short.
        while not whole and len(held) > 2 * last:
            at = _quietest(held, first, last)
            yield held[:at]
            held = held[at:]
    while not whole and len(held) > last:
        bounds = (first, last) if len(held) > first + last else (len(held) // 3, len(held) // 2)
        at = _quietest(held, *bounds)
        yield held[:at]
        held = held[at:]
    if len(held):
        yield held


def _quietest(samples: Samples, first: int, last: int) -> int:
    """The middle of the quietest 40 ms between `first` and `last`."""
    size = SAMPLE_RATE_HZ // 25
    count = (last - first) // size
    energy = np.square(samples[first : first + count * size].reshape(count, size)).sum(axis=1)
    return first + int(energy.argmin()) * size + size // 2


#: How much later than the end of a turn the next one begins, in seconds; less than 0 is overlap.
_GAP_SECONDS = (-1.2, 0.5)


def place_turns(rng: np.random.Generator, speakers: Sequence[str], lengths: Sequence[int]) -> list[int]:
    """The first sample of each turn of `lengths` samples, one after another and often overlapping.

    A speaker never talks over himself.
    """
    starts: list[int] = []
    free: dict[str, int] = {}
    cursor = int(rng.uniform(0.1, 0.4) * SAMPLE_RATE_HZ)
    for speaker, length in zip(speakers, lengths, strict=True):
        starts.append(max(cursor, free.get(speaker, 0)))
        free[speaker] = starts[-1] + length + SAMPLE_RATE_HZ // 10
        gap = int(rng.uniform(*_GAP_SECONDS) * SAMPLE_RATE_HZ)
        cursor = max(starts[-1] + SAMPLE_RATE_HZ // 4, starts[-1] + length + gap)
    return starts
