"""The int8 form of a student for export. ONNX Runtime can run it, torch cannot.

Weights have one scale per output channel. Activations have one scale per frame, computed from the frame itself: loud
and quiet speech alternate, and the front end keeps that difference up to the first layer norm. One scale for a whole
tensor, as in ONNX Runtime's own static and dynamic quantisation, leaves quiet frames a few steps
(`experiments/LOG.md`). No calibration is needed. Attention, norms, the first and the positional convolution stay in
float32.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fithubert.frames import count_conv_frames
from fithubert.models.frontend import ConvFrontend, ConvLayer
from fithubert.models.student import Student

#: Activations are in uint8 around `_ZERO`, 127 steps either way; weights in int8 with 63 steps, which are 7 bits.
#: Processors without VNNI (AVX2, AVX-512) add two products of uint8 and int8 in 16 bits, and the sum saturates above
#: 32,767: 2 * 255 * 127 does, 2 * 255 * 63 does not. With 7 bits every processor gives the same result.
#: Source: ONNX Runtime's `reduce_range`.
_STEPS, _ZERO = 127, 128
_WEIGHT_STEPS = 63
#: The least scale, so that a frame of zeros does not divide by zero.
_SMALLEST = 1e-9


def quantise(student: Student) -> Student:
    """A copy of `student` with int8 weights, for export to ONNX."""
    student = copy.deepcopy(student)
    for module in list(student.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, Int8Linear(child.weight, child.bias))
    student.frontend = Int8Frontend(student.frontend)  # type: ignore[assignment]
    return student


class Int8Linear(nn.Module):
    """A linear map with int8 `weight` (feature out, feature in); frames are quantised one by one."""

    weight: Tensor
    scale: Tensor
    bias: Tensor | None
    one: Tensor
    zero: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        scale = weight.detach().abs().amax(1).clamp(min=_SMALLEST) / _WEIGHT_STEPS
        # ONNX's MatMul takes (feature in, feature out).
        self.register_buffer("weight", torch.round(weight.detach() / scale[:, None]).to(torch.int8).T.contiguous())
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if bias is None else bias.detach())
        self.register_buffer("one", torch.ones(()))
        self.register_buffer("zero", torch.tensor(_ZERO, dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, feature out) from `x` (batch, time, feature)."""
        steps, size = self.quantise(x)
        y = self.multiply(steps, self.weight) * size
        return y if self.bias is None else y + self.bias

    def quantise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`x` in uint8 steps and the size of a step in each frame, (batch, time, 1)."""
        size = torch.maximum(x.amax(-1, keepdim=True), -x.amin(-1, keepdim=True)).clamp(min=_SMALLEST) / _STEPS
        inputs = (x / size, self.one, self.zero)
        return torch.onnx.ops.symbolic("QuantizeLinear", inputs, dtype=torch.uint8, shape=x.shape), size

    def multiply(self, steps: Tensor, weight: Tensor) -> Tensor:
        """The product with rows of the weight in float32, in units of the frames' steps."""
        shape = (*steps.shape[:-1], weight.shape[1])
        inputs = (steps, weight, self.one, self.scale, self.zero)
        # ONNX Runtime's own operator: one kernel instead of two with the standard operators.
        name = "com.microsoft::MatMulIntegerToFloat"
        return torch.onnx.ops.symbolic(name, inputs, dtype=torch.float32, shape=shape, version=1)


class Int8Conv(Int8Linear):
    """A convolution without padding on (batch, time, feature): one matrix product per kernel position."""

    def __init__(self, layer: ConvLayer) -> None:
        super().__init__(layer.conv.weight.transpose(1, 2).flatten(1), layer.conv.bias)
        self.kernel, self.stride = layer.kernel, layer.stride
        self.norm = layer.norm

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output with norm and GELU, (batch, time, channel)."""
        steps, size = self.quantise(x)
        width, count = x.shape[2], (x.shape[1] - self.kernel) // self.stride + 1
        # Frames are selected by index, because torch.export needs long to prove the length of a slice.
        starts = torch.arange(count, device=x.device) * self.stride
        y: Tensor | None = None
        for place in range(self.kernel):
            weight = self.weight[place * width : (place + 1) * width]
            part = self.multiply(steps.index_select(1, starts + place), weight)
            part = part * size.index_select(1, starts + place)
            y = part if y is None else y + part
        assert y is not None
        if self.bias is not None:
            y = y + self.bias
        return F.gelu(y if self.norm is None else self.norm(y))


class Int8Frontend(nn.Module):
    """`frontend` with all convolutions in int8 except the first, which reads single samples."""

    def __init__(self, frontend: ConvFrontend) -> None:
        super().__init__()
        self.convolutions, self.width = frontend.convolutions, frontend.width
        self.first, *rest = frontend.layers
        self.rest = nn.ModuleList(Int8Conv(layer) for layer in rest)  # type: ignore[arg-type]

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """As `ConvFrontend.forward`."""
        x, _ = self.first(waveforms[:, None, :], lengths)
        x = x.transpose(1, 2)
        for layer in self.rest:
            x = layer(x)
        return x, count_conv_frames(lengths, self.convolutions)
