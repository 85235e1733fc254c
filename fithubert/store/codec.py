"""The codecs of hidden states: float32, float16, int8, and pca_int8 on principal components."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fithubert.errors import UserError
from fithubert.files import digest

_INT8_MAX = 127
#: Closer to the largest float32, offset and step would be infinite.
_INT8_LARGEST = 3e38
#: The largest number whose rotation stays in the range of float32, for any number of features.
_ROTATABLE_MAX = 1e30


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


@dataclass(frozen=True)
class Codec:
    """How the hidden states of one layer are stored. The encoded states of one utterance are a value.

    `count_bytes(num_frames, width)`: its size. `encode(x)`: the value of `x` (time, width) float32 and finite, as
    (bytes,) uint8 on the device of `x`, and the number of elements that were clipped. `decode(value, start_frame,
    out)`: fills `out` (time, width) float32 with the frames from `start_frame` on, and reads no other frame of the
    value. `stored_share`: the compressed size of a value over its size, approximately.
    """

    count_bytes: Callable[[int, int], int]
    encode: Callable[[Tensor], tuple[Tensor, int]]
    decode: Callable[[Tensor, int, Tensor], None]
    stored_share: float = 1.0


@dataclass(frozen=True)
class CodecKind:
    """An entry of `CODECS`, by the name that `codec` has in the parameters.

    `recipe`: the layout of a value, for the metadata of every file. `by_hand`: Python that gives the `value` (T, W) of
    `data` (bytes) with numpy, from T, W and the layer's row of the `basis`. `page_compression`: Parquet's compression
    of the values. `fitted`: whether there is a basis. `for_layer`: the Codec of a layer, from its basis if fitted.
    """

    recipe: str
    by_hand: str
    page_compression: str
    fitted: bool
    for_layer: Callable[[LayerBasis | None], Codec]


def find_codec(name: str) -> CodecKind:
    """The codec called `name`; raises UserError with the valid names for any other."""
    if name not in CODECS:
        raise UserError(f"codec: unknown name {name!r}; known: {', '.join(CODECS)}")
    return CODECS[name]


def layer_codecs(name: str, layers: tuple[int, ...], basis: Basis | None) -> tuple[Codec, ...]:
    """The Codec of each of `layers`; `basis` is the store's, None if the codec is not fitted."""
    kind = find_codec(name)
    return tuple(kind.for_layer(None if basis is None else basis.layers[layer]) for layer in layers)


def to_bytes(tensor: Tensor) -> bytes:
    """The numbers of `tensor` (on the CPU) as little-endian float32."""
    return tensor.numpy().astype("<f4").tobytes()


def _join(*parts: Tensor) -> Tensor:
    return torch.cat([part.flatten().view(torch.uint8) for part in parts])


def _float_codec(dtype: torch.dtype) -> Codec:
    """The numbers themselves; those out of the range of `dtype` are clipped."""
    largest = torch.finfo(dtype).max

    def encode(x: Tensor) -> tuple[Tensor, int]:
        clipped = int((x.abs() > largest).sum())
        return x.clamp(-largest, largest).to(dtype).flatten().view(torch.uint8), clipped

    def decode(value: Tensor, start_frame: int, out: Tensor) -> None:
        begin = dtype.itemsize * start_frame * out.shape[1]
        # The copy aligns the numbers, which may start at any byte of the column's buffer.
        part = value[begin : begin + dtype.itemsize * out.numel()].clone()
        out.copy_(part.view(dtype).view(out.shape))

    return Codec(lambda num_frames, width: dtype.itemsize * num_frames * width, encode, decode)


def _encode_int8(x: Tensor) -> tuple[Tensor, int]:
    # The range of this utterance alone: nothing saturates, and workers need no coordination.
    # float64, because the difference of two large float32 may be out of its range.
    saturated = int((x.abs() > _INT8_LARGEST).sum())
    exact = x.clamp(-_INT8_LARGEST, _INT8_LARGEST).double()
    low, high = exact.amin(0), exact.amax(0)
    scale, offset = ((high - low) / (2 * _INT8_MAX)).float(), ((high + low) / 2).float()
    # A constant channel has scale 0: its codes are 0 and its offset is the constant.
    step = torch.where(scale > 0, scale, 1.0).double()
    codes = exact.sub_(offset).div_(step).round_().clamp_(-_INT8_MAX, _INT8_MAX).to(torch.int8)
    return _join(scale, offset, codes), saturated


def _decode_int8(value: Tensor, start_frame: int, out: Tensor) -> None:
    num_frames, width = out.shape
    # The copy aligns the floats, which may start at any byte of the column's buffer.
    scale, offset = value[: 8 * width].clone().view(torch.float32).view(2, width)
    begin = (8 + start_frame) * width
    codes = value[begin : begin + num_frames * width].view(torch.int8).view(num_frames, width)
    torch.addcmul(offset, codes, scale, out=out)


