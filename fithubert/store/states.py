"""What a model says of a corpus, utterance by utterance, computed in batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fithubert.data.manifest import Manifest
from fithubert.errors import UserError
from fithubert.frames import pad_waveforms
from fithubert.models.speech_model import SpeechModel
from fithubert.store.format import WAVEFORM_SCALE
from fithubert.store.shards import PlannedRow, plan_batches_by_length

#: Padded audio in one forward pass on a CPU: more pads more, and takes more memory and time (experiments/LOG.md).
CPU_BATCH_SECONDS = 16.0


@dataclass(frozen=True)
class UtteranceStates:
    """One utterance: its layers (time, feature) on the model's device, and what is stored of its audio.

    `samples`: (samples,) int16; None where they are not stored.
    """

    row: PlannedRow
    samples: Tensor | None
    layers: tuple[Tensor, ...]


def compute_states(
    model: SpeechModel,
    manifest: Manifest,
    rows: Sequence[PlannedRow],
    layers: Sequence[int],
    batch_seconds: float,
    with_waveform: bool = False,
) -> Iterator[UtteranceStates]:
    """The `layers` (ascending) of `rows` (longest first), in order: memory holds one batch of `batch_seconds`.

    Raises UserError where audio is unreadable or a layer is not finite.
    """
    for batch in plan_batches_by_length(rows, batch_seconds):
        waveforms = [_read(manifest, row) for row in batch]
        samples: list[Tensor | None] = [None] * len(batch)
        if with_waveform:
            rounded = [_to_int16(waveform) for waveform in waveforms]
            # The model hears what is stored, so that a reader of both sees one and the same audio.
            waveforms = [s.to(torch.float32) / WAVEFORM_SCALE for s in rounded]
            samples = [*rounded]
        yield from map(UtteranceStates, batch, samples, _run_batch(model, waveforms, batch, layers))


@torch.inference_mode()
def _run_batch(
    model: SpeechModel, waveforms: Sequence[Tensor], rows: Sequence[PlannedRow], layers: Sequence[int]
) -> list[tuple[Tensor, ...]]:
    """The `layers` (ascending) of each of `waveforms` (samples,), (time, feature) each, without padding.

    `rows` name the utterances and say their frames. Raises UserError where a value is not finite.
    """
    output = model(*pad_waveforms(waveforms), layers[-1])
    states = []
    for place, (row, frames) in enumerate(zip(rows, output.lengths.tolist(), strict=True)):
        if frames != row.num_frames:
            raise ValueError(f"{model.name}: {frames} frames of {row.id}, expected {row.num_frames}")
        own = tuple(output.hidden_states[layer][place, :frames] for layer in layers)
        for layer, hidden in zip(layers, own, strict=True):
            if not bool(torch.isfinite(hidden).all()):
                raise UserError(f"{row.id}: layer {layer} of {model.name} is NaN or infinite; mend the model")
        states.append(own)
    return states


def _read(manifest: Manifest, row: PlannedRow) -> Tensor:
    waveform = manifest.read(manifest.utterances[row.index])
    if waveform.shape != (row.num_samples,):
        raise UserError(
            f"utterance {row.id}: the manifest says {row.num_samples} samples, the file holds {len(waveform)}; "
            "run `fithubert prepare` again"
        )
    return waveform


def _to_int16(waveform: Tensor) -> Tensor:
    return (waveform * WAVEFORM_SCALE).round().clamp(-WAVEFORM_SCALE, WAVEFORM_SCALE - 1).to(torch.int16)
