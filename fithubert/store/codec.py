"""The codecs of hidden states: float32, float16, int8, pca_int8."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from fithubert.errors import UserError
from fithubert.files import digest


@dataclass(frozen=True, eq=False)
class LayerBasis:
    """One layer's origin `mean` (feature,) and leading axes `axes` (component, feature), orthonormal, float32.

    `step`: the finest quantiser step of any component. `stored_share`: the compressed size of a value over its size,
    measured on the sample that the axes were fitted on.
    """

    mean: Tensor
    axes: Tensor
    step: float
    stored_share: float

    @property
    def components(self) -> int:
        """The number of axes."""
        return len(self.axes)


@dataclass(frozen=True, eq=False)
class Basis:
    """The LayerBasis of every layer of a store."""

    layers: dict[int, LayerBasis]

    @cached_property
    def digest(self) -> str:
        """A hex digest of everything that decoding depends on."""
        parts: list[bytes | str] = []
        for layer, basis in sorted(self.layers.items()):
            parts += [str(layer), str(basis.step), to_bytes(basis.mean), to_bytes(basis.axes)]
        return digest(*parts)


def to_bytes(tensor: Tensor) -> bytes:
    """The numbers of `tensor` (on the CPU) as little-endian float32."""
    return tensor.numpy().astype("<f4").tobytes()


_FLOAT16_MAX = 65504.0
_INT8_MAX = 127
#: Closer to the largest float32, offset and step would round to infinity.
_INT8_LARGEST = 3e38
#: The largest number whose rotation stays in the range of float32, for any number of features.
_ROTATABLE_MAX = 1e30


@dataclass(frozen=True)
class Codec:
    """How the hidden states of one layer are stored. The encoded states of one utterance are a value.

    `count_bytes(num_frames, width)`: the size of a value.
    `encode(x)`: the value of `x` (time, width) float32 and finite, as (bytes,) uint8 on the device of `x`, and the
    number of elements that were clipped.
    `decode(value, start_frame, out)`: fills `out` (time, width) float32 with the frames from `start_frame` on, and
    reads no other frame of `value` (bytes,) uint8.
    `stored_share`: the compressed size of a value over its size, approximately.
    """

    count_bytes: Callable[[int, int], int]
    encode: Callable[[Tensor], tuple[Tensor, int]]
    decode: Callable[[Tensor, int, Tensor], None]
    stored_share: float = 1.0


@dataclass(frozen=True)
class CodecKind:
    """An entry of `CODECS`, by the name that `codec` has in the parameters.

    `recipe`: how to decode by hand, in one line; the metadata of every file has it. `page_compression`: Parquet's
    compression of the values. `fitted`: whether the store needs a basis. `for_layer`: the Codec of a layer, from the
    layer's basis if the kind is fitted.
    """

    recipe: str
    page_compression: str
    fitted: bool
    for_layer: Callable[[LayerBasis | None], Codec]


def find_codec(name: str) -> CodecKind:
    """The codec called `name`; raises UserError with the valid names for any other."""
    try:
        return CODECS[name]
    except KeyError:
        raise UserError(f"codec: unknown name {name!r}; known: {', '.join(CODECS)}") from None


def layer_codecs(name: str, layers: tuple[int, ...], basis: Basis | None) -> tuple[Codec, ...]:
    """The Codec of each of `layers`; `basis` is the store's, None if the codec is not fitted."""
    kind = find_codec(name)
    return tuple(kind.for_layer(None if basis is None else basis.layers[layer]) for layer in layers)


def _count_float32(num_frames: int, width: int) -> int:
    return 4 * num_frames * width


def _encode_float32(x: Tensor) -> tuple[Tensor, int]:
    return x.flatten().view(torch.uint8), 0


