"""A teacher run by ONNX Runtime, which is half as fast again as torch on a CPU."""

import logging
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fithubert.errors import UserError
from fithubert.frames import HUBERT_MIN_SAMPLES, SAMPLE_RATE_HZ, count_conv_frames
from fithubert.speech_model import SpeechOutput, join_outputs
from fithubert.teachers.hubert import HubertModel, HubertTeacher

_EXAMPLE_SAMPLES, _LONGEST_SAMPLES = SAMPLE_RATE_HZ, 3600 * SAMPLE_RATE_HZ


class OnnxTeacher:
    """`teacher` as an ONNX graph that answers as a `SpeechModel`, on the CPU; its fingerprint is the teacher's.

    Utterances run one by one: nothing is padded, which is exact and, on a CPU, fastest. A graph is exported when it is
    first needed, one for each `last_layer` asked for, and lives as long as this object. Raises UserError where onnx,
    onnxscript or onnxruntime are not installed.
    """

    def __init__(self, teacher: HubertTeacher) -> None:
        try:
            import onnxruntime
            import onnxscript  # noqa: F401  (what torch exports with)
        except ImportError:
            raise UserError("runtime onnx: needs pip install 'fithubert[onnx]'") from None
        self._teacher, self._runtime = teacher.to("cpu"), onnxruntime
        self._sessions: dict[int, Any] = {}
        self.name, self.widths, self.convolutions = teacher.name, teacher.widths, teacher.convolutions
        self.fingerprint = teacher.fingerprint

    def extract(self, waveforms: Tensor, lengths: Tensor, last_layer: int | None = None) -> SpeechOutput:
        """Hidden states of waveforms (batch, samples) float32 at 16 kHz, lengths (batch,) in samples."""
        depth = len(self.widths) - 1 if last_layer is None else last_layer
        session = self._session(depth)
        alone = []
        for waveform, count in zip(waveforms, lengths.tolist(), strict=True):
            states = session.run(None, {"waveforms": waveform[None, :count].numpy()})
            alone.append([torch.from_numpy(state) for state in states])
        return join_outputs(alone, count_conv_frames(lengths, self.convolutions))

    def _session(self, last_layer: int) -> Any:
        if last_layer not in self._sessions:
            options = self._runtime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "teacher.onnx"
                _export(self._teacher.model, last_layer, path)
                self._sessions[last_layer] = self._runtime.InferenceSession(
                    path, options, providers=["CPUExecutionProvider"]
                )
        return self._sessions[last_layer]


class _Unpadded(nn.Module):
    """What is exported: waveforms of one length in, hidden states out."""

    def __init__(self, model: HubertModel, last_layer: int) -> None:
        super().__init__()
        self.model, self.last_layer = model, last_layer

    def forward(self, waveforms: Tensor) -> tuple[Tensor, ...]:
        return self.model.forward_unpadded(waveforms, self.last_layer)


def _export(model: HubertModel, last_layer: int, path: Path) -> None:
    # It says on every export that torchvision's operators are not there.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    samples = torch.export.Dim("samples", min=HUBERT_MIN_SAMPLES, max=_LONGEST_SAMPLES)
    with torch.no_grad():
        torch.onnx.export(
            _Unpadded(model, last_layer).eval(),
            (torch.zeros(1, _EXAMPLE_SAMPLES),),
            path,
            input_names=["waveforms"],
            output_names=[f"layer_{layer}" for layer in range(last_layer + 1)],
            dynamic_shapes={"waveforms": {1: samples}},
            dynamo=True,
            external_data=True,
            verbose=False,
        )
