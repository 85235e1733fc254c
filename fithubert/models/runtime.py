"""How models are run: a student's read-out, hop-aligned frames, a teacher's device, torch.compile or ONNX Runtime."""

import logging
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fithubert.config.teacher import Device, Precision, Runtime
from fithubert.devices import choose_device
from fithubert.errors import UserError
from fithubert.files import digest
from fithubert.frames import (
    HUBERT_MIN_SAMPLES,
    SAMPLE_RATE_HZ,
    count_group_frames,
    count_reach_frames,
    hop_padding,
    padding_mask,
    receptive_field,
)
from fithubert.models.hubert import HubertModel, HubertTeacher
from fithubert.models.speech_model import Locality, SpeechModel, SpeechOutput, run_one_by_one
from fithubert.models.student import Student
from fithubert.models.weights import fingerprint, release


class ReadOut:
    """A `SpeechModel` that returns the hidden states that `student.config.readout` names.

    They are those of `Student.read`. Holds a copy of the student without the parts that only training needs.
    """

    def __init__(self, student: Student, name: str) -> None:
        self.student = release(student).requires_grad_(False)
        self.name = name
        self.convolutions, self.frame_multiple = self.student.frontend.convolutions, self.student.frame_multiple
        reach, groups = count_reach_frames(student.config), count_group_frames(student.config.time_reduction)
        self.locality = Locality(reach, groups)
        self.fingerprint = fingerprint(self.student)
        self.widths = self.student.read_widths

    @property
    def device(self) -> torch.device:
        """The device of the weights, to which inputs are moved."""
        return self.student.encoder_norm.weight.device

    def to(self, device: torch.device | str) -> "ReadOut":
        """This read-out with its weights on `device`."""
        self.student.to(device)
        return self

    @torch.inference_mode()
    def __call__(self, waveforms: Tensor, lengths: Tensor, last_layer: int | None = None) -> SpeechOutput:
        """The read-out's layers of waveforms (batch, samples) float32 at 16 kHz, lengths (batch,) in samples.

        `last_layer` counts the read-out's own layers from 0 and ends the result there.
        """
        waveforms, lengths = waveforms.to(self.device), lengths.to(self.device)
        return SpeechOutput(*self.student.read(waveforms, lengths, last_layer))


class HopAligned:
    """`model` with one frame for every whole hop: a HuBERT's count becomes samples // 320, that of a spectrogram.

    HuBERT's own count is often one less, because a frame reads 400 samples. Zeros are added to both ends of the
    waveform, and frame t is centred on samples 320 t to 320 (t + 1). Source: bshall/hubert, which pads by 40 on both
    sides. The states differ from those of `model`, and so does the fingerprint.
    """

    def __init__(self, model: SpeechModel) -> None:
        self._model, step = model, receptive_field(model.convolutions)[1]
        self._ends = hop_padding(model.convolutions)
        self.name, self.widths, self.frame_multiple = f"{model.name} hop-aligned", model.widths, model.frame_multiple
        # The one convolution that gives the same count.
        self.convolutions: tuple[tuple[int, int], ...] = ((step, step),)
        reach = model.locality.reach_frames
        # The zeros at the ends of a window are in its outermost frames.
        self.locality = replace(model.locality, reach_frames=None if reach is None else reach + 1)

    @property
    def fingerprint(self) -> str:
        """A digest of the model's own, and of the alignment."""
        return digest(self._model.fingerprint, "hop-aligned")

    def __call__(self, waveforms: Tensor, lengths: Tensor, last_layer: int | None = None) -> SpeechOutput:
        """Hidden states of waveforms (batch, samples) float32 at 16 kHz, lengths (batch,) in samples."""
        silent = waveforms * padding_mask(lengths, waveforms.shape[1])
        return self._model(F.pad(silent, self._ends), lengths + sum(self._ends), last_layer)