def pca_codec(basis: LayerBasis | None) -> Codec:
    """The codec on the axes of `basis`."""
    if basis is None:
        raise ValueError("pca_int8 needs a basis")
    components = basis.components

    def encode(x: Tensor) -> tuple[Tensor, int]:
        saturated = int((x.abs() > _ROTATABLE_MAX).sum())
        axes, mean = basis.axes.to(x.device), basis.mean.to(x.device)
        rotated = axes @ (x.clamp(-_ROTATABLE_MAX, _ROTATABLE_MAX) - mean).T
        scale = component_scales(rotated.abs().amax(1), basis.step)
        return _join(scale, quantise(rotated, scale[:, None]).to(torch.int8)), saturated

    def decode(value: Tensor, start_frame: int, out: Tensor) -> None:
        scale = value[: 4 * components].clone().view(torch.float32)
        codes = value[4 * components :].view(torch.int8).view(components, -1)[:, start_frame : start_frame + len(out)]
        axes, mean = basis.axes.to(out.device), basis.mean.to(out.device)
        torch.addmm(mean, (codes * scale[:, None]).T, axes, out=out)

    return Codec(lambda num_frames, _: (4 + num_frames) * components, encode, decode, basis.stored_share)


def component_scales(peaks: Tensor, step: float) -> Tensor:
    """The quantiser steps of components with the largest magnitudes `peaks`: `step`, or more if 8 bits need it."""
    return (peaks / _INT8_MAX).clamp(min=step)


def quantise(rotated: Tensor, scale: Tensor) -> Tensor:
    """The codes of `rotated` in steps of `scale`, as floats; 0 if the scale is 0."""
    return (rotated / torch.where(scale > 0, scale, 1.0)).round_().clamp_(-_INT8_MAX, _INT8_MAX)


_FLOAT32, _FLOAT16 = _float_codec(torch.float32), _float_codec(torch.float16)
_INT8 = Codec(lambda num_frames, width: (8 + num_frames) * width, _encode_int8, _decode_int8)

CODECS: dict[str, CodecKind] = {
    "float16": CodecKind(
        "num_frames x width float16, little-endian",
        'value = numpy.frombuffer(data, "<f2").reshape(T, W)',
        "none",
        False,
        lambda _: _FLOAT16,
    ),
    "int8": CodecKind(
        "width float32 scale, width float32 offset, num_frames x width int8 code, little-endian; "
        "value = code * scale + offset",
        'head = numpy.frombuffer(data, "<f4", count=2 * W).reshape(2, W)\n'
        'value = numpy.frombuffer(data, "i1", offset=8 * W).reshape(T, W) * head[0] + head[1]',
        "none",
        False,
        lambda _: _INT8,
    ),
    "pca_int8": CodecKind(
        "components float32 scale, components x num_frames int8 code, little-endian; value = (code * scale) transposed "
        "@ axes + mean, with components, axes (components x width float32) and mean (width float32) from the layer's "
        "row of _basis-*.parquet",
        'K = basis["components"]\n'
        'code = numpy.frombuffer(data, "i1", offset=4 * K).reshape(K, T) * numpy.frombuffer(data, "<f4", K)[:, None]\n'
        'axes = numpy.frombuffer(basis["axes"], "<f4").reshape(K, W)\n'
        'value = code.T @ axes + numpy.frombuffer(basis["mean"], "<f4")',
        # Components of little variance have small codes, which compress well.
        "zstd",
        True,
        pca_codec,
    ),
    "float32": CodecKind(
        "num_frames x width float32, little-endian",
        'value = numpy.frombuffer(data, "<f4").reshape(T, W)',
        "none",
        False,
        lambda _: _FLOAT32,
    ),
}


@dataclass(frozen=True)
class EncodedLayer:
    """One layer of one utterance as bytes, and its coding error.

    `error` and `spread`: (feature,) float64 sums over time of the squared coding error and of the squared distance from
    the channel's mean in this utterance. `saturated`: the number of elements that were clipped.
    """

    value: bytes
    error: Tensor
    spread: Tensor
    saturated: int


def encode_layer(hidden_states: Tensor, codec: Codec) -> EncodedLayer:
    """`hidden_states` (time, feature), finite, as an EncodedLayer; computed on their own device."""
    # Only CPU and CUDA have float64.
    states = hidden_states if hidden_states.device.type in ("cpu", "cuda") else hidden_states.cpu()
    states = states.float().contiguous()
    value, saturated = codec.encode(states)
    decoded = torch.empty_like(states)
    codec.decode(value, 0, decoded)
    # In float64, because the square of a large float32 number is out of the range of float32.
    error = states.double().sub_(decoded).square_().sum(0)
    exact = states.double()
    spread = exact.sub_(exact.mean(0)).square_().sum(0)
    return EncodedLayer(value.cpu().numpy().tobytes(), error.cpu(), spread.cpu(), saturated)
