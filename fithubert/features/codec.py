"""Codecs: how the hidden states of one utterance and one layer become bytes, and floats again."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fithubert.errors import UserError

_FLOAT16_MAX = 65504.0
_INT8_MAX = 127


@dataclass(frozen=True)
class Codec:
    """One way of storing hidden states; a codec is an entry of `CODECS` and nothing else.

    `count_bytes(num_frames, width)`: the size of a value, known before it is written.
    `encode(x)`: the value of `x` (time, width) float32 and finite, as (bytes,) uint8 on the device of `x`, and how
    many numbers did not fit and were clipped.
    `decode(value, start_frame, out)`: fills `out` (time, width) float32 with the frames from `start_frame`, touching
    no other frame of `value` (bytes,) uint8.
    `recipe`: how to decode by hand, in one line; it stands in the metadata of every file.
    """

    recipe: str
    count_bytes: Callable[[int, int], int]
    encode: Callable[[Tensor], tuple[Tensor, int]]
    decode: Callable[[Tensor, int, Tensor], None]


def find_codec(name: str) -> Codec:
    """The codec called `name`; raises UserError with the names there are."""
    try:
        return CODECS[name]
    except KeyError:
        raise UserError(f"codec: unknown name {name!r}; known: {', '.join(CODECS)}") from None


def _count_float16(num_frames: int, width: int) -> int:
    return 2 * num_frames * width


def _encode_float16(x: Tensor) -> tuple[Tensor, int]:
    saturated = int((x.abs() > _FLOAT16_MAX).sum())
    halves = x.clamp(-_FLOAT16_MAX, _FLOAT16_MAX).to(torch.float16)
    return halves.flatten().view(torch.uint8), saturated


def _decode_float16(value: Tensor, start_frame: int, out: Tensor) -> None:
    num_frames, width = out.shape
    begin = 2 * start_frame * width
    out.copy_(value[begin : begin + 2 * num_frames * width].view(torch.float16).view(num_frames, width))


def _count_int8(num_frames: int, width: int) -> int:
    return (8 + num_frames) * width


def _encode_int8(x: Tensor) -> tuple[Tensor, int]:
    # The range of this very utterance: nothing saturates, and no rank has to agree with another on scales.
    # float64, because the range of two large float32 may not be one.
    exact = x.double()
    low, high = exact.amin(0), exact.amax(0)
    scale = ((high - low) / (2 * _INT8_MAX)).float()
    offset = ((high + low) / 2).float()
    # A constant channel has scale 0: its codes are 0 and its offset is the constant.
    step = torch.where(scale > 0, scale, 1.0).double()
    codes = exact.sub_(offset).div_(step).round_().clamp_(-_INT8_MAX, _INT8_MAX).to(torch.int8)
    return torch.cat([part.flatten().view(torch.uint8) for part in (scale, offset, codes)]), 0


def _decode_int8(value: Tensor, start_frame: int, out: Tensor) -> None:
    num_frames, width = out.shape
    # The copy aligns the floats, which start at any byte of the column's buffer.
    scale, offset = value[: 8 * width].clone().view(torch.float32).view(2, width)
    begin = (8 + start_frame) * width
    codes = value[begin : begin + num_frames * width].view(torch.int8).view(num_frames, width)
    torch.addcmul(offset, codes, scale, out=out)


CODECS: dict[str, Codec] = {
    "float16": Codec(
        "num_frames x width float16, little-endian",
        _count_float16,
        _encode_float16,
        _decode_float16,
    ),
    "int8": Codec(
        "width float32 scale, width float32 offset, num_frames x width int8 code, little-endian; "
        "value = code * scale + offset",
        _count_int8,
        _encode_int8,
        _decode_int8,
    ),
}
