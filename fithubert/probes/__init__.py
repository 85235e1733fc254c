"""Probes: a model with a trained head, called with a recording. `load_probe` opens one.

This module runs without PyTorch: a graph needs onnxruntime, numpy and soundfile, and a recording of 16 kHz.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
from numpy.typing import ArrayLike, NDArray

from fithubert.errors import UserError
from fithubert.files import check_digest, check_regular
from fithubert.records import PROBE_FILE, ProbeRecord

if TYPE_CHECKING:
    from fithubert.models.speech_model import SpeechModel

FloatArray = NDArray[np.float32]
#: The outputs for a waveform (1, samples) at 16 kHz.
Run = Callable[[FloatArray], tuple[FloatArray, ...]]
GRAPH = "model.onnx"


@dataclass(frozen=True)
class Label:
    """What a recording is. `parts`: one label for each slot (`ic` has three); `label`: the parts, joined by spaces.

    `probability`: of all parts together, by the head.
    """

    label: str
    probability: float
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Symbol:
    """One decoded symbol and the span of the frames that output it, which is rough: CTC marks symbols, not edges."""

    label: str
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True)
class Symbols:
    """The symbols of a recording in order; `text`: their labels, joined by spaces."""

    text: str
    symbols: tuple[Symbol, ...]


@dataclass(frozen=True)
class Voice:
    """The voice of a recording as a vector: `embedding` (width,)."""

    embedding: tuple[float, ...] = field(repr=False)

    def score(self, other: "Voice") -> float:
        """The cosine of both embeddings: the larger, the more likely is one speaker. 0 if a vector is 0."""
        one, two = np.array(self.embedding), np.array(other.embedding)
        norms = float(np.linalg.norm(one) * np.linalg.norm(two))
        return float(one @ two) / norms if norms else 0.0


class Probe:
    """A model with a trained head. `record`: its task, labels and scores; `run`: the network."""

    def __init__(self, record: ProbeRecord, run: Run) -> None:
        self.record, self._run = record, run

    def __call__(self, recording: str | Path | ArrayLike) -> Label | Symbols | Voice:
        """The answer for an audio file of any rate, or for a waveform (samples,) at 16 kHz.

        A `Label` (ks, sid, er, ic), `Symbols` (pr) or a `Voice` (asv). Raises UserError if the recording cannot be
        read, or has no frame.
        """
        if isinstance(recording, str | Path):
            place, samples = str(recording), _read(Path(recording))
        else:
            place, samples = "waveform", np.asarray(recording, dtype=np.float32)
        if samples.ndim != 1 or not np.isfinite(samples).all():
            raise UserError(f"{place}: not one channel of finite samples")
        shortest = self.record.shortest_samples
        if len(samples) < shortest:
            raise UserError(f"{place}: {len(samples)} samples at 16 kHz give no frame; at least {shortest} are needed")
        outputs = self._run(samples[None])
        if self.record.pooling == "statistics":
            return Voice(tuple(outputs[0][0].tolist()))
        names = [label for slot in self.record.labels for label in slot]
        if outputs[0].shape[-1] != len(names):
            raise UserError(f"probe {self.record.task}: {outputs[0].shape[-1]} outputs for {len(names)} labels")
        if self.record.pooling == "mean":
            return self._choose(outputs[0][0])
        return self._decode(outputs[0][0, : int(outputs[1][0])], names)

    def _choose(self, logits: FloatArray) -> Label:
        """The best label of each slot of logits (output,)."""
        edges = np.cumsum([len(slot) for slot in self.record.labels])[:-1]
        probability, parts = 1.0, []
        for labels, slot in zip(self.record.labels, np.split(logits.astype(np.float64), edges), strict=True):
            shares = np.exp(slot - slot.max())
            parts.append(labels[int(slot.argmax())])
            probability *= float(shares.max() / shares.sum())
        return Label(" ".join(parts), probability, tuple(parts))

    def _decode(self, logits: FloatArray, names: list[str]) -> Symbols:
        """Greedy CTC decoding of logits (frame, output): repeats are one symbol, outputs without a name are none."""
        record, symbols, first = self.record, [], 0
        # A frame stands for the samples around the middle of those that it reads.
        margin = (record.field_samples - record.stride_samples) / 2
        for output, frames in groupby(logits.argmax(1).tolist()):
            last = first + len(list(frames))
            if names[output]:
                span = ((margin + at * record.stride_samples) / record.sampling_rate for at in (first, last))
                symbols.append(Symbol(names[output], *span))
            first = last
        return Symbols(" ".join(symbol.label for symbol in symbols), tuple(symbols))


def load_probe(path: str | Path, model: "str | Path | SpeechModel | None" = None) -> Probe:
    """The probe in a folder that `fithubert superb` or `fithubert export --task` wrote.

    An exported one runs with onnxruntime, and PyTorch is not imported. The first kind, `artifacts/probes/MODEL/TASK` of
    a workspace, holds the head alone and runs with PyTorch on the CPU, behind the model of this name in the workspace
    or behind `model`: a student's folder, a teacher's name, or a loaded one. Raises UserError in one line if a file is
    missing or damaged, or if the head was trained on another model.
    """
    path = Path(path)
    folder = path.parent if path.name == GRAPH else path
    record = ProbeRecord.read(folder / PROBE_FILE)
    if record.graph is not None:
        if model is not None:
            raise UserError(f"{folder}: the graph has a model of its own; leave out `model`")
        check_digest(folder / GRAPH, record.graph.sha256)
        return Probe(record, open_graph(folder / GRAPH))
    from fithubert.probes.network import open_head

    return open_head(folder, model)


def open_graph(path: Path) -> Run:
    """The graph in `path`, run by ONNX Runtime on the CPU. Raises UserError if it is no graph of a probe."""
    check_regular(path)
    try:
        import onnxruntime
    except ImportError:
        raise UserError(f"{path}: needs pip install onnxruntime") from None
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has a kind for each status
        raise UserError(f"{path}: not readable as ONNX ({' '.join(str(error).split())[:200]})") from None
    if [place.name for place in session.get_inputs()] != ["waveforms", "lengths"]:
        raise UserError(f"{path}: not the graph of a probe; its inputs must be waveforms and lengths")

    def run(waveforms: FloatArray) -> tuple[Any, ...]:
        lengths = np.full(len(waveforms), waveforms.shape[1], dtype=np.int64)
        return tuple(session.run(None, {"waveforms": waveforms, "lengths": lengths}))

    return run


def _read(path: Path) -> FloatArray:
    """(samples,) of an audio file at 16 kHz mono, as the rest of the project reads it."""
    if not path.is_file():
        raise UserError(f"{path}: no such recording")
    try:
        with path.open("rb") as opened, soundfile.SoundFile(opened) as file:
            if file.samplerate == 16_000:
                samples: FloatArray = file.read(dtype="float32", always_2d=True).mean(axis=1)
                return samples
    except (soundfile.SoundFileError, RuntimeError):
        pass  # The other reader names the reason.
    # It resamples with PyTorch.
    from fithubert.data.audio import read_recording

    read: FloatArray = read_recording(path).numpy()
    return read
