"""The call that every model of speech answers, `out = model(waveforms, lengths)`, and its baseline: filter banks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torchaudio.compliance import kaldi

from fithubert.files import digest
from fithubert.frames import MEL_HOP_SAMPLES, MEL_WINDOW_SAMPLES, SAMPLE_RATE_HZ, count_conv_frames

_MELS = 80


@dataclass(frozen=True)
class SpeechOutput:
    """Hidden states of one padded batch.

    `hidden_states`: layers 0..L, each (batch, time, feature), all at one frame rate. Values at or after an utterance's
    length are undefined. `lengths`: (batch,) int64, the valid frames of each utterance.
    """

    hidden_states: tuple[Tensor, ...]
    lengths: Tensor


def run_one_by_one(
    run: Callable[[int, Tensor], Sequence[Tensor]],
    waveforms: Tensor,
    lengths: Tensor,
    convolutions: Sequence[tuple[int, int]],
) -> SpeechOutput:
    """One padded batch of waveforms (batch, samples) without their padding; lengths (batch,) in samples.

    `run(row, waveform)` gives the layers, each (1, time, feature), of the waveform (1, samples) in `row`.
    """
    alone = [run(row, waveforms[row : row + 1, :count]) for row, count in enumerate(lengths.tolist())]
    states = tuple(pad_sequence([row[0] for row in layer], batch_first=True) for layer in zip(*alone, strict=True))
    return SpeechOutput(states, count_conv_frames(lengths, convolutions))


@dataclass(frozen=True)
class Locality:
    """What a window of a recording must contain, so that its frames are those of the whole recording.

    `reach_frames`: the frames on each side on which a frame depends; None: the whole recording. `group_frames`:
    neighbouring frames that are computed as one, from the first frame on.
    """

    reach_frames: int | None = None
    group_frames: int = 1


class SpeechModel(Protocol):
    """A frozen feature extractor: a teacher, a student's read-out, or log-mel filter banks.

    Layer 0 is the input of the first transformer layer and layers 1..L are the outputs of the transformer layers.
    `widths[i]` is the feature size of `hidden_states[i]`. `convolutions` (kernel, stride) give the frame count of any
    length in samples through `frames.count_frames`, which is cut to a multiple of `frame_multiple` (1, but for students
    that drop an incomplete last group of frames). `locality`: what `stream` must know. `fingerprint` is a hex digest of
    all that decides the output.
    """

    name: str
    widths: tuple[int, ...]
    convolutions: tuple[tuple[int, int], ...]
    frame_multiple: int
    locality: Locality

    @property
    def fingerprint(self) -> str: ...

    def __call__(self, waveforms: Tensor, lengths: Tensor, last_layer: int | None = None) -> SpeechOutput:
        """Hidden states of waveforms (batch, samples) float32 at 16 kHz, lengths (batch,) int64 in samples.

        Runs in inference mode. `last_layer` ends the forward pass: the result then ends with that layer.
        """
        ...


@runtime_checkable
class MaskableModel(Protocol):
    """A `SpeechModel` whose frames can be masked before its encoder, if it has a mask embedding (feature,)."""

    mask_embedding: Tensor | None

    def __call__(
        self, waveforms: Tensor, lengths: Tensor, last_layer: int | None = None, masked: Tensor | None = None
    ) -> SpeechOutput:
        """Hidden states; the mask embedding replaces the frames of `masked` (batch, time) bool."""
        ...


class FbankModel:
    """The baseline: 80 log-mel energies of 25 ms windows every 10 ms (Kaldi's `fbank`), no parameters.

    Differs from SUPERB's `fbank` upstream: neither deltas nor cepstral mean and variance normalisation, which the
    leaderboard's newer row drops as well for utterance-level tasks.
    """

    name = "fbank"
    widths: tuple[int, ...] = (_MELS,)
    convolutions: tuple[tuple[int, int], ...] = ((MEL_WINDOW_SAMPLES, MEL_HOP_SAMPLES),)
    frame_multiple, locality = 1, Locality(reach_frames=0)
    fingerprint = digest("fbank", str(_MELS), "kaldi dither 0, centred and scaled by constants")
    # Mean and deviation of log energies of 16-bit-scaled speech, constants so that nothing depends on a corpus.
    _MEAN, _SCALE = 12.0, 4.0

    @torch.inference_mode()
    def __call__(self, waveforms: Tensor, lengths: Tensor, last_layer: int | None = None) -> SpeechOutput:
        """(batch, time, 80) log-mel energies, one layer (layer 0); `last_layer` changes nothing."""
        frames = count_conv_frames(lengths, self.convolutions)
        rows = [self._log_mel(w[: int(n)]) for w, n in zip(waveforms, lengths, strict=True)]
        return SpeechOutput((pad_sequence(rows, batch_first=True),), frames)

    def _log_mel(self, waveform: Tensor) -> Tensor:
        if waveform.shape[0] < MEL_WINDOW_SAMPLES:
            return waveform.new_zeros(0, _MELS)
        features = kaldi.fbank(waveform[None] * 32768, num_mel_bins=_MELS, sample_frequency=SAMPLE_RATE_HZ, dither=0.0)
        return (features - self._MEAN) / self._SCALE
