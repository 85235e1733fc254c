"""What every model of speech answers, teacher or student: one call, one result."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True)
class SpeechOutput:
    """Hidden states of one padded batch.

    `hidden_states`: each (batch, time, feature), all of one frame rate. Values at or after an utterance's length mean
    nothing and must not be read. `lengths`: (batch,) int64, the valid frames of each utterance.
    """

    hidden_states: tuple[Tensor, ...]
    lengths: Tensor


def join_outputs(alone: Sequence[Sequence[Tensor]], lengths: Tensor) -> SpeechOutput:
    """One padded batch of utterances that were run alone: each its layers (1, time, feature); `lengths` in frames."""
    layers = zip(*alone, strict=True)
    return SpeechOutput(tuple(pad_sequence([row[0] for row in layer], batch_first=True) for layer in layers), lengths)


class SpeechModel(Protocol):
    """A frozen feature extractor: a teacher, a student's read-out, or log-mel filter banks.

    Layer 0 is the input of the first transformer layer and layers 1..L are the outputs of the transformer layers.
    `widths[i]` is the feature size of `hidden_states[i]`; `convolutions` (kernel, stride) give the frame count of any
    length in samples through `frames.count_frames`; `fingerprint` is a hex digest of all that decides the output.
    """

    name: str
    widths: tuple[int, ...]
    convolutions: tuple[tuple[int, int], ...]
    fingerprint: str

    def extract(self, waveforms: Tensor, lengths: Tensor, last_layer: int | None = None) -> SpeechOutput:
        """Hidden states of waveforms (batch, samples) float32 at 16 kHz, lengths (batch,) int64 in samples.

        Runs in inference mode. `last_layer` stops the forward pass there: the result then ends with that layer.
        """
        ...
