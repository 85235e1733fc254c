"""Recordings without their silences, as SUPERB's speaker verification hears them."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fithubert.frames import SAMPLE_RATE_HZ

#: 0.1 s: that much sound in a row ends a silence, and that much silence in a row begins one.
HOLD_SAMPLES = SAMPLE_RATE_HZ // 10
#: 20 ms: the level of a sample is the root mean square of the window that ends with it.
_WINDOW_SAMPLES = SAMPLE_RATE_HZ // 50
#: Sox computes on 32-bit integers; a level above a thousandth of full scale is sound.
_FULL_SCALE, _THRESHOLD_PERCENT = 2**31 - 1, 0.1
_BLOCK_SAMPLES = 16_384


def trim_silence(waveform: Tensor, gain_db: float = 0.0) -> Tensor:
    """The parts of `waveform` (samples,) float32 at 16 kHz in which there is sound, joined; `gain_db` is not applied.

    Silence is judged after the gain, sample for sample as by sox's `gain GAIN silence 1 0.1 0.1% -1 0.1 0.1%` (14.4.2).
    Differs where the gain is 0: sox then rounds the levels of a 16-bit file to 16 bits.
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
    """(first sample, whether each is loud) block by block from `begun`, before which nothing is heard."""
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
    """Where the first HOLD_SAMPLES hits in a row end (-1: nowhere), and how many are held at the end.

    `held`: hits in a row just before.
    """
    places = np.arange(len(hits))
    runs = places - np.maximum.accumulate(np.where(hits, -1 - held, places))
    ends = np.flatnonzero(runs >= HOLD_SAMPLES)
    return (int(ends[0]) + 1, 0) if len(ends) else (-1, int(runs[-1]) if len(runs) else held)