def _decode_float32(value: Tensor, start_frame: int, out: Tensor) -> None:
    begin, size = 4 * start_frame * out.shape[1], 4 * out.numel()
    # The copy aligns the floats, which may start at any byte of the column's buffer.
    out.copy_(value[begin : begin + size].clone().view(torch.float32).view(out.shape))


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
    # The range of this utterance alone: nothing saturates, and workers need no coordination.
    # float64, because the difference of two large float32 may be out of its range.
    saturated = int((x.abs() > _INT8_LARGEST).sum())
    exact = x.clamp(-_INT8_LARGEST, _INT8_LARGEST).double()
    low, high = exact.amin(0), exact.amax(0)
    scale = ((high - low) / (2 * _INT8_MAX)).float()
    offset = ((high + low) / 2).float()
    # A constant channel has scale 0: its codes are 0 and its offset is the constant.
    step = torch.where(scale > 0, scale, 1.0).double()
    codes = exact.sub_(offset).div_(step).round_().clamp_(-_INT8_MAX, _INT8_MAX).to(torch.int8)
    return torch.cat([part.flatten().view(torch.uint8) for part in (scale, offset, codes)]), saturated


def _decode_int8(value: Tensor, start_frame: int, out: Tensor) -> None:
    num_frames, width = out.shape
    # The copy aligns the floats, which may start at any byte of the column's buffer.
    scale, offset = value[: 8 * width].clone().view(torch.float32).view(2, width)
    begin = (8 + start_frame) * width
    codes = value[begin : begin + num_frames * width].view(torch.int8).view(num_frames, width)
    torch.addcmul(offset, codes, scale, out=out)


def _count_pca(basis: LayerBasis, num_frames: int, width: int) -> int:
    return (4 + num_frames) * basis.components


def _encode_pca(basis: LayerBasis, x: Tensor) -> tuple[Tensor, int]:
    saturated = int((x.abs() > _ROTATABLE_MAX).sum())
    axes, mean = basis.axes.to(x.device), basis.mean.to(x.device)
    rotated = axes @ (x.clamp(-_ROTATABLE_MAX, _ROTATABLE_MAX) - mean).T
    scale = component_scales(rotated.abs().amax(1), basis.step)
    codes = quantise(rotated, scale[:, None]).to(torch.int8)
    return torch.cat([part.flatten().view(torch.uint8) for part in (scale, codes)]), saturated


def _decode_pca(basis: LayerBasis, value: Tensor, start_frame: int, out: Tensor) -> None:
    components = basis.components
    scale = value[: 4 * components].clone().view(torch.float32)
    codes = value[4 * components :].view(torch.int8).view(components, -1)[:, start_frame : start_frame + len(out)]
    axes, mean = basis.axes.to(out.device), basis.mean.to(out.device)
    torch.addmm(mean, (codes * scale[:, None]).T, axes, out=out)


def component_scales(peaks: Tensor, step: float) -> Tensor:
    """The quantiser steps of components with the largest magnitudes `peaks`: `step`, or more if 8 bits need it."""
    return (peaks / _INT8_MAX).clamp(min=step)


def quantise(rotated: Tensor, scale: Tensor) -> Tensor:
    """The codes of `rotated` in steps of `scale`, as floats; 0 if the scale is 0."""
    return (rotated / torch.where(scale > 0, scale, 1.0)).round_().clamp_(-_INT8_MAX, _INT8_MAX)


def _pca_codec(basis: LayerBasis | None) -> Codec:
    if basis is None:
        raise ValueError("pca_int8 needs a basis")
    return Codec(
        partial(_count_pca, basis), partial(_encode_pca, basis), partial(_decode_pca, basis), basis.stored_share
    )


_FLOAT32 = Codec(_count_float32, _encode_float32, _decode_float32)
_FLOAT16 = Codec(_count_float16, _encode_float16, _decode_float16)
_INT8 = Codec(_count_int8, _encode_int8, _decode_int8)

CODECS: dict[str, CodecKind] = {
    "float16": CodecKind("num_frames x width float16, little-endian", "none", False, lambda _: _FLOAT16),
    "int8": CodecKind(
        "width float32 scale, width float32 offset, num_frames x width int8 code, little-endian; "
        "value = code * scale + offset",
        "none",
        False,
        lambda _: _INT8,
    ),
    "pca_int8": CodecKind(
        "components float32 scale, components x num_frames int8 code, little-endian; value = (code * scale) transposed "
        "@ axes + mean, with components, axes (components x width float32) and mean (width float32) from the layer's "
        "row of _basis-*.parquet",
        # Components of little variance have small codes, which compress well.
        "zstd",
        True,
        _pca_codec,
    ),
    "float32": CodecKind("num_frames x width float32, little-endian", "none", False, lambda _: _FLOAT32),
}
