"""Frame arithmetic: strides, time reduction, lengths, masks of frames. All length arithmetic is here."""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from fithubert.config.students import MaskingConfig, StudentConfig, TimeReductionConfig

SAMPLE_RATE_HZ = 16_000
#: Kernel and stride of the seven HuBERT convolutions: one frame from 400 samples, a new one every 320.
HUBERT_CONVOLUTIONS = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))
HUBERT_STRIDE_SAMPLES = 320
HUBERT_MIN_SAMPLES = 400
#: Filter banks: a window of 25 ms every 10 ms, two to each of HuBERT's frames. The first begins `MEL_MARGIN_SAMPLES`
#: before the frame and the last ends as many after it, so that the middle of both is that of the frame.
MEL_WINDOW_SAMPLES, MEL_HOP_SAMPLES = 400, 160
MEL_WINDOWS_PER_FRAME = HUBERT_STRIDE_SAMPLES // MEL_HOP_SAMPLES
MEL_MARGIN_SAMPLES = (MEL_WINDOW_SAMPLES + (MEL_WINDOWS_PER_FRAME - 1) * MEL_HOP_SAMPLES - HUBERT_MIN_SAMPLES) // 2
#: An integer, or a tensor or an array of them.
Lengths = TypeVar("Lengths", bound=Any)


def count_conv_frames(lengths: Tensor, convolutions: Sequence[tuple[int, int]]) -> Tensor:
    """Frames that unpadded convolutions of `(kernel, stride)` give for `lengths` samples; 0 if too short.

    Works on any integer tensor. The same arithmetic as fairseq and torchaudio: floor((n - kernel) / stride) + 1.
    """
    for kernel, stride in convolutions:
        lengths = torch.div(lengths - kernel, stride, rounding_mode="floor") + 1
    return lengths.clamp(min=0)


def count_frames(
    num_samples: int, convolutions: Sequence[tuple[int, int]] = HUBERT_CONVOLUTIONS, multiple: int = 1
) -> int:
    """Frames of one utterance of `num_samples`, in plain integers (see `count_conv_frames` and `keep_whole`)."""
    for kernel, stride in convolutions:
        num_samples = (num_samples - kernel) // stride + 1
    return keep_whole(max(num_samples, 0), multiple)


def count_mel_windows(num_samples: int) -> int:
    """Windows of filter banks that begin every `MEL_HOP_SAMPLES` in `num_samples` with a margin of zeros at each end.

    `MEL_WINDOWS_PER_FRAME` for each of HuBERT's frames, and sometimes one more, which belongs to no frame.
    """
    return (num_samples + 2 * MEL_MARGIN_SAMPLES - MEL_WINDOW_SAMPLES) // MEL_HOP_SAMPLES + 1


def keep_whole(frames: Lengths, multiple: int) -> Lengths:
    """`frames` without those of an incomplete last group of `multiple` (a model's `frame_multiple`)."""
    return frames // multiple * multiple


