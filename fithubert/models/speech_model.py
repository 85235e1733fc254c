"""The call that every model of speech answers, teacher or student: `out = model(waveforms, lengths)`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True)
class SpeechOutput:
    """Hidden states of one padded batch.

    `hidden_states`: layers 0..L, each (batch, time, feature), all at one frame rate. Values at or after an utterance's
    length are undefined. `lengths`: (batch,) int64, the valid frames of each utterance.
    """

    hidden_states: tuple[Tensor, ...]
    lengths: Tensor


def join_outputs(alone: Sequence[Sequence[Tensor]], lengths: Tensor) -> SpeechOutput:
    """One padded batch of utterances that ran one by one.

    `alone`: per utterance its layers, each (1, time, feature). `lengths`: (batch,) in frames.
    """
    layers = zip(*alone, strict=True)
    return SpeechOutput(tuple(pad_sequence([row[0] for row in layer], batch_first=True) for layer in layers), lengths)


class SpeechModel(Protocol):
    """A frozen feature extractor: a teacher, a student's read-out, or log-mel filter banks.

    Layer 0 is the input of the first transformer layer and layers 1..L are the outputs of the transformer layers.
    `widths[i]` is the feature size of `hidden_states[i]`. `convolutions` (kernel, stride) give the frame count of any
    length in samples through `frames.count_frames`. `fingerprint` is a hex digest of all that decides the output.
    """

    name: str
    widths: tuple[int, ...]
    convolutions: tuple[tuple[int, int], ...]

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
