"""A model and a trained head as one network."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fithubert.errors import UserError
from fithubert.export.find import find_model
from fithubert.frames import padding_mask
from fithubert.models.hubert import HubertTeacher
from fithubert.models.runtime import ReadOut
from fithubert.models.weights import SHIPPED_STUDENT
from fithubert.probes import FloatArray, Probe
from fithubert.records import ProbeRecord
from fithubert.superb.heads import LinearHead
from fithubert.superb.kept import read_head
from fithubert.superb.learners.verification import SpeakerHead
from fithubert.workspace import Workspace

if TYPE_CHECKING:
    from fithubert.models.speech_model import SpeechModel


class ProbeNetwork(nn.Module):
    """`model`, the weighted sum of its states, and `head`: waveforms and their lengths in, outputs out.

    Inputs: waveforms (batch, samples) float32 at 16 kHz, lengths (batch,) int64 in samples. Outputs by
    `record.pooling`: `mean` logits (batch, output); `frames` logits (batch, time, output) and frames (batch,);
    `statistics` embeddings (batch, width). Padding changes none. Raises UserError if `head` was trained on another
    model.
    """

    def __init__(self, model: "SpeechModel", head: LinearHead | SpeakerHead, record: ProbeRecord) -> None:
        super().__init__()
        if model.fingerprint != record.fingerprint:
            raise UserError(
                f"the probe {record.task} was trained on other weights than those of {model.name}; run "
                f"`fithubert superb {record.model} {record.task}` for a new one"
            )
        wanted = {model.widths[layer] for layer in record.layers if layer < len(model.widths)}
        if max(record.layers) >= len(model.widths) or wanted != {head.projector.in_features}:
            raise UserError(f"the probe {record.task} does not fit the states of {model.name}: its record is damaged")
        # As a module, so that an export finds the weights.
        self.trunk = model.student if isinstance(model, ReadOut) else getattr(model, "model", None)
        self._model, self.head, self.pooling = model, head, record.pooling
        self.layers = record.layers
        self.shares: Tensor
        self.register_buffer("shares", head.layer_sum.shares())

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        states, frames = self._read(waveforms, lengths)
        summed = torch.stack([states[layer] for layer in self.layers], -1) @ self.shares
        inside = padding_mask(frames, states[0].shape[1])[:, :, None]
        summed = torch.where(inside, summed, torch.zeros_like(summed))
        if isinstance(self.head, SpeakerHead):
            projected = torch.where(inside, self.head.projector(summed), 0.0)
            padded = nn.functional.pad(projected, (0, 0, 0, SpeakerHead.LOST_FRAMES))
            return (self.head.pool(padded, frames)[0],)
        if self.pooling == "mean":
            mean = summed.sum(1) / frames.clamp(min=1)[:, None]
            return (self.head.output(self.head.projector(mean)),)
        return self.head.output(self.head.projector(summed)), frames

    def _read(self, waveforms: Tensor, lengths: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        last = max(self.layers)
        if isinstance(self._model, ReadOut):
            return self._model.student.read(waveforms, lengths, last)
        run = self._model.model if isinstance(self._model, HubertTeacher) else self._model
        out = run(waveforms, lengths, last)
        return out.hidden_states, out.lengths


def open_head(folder: Path, model: "str | Path | SpeechModel | None" = None) -> Probe:
    """The probe of the head in `folder`, behind `model` or the one of its workspace, with PyTorch on the CPU.

    Raises UserError in one line as `load_probe` does.
    """
    record, head = read_head(folder)
    if model is None:
        model = _find_own(folder, record)
    elif isinstance(model, str | Path):
        model = find_model(Workspace(Path()), str(model), "cpu")
    network = ProbeNetwork(model, head, record)

    @torch.inference_mode()
    def run(waveforms: FloatArray) -> tuple[FloatArray, ...]:
        lengths = torch.full((len(waveforms),), waveforms.shape[1])
        return tuple(output.cpu().numpy() for output in network(torch.from_numpy(waveforms), lengths))

    return Probe(record, run)


def _find_own(folder: Path, record: ProbeRecord) -> "SpeechModel":
    """The model of the workspace in which `folder` is `artifacts/probes/MODEL/TASK`."""
    place = folder.resolve()
    root = place.parents[3] if len(place.parents) > 3 else place
    # A name alone, so that a foreign record opens no other file and downloads nothing.
    known = ["teacher", "fbank", SHIPPED_STUDENT, *Workspace(root).list_students()]
    if record.model not in known or place.parents[1].name != "probes":
        raise UserError(f"{folder}: holds a head alone, and there is no model {record.model[:80]!r} here; give `model`")
    return find_model(Workspace(root), record.model, "cpu")