def receptive_field(convolutions: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The samples that one frame depends on, and the samples between frames, of `(kernel, stride)` convolutions."""
    field, step = 1, 1
    for kernel, stride in convolutions:
        field += (kernel - 1) * step
        step *= stride
    return field, step


def frame_rate_hz(convolutions: Sequence[tuple[int, int]]) -> float:
    """Frames per second at 16 kHz of `(kernel, stride)` convolutions."""
    return SAMPLE_RATE_HZ / receptive_field(convolutions)[1]


def hop_padding(convolutions: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The samples to add before and after a waveform for one frame on the centre of each whole hop; HuBERT: 40, 40."""
    field, step = receptive_field(convolutions)
    return (field - step) // 2, (field - step + 1) // 2


def count_samples(num_frames: int, convolutions: Sequence[tuple[int, int]] = HUBERT_CONVOLUTIONS) -> int:
    """The smallest number of samples that gives exactly `num_frames` frames."""
    field, step = receptive_field(convolutions)
    return field + (num_frames - 1) * step if num_frames > 0 else 0


def reduce_lengths(lengths: Lengths, factor: int, added_frames: int | None = None) -> Lengths:
    """Frames after time reduction by `factor`, rounded up so that the last frame is kept.

    `added_frames`: the zeros behind the last frame, if they are others (`count_added_frames`).
    """
    return (lengths + (factor - 1 if added_frames is None else added_frames)) // factor


def count_stacked_frames(reduction: TimeReductionConfig) -> int:
    """How many frames of the front end a student's projection reads at once."""
    return reduction.factor if reduction.kind == "stack" else 1


def count_added_frames(kind: str, factor: int, as_authors: bool) -> int:
    """The zeros behind the last frame, before frames are grouped by `factor` and an incomplete group is left out.

    `as_authors`, in imported checkpoints: an incomplete group is lost, but `fc1` always adds zeros, if need be a group.
    """
    if not as_authors:
        return factor - 1
    return factor if kind == "fc1" else 0


def padding_mask(lengths: Tensor, num_frames: int) -> Tensor:
    """(batch, num_frames) bool, True where a frame is valid (inside its utterance's length)."""
    return torch.arange(num_frames, device=lengths.device)[None, :] < lengths[:, None]


def zero_padding(x: Tensor, lengths: Tensor) -> Tensor:
    """`x` (batch, time, feature) with every frame at or after its utterance's length set to 0."""
    return x * padding_mask(lengths, x.shape[1])[:, :, None].to(x.dtype)


def nothing_padded(lengths: Tensor | None, longest: int) -> bool:
    """Whether every length is `longest`, so that masks can be skipped. `lengths` None means that it is.

    False while compiling, when it is unknown.
    """
    return lengths is None or (not torch.compiler.is_compiling() and bool((lengths >= longest).all()))


def attention_mask(lengths: Tensor | None, num_frames: int, context_frames: int | None = None) -> Tensor | None:
    """(batch, 1, query or 1, key) bool, True where a key may be attended to; None if that is everywhere.

    `context_frames`: a query attends to so many keys on each side of its own. Every query attends to some key, those
    of padding too, since a softmax over nothing is not a number.
    """
    device = None if lengths is None else lengths.device
    padded = None if nothing_padded(lengths, num_frames) else lengths
    if context_frames is None:
        return None if padded is None else padding_mask(padded.clamp(min=1), num_frames)[:, None, None, :]
    place = torch.arange(num_frames, device=device)
    distance = (place[:, None] - place).abs()
    near = (distance <= context_frames)[None, None]
    if padded is None:
        return near
    return near & (padding_mask(padded, num_frames)[:, None, None, :] | (distance == 0))


def count_reach_frames(config: StudentConfig) -> int | None:
    """Frames on each side, at the teacher's rate, on which a student's frame depends; None: the whole utterance.

    Each layer adds `context_frames` of its own rate, the positional convolution half its kernel, a time reduction the
    other frames of a group, and a filter bank its margin, which is a part of one frame.
    """
    if config.context_frames is None:
        return None
    reduction = config.time_reduction
    layers = sum(config.factor_of(layer) for layer in range(1, config.depth + 1)) * config.context_frames
    positions = config.pos_conv_kernel // 2 * count_stacked_frames(reduction)
    return layers + positions + count_group_frames(reduction) - 1 + (config.frontend == "mel")


def count_group_frames(reduction: TimeReductionConfig) -> int:
    """How many neighbouring frames a time reduction makes one of."""
    return 1 if reduction.kind == "none" else reduction.factor


def pad_waveforms(waveforms: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """One zero-padded (batch, samples) tensor and the (batch,) int64 lengths of a list of 1-D waveforms."""
    lengths = torch.tensor([w.shape[0] for w in waveforms], dtype=torch.int64, device=waveforms[0].device)
    return torch.nn.utils.rnn.pad_sequence(list(waveforms), batch_first=True), lengths


def draw_mask(
    lengths: Tensor, num_frames: int, config: MaskingConfig, generator: torch.Generator | None = None
) -> Tensor:
    """(batch, num_frames) bool, True at masked frames, from `generator` or torch's own random state.

    Spans of `span_frames` that neither touch nor overlap, as many as cover `share` of each utterance, or as fit
    (fairseq `compute_mask_indices` with `no_mask_overlap`, `mask_min_space` 1). Differs from fairseq: every placement
    is equally likely.
    """
    mask = torch.zeros(len(lengths), num_frames, dtype=torch.bool)
    for row, frames in enumerate(lengths.tolist()):
        spans = int(config.share * frames / config.span_frames + torch.rand((), generator=generator).item())
        spans = min(spans, (frames + 1) // (config.span_frames + 1))
        # the spans and the gap behind each taken out, what is left to choose is which frames begin one
        choices = frames - spans * config.span_frames + 1
        starts = (
            torch.randperm(choices, generator=generator)[:spans].sort().values
            + torch.arange(spans) * config.span_frames
        )
        mask[row, (starts[:, None] + torch.arange(config.span_frames)).flatten()] = True
    return mask.to(lengths.device)
