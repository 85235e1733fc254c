"""Latency and memory, models timed in turn."""

import ctypes
import ctypes.util
import gc
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fithubert.frames import SAMPLE_RATE_HZ
from fithubert.models.speech_model import SpeechModel
from fithubert.records import Ratio


def peak_memory_bytes(model: SpeechModel, seconds: float) -> int | None:
    """Bytes of the weights plus what one utterance of `seconds` adds at its peak; None if it cannot be measured.

    The process hands its free memory back, resets the kernel's high-water mark (`VmHWM`), runs the model once and
    reads how far the mark rose above where it began. Buffers inside convolution and matrix kernels are included,
    the interpreter and torch itself are not. Linux only.
    """
    waveform, lengths = noise(seconds)
    model(waveform, lengths)
    before = _reset_high_water_mark()
    if before is None:
        return None
    model(waveform, lengths)
    return weight_bytes(model) + max(0, _status_bytes("VmHWM") - before)


def find_module(model: SpeechModel) -> nn.Module:
    """The torch module inside a speech model, or an empty one for a model without any (filter banks)."""
    if isinstance(model, nn.Module):
        return model
    inside = [value for value in vars(model).values() if isinstance(value, nn.Module)]
    return inside[0] if inside else nn.Module()


def weight_bytes(model: SpeechModel) -> int:
    """Bytes of a model's parameters and buffers."""
    root = find_module(model)
    return sum(t.numel() * t.element_size() for t in (*root.parameters(), *root.buffers()))


def _reset_high_water_mark() -> int | None:
    """The resident bytes from which the mark starts again, or None if the system does not offer it."""
    if sys.platform != "linux":
        return None
    gc.collect()
    # Without this, memory that earlier passes freed but kept would hide what the next pass takes.
    trim = getattr(ctypes.CDLL(ctypes.util.find_library("c")), "malloc_trim", None)
    if trim is not None:
        trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        return _status_bytes("VmHWM")
    except (OSError, KeyError):
        return None


def _status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    values = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(values[field].split()[0]) * 1024


#: model -> seconds of audio -> the latency of every round, in seconds.
Timings = dict[str, dict[float, list[float]]]


def noise(seconds: float) -> tuple[Tensor, Tensor]:
    """One utterance (1, samples) of seeded noise and its length (1,): cost does not depend on what is said."""
    samples = round(seconds * SAMPLE_RATE_HZ)
    waveform = 0.1 * torch.randn(1, samples, generator=torch.Generator().manual_seed(0))
    return waveform, torch.tensor([samples])


def time_in_turn(
    models: Mapping[str, SpeechModel],
    seconds: Sequence[float],
    rounds: int,
    on_pass: Callable[[], object] = lambda: None,
) -> Timings:
    """Latencies of every model on one utterance of each length, `rounds` times each.

    In every round each model runs once per length, one after another, and the order shifts by one from round to
    round: whatever else the machine does meets all of them alike. One untimed pass of each goes first. `on_pass` is
    called after each of these, and after every round.
    """
    utterances = {s: noise(s) for s in seconds}
    names = list(models)
    timings: Timings = {name: {s: [] for s in seconds} for name in names}
    for model in models.values():
        for waveform, lengths in utterances.values():
            model(waveform, lengths)
        on_pass()
    for index in range(rounds):
        shift = index % len(names)
        for s, (waveform, lengths) in utterances.items():
            for name in names[shift:] + names[:shift]:
                timings[name][s].append(_time_once(models[name], waveform, lengths))
        on_pass()
    return timings


def _time_once(model: SpeechModel, waveform: Tensor, lengths: Tensor) -> float:
    began = time.perf_counter()
    output = model(waveform, lengths)
    if output.hidden_states[-1].is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def paired_ratio(times: Sequence[float], reference: Sequence[float], resamples: int = 2000, seed: int = 0) -> Ratio:
    """The median over rounds of `times / reference`, each round against itself, with its bootstrap interval."""
    ratios = np.asarray(times) / np.asarray(reference)
    generator = np.random.default_rng(seed)
    drawn = generator.integers(0, len(ratios), (resamples, len(ratios)))
    low, high = np.percentile(np.median(ratios[drawn], axis=1), [2.5, 97.5])
    return Ratio(float(np.median(ratios)), float(low), float(high))
