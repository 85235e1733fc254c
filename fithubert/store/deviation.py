"""How far the states of windows are from those of whole recordings, measured for the metadata of what is written."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from fithubert.data.listing import ListedRecordings
from fithubert.frames import SAMPLE_RATE_HZ
from fithubert.models.speech_model import SpeechModel
from fithubert.models.windows import Windows, window_errors

#: The key in the schema's metadata of features and units.
DEVIATION_KEY = b"fithubert.deviation"


@dataclass(frozen=True)
class Deviation:
    """The relative error of each layer in windows, on the first `seconds` of the first recording that is cut."""

    recording: str
    seconds: float
    relative_error: dict[int, float]

    def to_json(self) -> bytes:
        """The Deviation as it is written to the metadata."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    def describe(self) -> str:
        """What a command prints."""
        low, high = min(self.relative_error.values()), max(self.relative_error.values())
        errors = f"{high:.1%}" if len(self.relative_error) == 1 else f"{low:.1%} to {high:.1%} by layer"
        return f"states of windows differ from those of whole recordings: {errors} on {self.seconds:g} s"


def measure_deviation(
    model: SpeechModel,
    recordings: ListedRecordings,
    windows: Windows,
    layers: Sequence[int],
    on_pass: Callable[[], object] | None = None,
) -> Deviation | None:
    """The deviation of `layers` (ascending) on a stretch as long as two windows; None if no recording is cut.

    It takes the time and memory of two windows, whatever the recordings. Rounded to three digits. `on_pass` is called
    after each pass of the model.
    """
    cut = next((utterance for utterance in recordings if windows.cut(utterance.num_samples)), None)
    if cut is None:
        return None
    waveform = _read_start(recordings.read_blocks(cut), round(2 * windows.window_seconds * SAMPLE_RATE_HZ))
    errors = window_errors(model, waveform, windows.window_seconds, windows.context_seconds, layers, on_pass)
    seconds = len(waveform) / SAMPLE_RATE_HZ
    return Deviation(cut.id, seconds, {layer: float(f"{error:.3g}") for layer, error in errors.items()})


def _read_start(blocks: Iterable[Tensor], samples: int) -> Tensor:
    held, length = [], 0
    for block in blocks:
        held.append(block)
        length += len(block)
        if length >= samples:
            break
    return torch.cat(held)[:samples]
