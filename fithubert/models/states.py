"""Which of a student's states downstream use reads: the one place that knows, for this project and for every export."""

from collections.abc import Sequence

from torch import Tensor

from fithubert.models.student import Student


def read_states(
    student: Student,
    waveforms: Tensor | Sequence[Tensor],
    lengths: Tensor | None = None,
    last_layer: int | None = None,
) -> tuple[tuple[Tensor, ...], Tensor]:
    """The states (batch, time, feature) that its read-out names, and their lengths (batch,), of a released student.

    `last`: the last head's projection (the paper), the only head that is left. `layers`: layer 0..L, reduced ones with
    repeated frames. `projections`: every head's projection. `last_layer` counts the states from 0 and ends the result,
    and the work, there. Inputs as in `Student.forward`.
    """
    if student.config.readout == "layers":
        encoded = student.encode(waveforms, lengths, last_layer)
        return student.at_teacher_rate(encoded), encoded.lengths
    count = len(student.config.heads.layer_map)
    return student.hints(waveforms, lengths, range(count if last_layer is None else last_layer + 1))


def read_widths(student: Student) -> tuple[int, ...]:
    """The feature size of each of `read_states`' states."""
    config = student.config
    if config.readout == "layers":
        return (config.width,) * (config.depth + 1)
    width = config.width if config.heads.kind == "none" else config.heads.teacher_width
    return (width,) * len(config.heads.layer_map)
