"""Peak memory of one forward pass, read from the kernel's own high-water mark."""

import ctypes
import ctypes.util
import gc
import sys
from pathlib import Path

from fithubert.profile.breakdown import find_module
from fithubert.profile.timing import noise
from fithubert.speech_model import SpeechModel


def peak_memory_bytes(model: SpeechModel, seconds: float) -> int | None:
    """Bytes of the weights plus what one utterance of `seconds` adds at its peak; None where it cannot be measured.

    The process hands its free memory back, resets the kernel's high-water mark (`VmHWM`), runs the model once and
    reads how far the mark rose above where it began. Buffers inside convolution and matrix kernels are included,
    the interpreter and torch itself are not. Linux only.
    """
    waveform, lengths = noise(seconds)
    model.extract(waveform, lengths)
    before = _reset_high_water_mark()
    if before is None:
        return None
    model.extract(waveform, lengths)
    return weight_bytes(model) + max(0, _status_bytes("VmHWM") - before)


def weight_bytes(model: SpeechModel) -> int:
    """Bytes of a model's parameters and buffers."""
    root = find_module(model)
    return sum(t.numel() * t.element_size() for t in (*root.parameters(), *root.buffers()))


def _reset_high_water_mark() -> int | None:
    """The resident bytes from which the mark starts anew, or None where the system does not offer it."""
    if sys.platform != "linux":
        return None
    gc.collect()
    # Without this, memory that earlier passes freed but kept would hide what the next pass takes.
    trim = getattr(ctypes.CDLL(ctypes.util.find_library("c")), "malloc_trim", None)
    if trim is not None:
        trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _status_bytes("VmHWM")
    except (OSError, KeyError):
        return None


def _status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    values = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(values[field].split()[0]) * 1024
