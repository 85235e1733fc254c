"""Recordings of any length in bounded memory: windows with context on both sides, joined exactly on the frame grid.

No frame is lost, doubled or shifted. The values of a model with a bounded reach (`Locality`) are those of the whole
recording. Those of others are of the window: attention, and the statistics of a group norm or of a normalised
waveform, see the window alone. reports/benchmarks/windows.md has the difference.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from fithubert.frames import SAMPLE_RATE_HZ, count_frames, count_samples, frame_rate_hz, receptive_field
from fithubert.models.speech_model import SpeechModel

#: Windows begin and end at multiples of this, and of the model's own groups of frames.
_GRID_FRAMES = 12
#: With context, states come closer to those of the whole recording (reports/benchmarks/windows.md).
_CONTEXT_SECONDS = 10.0


@dataclass(frozen=True)
class Windows:
    """Recordings longer than `whole_seconds` run in windows of `window_seconds`, the others whole.

    `context_seconds`: additional audio on both sides of a window, whose states are dropped; None: `needed_context`.
    """

    whole_seconds: float = 300.0
    window_seconds: float = 60.0
    context_seconds: float | None = None

    def cut(self, num_samples: int) -> bool:
        """Whether a recording of `num_samples` runs in windows."""
        return num_samples > self.whole_seconds * SAMPLE_RATE_HZ


DEFAULT_WINDOWS = Windows()
NO_WINDOWS = Windows(whole_seconds=math.inf)


def needed_context(model: SpeechModel) -> float:
    """The seconds of context with which states of windows are those of the whole recording; 10 if there are none."""
    reach = model.locality.reach_frames
    return _CONTEXT_SECONDS if reach is None else reach / frame_rate_hz(model.convolutions)


@dataclass(frozen=True)
class Window:
    """What the model reads, and the frames of its output that are dropped; `num_frames` between them are kept."""

    first_sample: int
    num_samples: int
    drop_first_frames: int
    drop_last_frames: int
    num_frames: int


@dataclass(frozen=True)
class Grid:
    """Where the windows of a recording begin and end: every frame (`frames.count_frames`) is kept of exactly one.

    At least `context_frames` are computed on both sides of the kept frames, if the recording has them. Windows begin
    where the model's own groups of frames begin (`Locality.group_frames`), so that they are the same groups.
    """

    convolutions: tuple[tuple[int, int], ...]
    frame_multiple: int
    window_frames: int
    context_frames: int
    group_frames: int = 1

    def window_from(self, frame: int, num_samples: int) -> Window | None:
        """The window that keeps `frame` and those after it, of `num_samples`; None if there is no such frame."""
        total = count_frames(num_samples, self.convolutions, self.frame_multiple)
        if frame >= total:
            return None
        unit = math.lcm(self.frame_multiple, self.group_frames, _GRID_FRAMES)
        end = min(frame + self.window_frames, total)
        first = max(0, frame - self.context_frames) // unit * unit
        last = -(-(end + self.context_frames) // unit) * unit
        first_sample = first * receptive_field(self.convolutions)[1]
        samples = num_samples - first_sample
        if last < total:
            samples = count_samples(last - first, self.convolutions)
        return Window(first_sample, samples, frame - first, min(last, total) - end, end - frame)


def stream(
    model: SpeechModel,
    chunks: Iterable[Tensor],
    window_seconds: float = DEFAULT_WINDOWS.window_seconds,
    context_seconds: float | None = None,
    layers: Sequence[int] | None = None,
) -> Iterator[tuple[Tensor, ...]]:
    """The hidden states of samples that arrive in `chunks`, each (samples,) float32 at 16 kHz of any length.

    Yields a tuple for each window of `Grid`, as soon as its samples and those of its context are there:
    (time, feature) for each of `layers` (ascending; None: all), on the model's device. Concatenated they have the frame
    count of the whole recording, and, of a model with a bounded reach, its states. `context_seconds` None:
    `needed_context`. Memory holds one window with its context, and one chunk. Nothing is yielded if there is
    not one frame.
    """
    layers = range(len(model.widths)) if layers is None else layers
    context_seconds = needed_context(model) if context_seconds is None else context_seconds
    rate_hz, groups = frame_rate_hz(model.convolutions), model.locality.group_frames
    window_frames, context_frames = max(1, round(window_seconds * rate_hz)), math.ceil(context_seconds * rate_hz)
    grid = Grid(tuple(model.convolutions), model.frame_multiple, window_frames, context_frames, groups)
    held: list[Tensor] = []
    first_sample = received = frame = 0
    for chunk in chain(chunks, [None]):
        if chunk is not None:
            held.append(chunk)
            received += len(chunk)
        while window := grid.window_from(frame, received):
            if chunk is not None and window.first_sample + window.num_samples == received:
                break  # It may reach further than what has arrived.
            samples = torch.cat(held)[window.first_sample - first_sample :]
            held, first_sample = [samples], window.first_sample
            yield _run(model, samples[: window.num_samples], window, layers)
            frame += window.num_frames


@torch.inference_mode()
def window_errors(
    model: SpeechModel,
    waveform: Tensor,
    window_seconds: float,
    context_seconds: float | None,
    layers: Sequence[int],
    on_pass: Callable[[], object] | None = None,
) -> dict[int, float]:
    """Layer -> |windows - whole| / |whole| over all frames of `waveform` (samples,); arguments as of `stream`.

    `on_pass` is called after each pass of the model.
    """
    say = on_pass or (lambda: None)
    whole = model(waveform[None], torch.tensor([len(waveform)]), layers[-1]).hidden_states
    say()
    squares = dict.fromkeys(layers, 0.0)
    frame = 0
    for states in stream(model, [waveform], window_seconds, context_seconds, layers):
        for layer, own in zip(layers, states, strict=True):
            squares[layer] += float((own - whole[layer][0, frame : frame + len(own)]).square().sum())
        frame += len(states[0])
        say()
    return {layer: math.sqrt(square) / float(whole[layer].norm()) for layer, square in squares.items()}


@torch.inference_mode()
def _run(model: SpeechModel, samples: Tensor, window: Window, layers: Sequence[int]) -> tuple[Tensor, ...]:
    output = model(samples[None], torch.tensor([len(samples)]), layers[-1])
    kept = slice(window.drop_first_frames, window.drop_first_frames + window.num_frames)
    expected = kept.stop + window.drop_last_frames
    if int(output.lengths[0]) != expected:
        raise ValueError(f"{model.name}: {int(output.lengths[0])} frames of a window, expected {expected}")
    # Copies, so that the states of the context are not kept with them.
    return tuple(output.hidden_states[layer][0, kept].clone() for layer in layers)
