"""The hidden states of a student that downstream tasks read."""

import torch
from torch import Tensor

from fithubert.models.speech_model import SpeechOutput
from fithubert.models.states import read_states, read_widths
from fithubert.models.student import Student
from fithubert.models.weights import fingerprint, release


class ReadOut:
    """A `SpeechModel` that returns the hidden states that `student.config.readout` names.

    `last`: one layer, the last head's projection (the paper). `layers`: layer 0..L of the student, reduced ones with
    repeated frames. `projections`: every head's projection, teacher width (ARMHuBERT). Holds a copy of the student
    without the parts that only training needs.
    """

    def __init__(self, student: Student, name: str) -> None:
        self.student = release(student).requires_grad_(False)
        self.name = name
        self.convolutions = self.student.frontend.convolutions
        self.fingerprint = fingerprint(self.student)
        self.widths = read_widths(self.student)

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
        return SpeechOutput(*read_states(self.student, waveforms, lengths, last_layer))