class OnnxTeacher:
    """`teacher` as an ONNX graph that answers as a `SpeechModel`, on the CPU; its fingerprint is the teacher's.

    Utterances run one by one: nothing is padded, which is exact and, on a CPU, fastest. A graph is exported when it is
    first needed, one for each requested `last_layer`, and kept as long as this object. Raises UserError if onnx,
    onnxscript or onnxruntime are not installed.
    """

    def __init__(self, teacher: HubertTeacher) -> None:
        require_onnx("runtime onnx")
        self._teacher = teacher.to("cpu")
        self._sessions: dict[int, Any] = {}
        self.name, self.widths, self.convolutions = teacher.name, teacher.widths, teacher.convolutions
        self.fingerprint, self.frame_multiple = teacher.fingerprint, teacher.frame_multiple
        self.locality = teacher.locality

    def __call__(self, waveforms: Tensor, lengths: Tensor, last_layer: int | None = None) -> SpeechOutput:
        """Hidden states of waveforms (batch, samples) float32 at 16 kHz, lengths (batch,) in samples."""
        session = self._session(len(self.widths) - 1 if last_layer is None else last_layer)

        def run(_: int, waveform: Tensor) -> list[Tensor]:
            return [torch.from_numpy(state) for state in session.run(None, {"waveforms": waveform.numpy()})]

        return run_one_by_one(run, waveforms, lengths, self.convolutions)

    def _session(self, last_layer: int) -> Any:
        if last_layer not in self._sessions:
            with tempfile.TemporaryDirectory() as folder:
                path, example = Path(folder) / "teacher.onnx", {"waveforms": torch.zeros(1, SAMPLE_RATE_HZ)}
                names = [f"layer_{layer}" for layer in range(last_layer + 1)]
                shapes = {"waveforms": {1: samples_dim()}}
                write_graph(Unpadded(self._teacher.model, last_layer), example, names, shapes, path, external_data=True)
                self._sessions[last_layer] = open_session(path)
        return self._sessions[last_layer]


def require_onnx(what: str) -> None:
    """Raise UserError naming `what` where onnx, onnxscript or onnxruntime are not installed."""
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401  (torch exports with it)
    except ImportError:
        raise UserError(f"{what}: needs pip install 'fithubert[onnx]'") from None


def open_session(path: Path) -> Any:
    """An ONNX Runtime session of the graph in `path` on the CPU, with as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def write_graph(
    module: nn.Module,
    example: Mapping[str, Tensor],
    outputs: Sequence[str],
    dynamic_shapes: dict[str, Any],
    path: Path,
    external_data: bool = False,
) -> None:
    """Write `module` in evaluation mode as a graph in `path`, its inputs named as in `example`.

    `external_data` puts the weights in a file next to it.
    """
    # Every export logs that the operators of torchvision are missing.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    with torch.no_grad(), warnings.catch_warnings():
        # One Dim is given to the axes that share a size, which is what it says.
        warnings.filterwarnings("ignore", message="# The axis name")
        torch.onnx.export(
            module.eval(),
            tuple(example.values()),
            path,
            input_names=list(example),
            output_names=list(outputs),
            dynamic_shapes=dynamic_shapes,
            dynamo=True,
            external_data=external_data,
            verbose=False,
        )


def samples_dim(shortest: int = HUBERT_MIN_SAMPLES) -> torch.export.Dim:
    """The axis of samples of an exported graph: from `shortest` up to an hour."""
    return torch.export.Dim("samples", min=shortest, max=3600 * SAMPLE_RATE_HZ)


class Unpadded(nn.Module):
    """`model` for export: waveforms (batch, samples) of one length in, hidden states 0..`last_layer` out; no mask."""

    def __init__(self, model: HubertModel, last_layer: int) -> None:
        super().__init__()
        self.model, self.last_layer = model, last_layer

    def forward(self, waveforms: Tensor) -> tuple[Tensor, ...]:
        config = self.model.config
        if config.normalise_waveform:
            waveforms = F.layer_norm(waveforms, waveforms.shape[-1:], eps=config.waveform_epsilon)
        x = self.model.project(self.model.frontend.convolve(waveforms, None))
        return self.model.encode(x, None, self.last_layer)


def prepare_teacher(
    teacher: HubertTeacher, device: Device = "auto", precision: Precision = "float32", runtime: Runtime = "torch"
) -> SpeechModel:
    """`teacher`, ready to extract: on `device` (auto: a GPU if there is one), in `precision`, by `runtime`.

    `compile` pays after a minute of compiling, mostly on a GPU; `onnx` is for CPUs and float32. Raises UserError if
    the device is not there or the runtime cannot do that.
    """
    device = choose_device(device) if runtime != "onnx" or device == "cuda" else "cpu"
    if runtime == "onnx":
        if device != "cpu" or precision != "float32":
            raise UserError("runtime onnx: runs on the CPU in float32 only; use runtime torch or compile")
        return OnnxTeacher(teacher)
    if runtime == "compile":
        teacher.model.compile(dynamic=True)
    teacher.precision = precision
    return teacher.to(device)
