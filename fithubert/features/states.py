"""What a model says of a corpus, utterance by utterance, computed in batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fithubert.data.manifest import Manifest
from fithubert.errors import UserError
from fithubert.features.plan import PlannedRow, plan_batches_by_length
from fithubert.features.schema import WAVEFORM_SCALE, StoreInfo
from fithubert.frames import pad_waveforms
from fithubert.speech_model import SpeechModel


@dataclass(frozen=True)
class UtteranceStates:
    """One utterance: `samples` (samples,) int16, and `layers`, each (time, feature), on the model's device."""

    row: PlannedRow
    samples: Tensor
    layers: tuple[Tensor, ...]


def compute_states(
    model: SpeechModel, manifest: Manifest, rows: Sequence[PlannedRow], info: StoreInfo, batch_seconds: float
) -> Iterator[UtteranceStates]:
    """The layers of `info` for `rows` (longest first), in order: memory holds one batch of `batch_seconds`.

    Raises UserError where audio is unreadable or a layer is not finite.
    """
    for batch in plan_batches_by_length(rows, batch_seconds):
        yield from _compute_batch(model, manifest, batch, info)


@torch.inference_mode()
def _compute_batch(
    model: SpeechModel, manifest: Manifest, batch: Sequence[PlannedRow], info: StoreInfo
) -> list[UtteranceStates]:
    samples = [_to_int16(manifest.read(manifest.utterances[row.index]), row) for row in batch]
    # The model hears what is stored, so that a reader of both sees one and the same audio.
    waveforms, lengths = pad_waveforms([s.to(torch.float32) / WAVEFORM_SCALE for s in samples])
    output = model.extract(waveforms, lengths, info.layers[-1])
    frames = output.lengths.tolist()
    states = []
    for place, row in enumerate(batch):
        if frames[place] != row.num_frames:
            raise ValueError(f"{model.name}: {frames[place]} frames of {row.id}, expected {row.num_frames}")
        layers = tuple(output.hidden_states[layer][place, : row.num_frames] for layer in info.layers)
        for layer, hidden in zip(info.layers, layers, strict=True):
            if not bool(torch.isfinite(hidden).all()):
                raise UserError(f"{row.id}: layer {layer} of {model.name} is NaN or infinite; mend the model")
        states.append(UtteranceStates(row, samples[place], layers))
    return states


def _to_int16(waveform: Tensor, row: PlannedRow) -> Tensor:
    if waveform.shape != (row.num_samples,):
        raise UserError(
            f"utterance {row.id}: the manifest says {row.num_samples} samples, the file holds {len(waveform)}; "
            "run `fithubert prepare` again"
        )
    return (waveform * WAVEFORM_SCALE).round().clamp(-WAVEFORM_SCALE, WAVEFORM_SCALE - 1).to(torch.int16)
