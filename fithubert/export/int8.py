"""The int8 form of a student for export. ONNX Runtime runs it in int8; torch computes the same numbers in float32.

Weights have one scale per output channel. Activations have one scale per frame, computed from the frame itself: loud
and quiet speech alternate, and the front end keeps that difference up to the first layer norm. One scale for a whole
tensor, as in ONNX Runtime's own static and dynamic quantisation, leaves quiet frames a few steps
(`experiments/LOG.md`). No calibration is needed. Attention, norms, filter banks, the first and the positional
convolution stay in float32, and so do blocks without which the error of a state would be too large.
"""

import copy
from collections.abc import Callable, Collection, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fithubert.frames import count_conv_frames, pad_waveforms
from fithubert.models.frontend import ConvFrontend, ConvLayer
from fithubert.models.speech_model import SpeechOutput
from fithubert.models.student import Student

#: Activations are in uint8 around `_ZERO`, 127 steps either way; weights in int8 with 63 steps, which are 7 bits.
#: Processors without VNNI (AVX2, AVX-512) add two products of uint8 and int8 in 16 bits, and the sum saturates above
#: 32,767: 2 * 255 * 127 does, 2 * 255 * 63 does not. With 7 bits every processor gives the same result.
#: Source: ONNX Runtime's `reduce_range`.
_STEPS, _ZERO = 127, 128
_WEIGHT_STEPS = 63
#: The least scale, so that a frame of zeros does not divide by zero.
_SMALLEST = 1e-9


#: The call of a `SpeechModel`.
Model = Callable[[Tensor, Tensor], SpeechOutput]
#: The largest relative error of a state that an int8 graph may have.
MAX_ERROR = 0.1


def quantise(student: Student, kept: Collection[str] = ()) -> Student:
    """A copy of `student` with int8 weights, except in the blocks `kept` (see `list_blocks`)."""
    student = copy.deepcopy(student)
    for block in list_blocks(student):
        if block in kept or block.startswith("frontend."):
            continue
        inside = student.get_submodule(block)
        if isinstance(inside, nn.Linear):
            setattr(student, block, Int8Linear(inside.weight, inside.bias))
        for module in list(inside.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(module, name, Int8Linear(child.weight, child.bias))
    if isinstance(student.frontend, ConvFrontend):
        student.frontend = Int8Frontend(student.frontend, kept)  # type: ignore[assignment]
    return student


def list_blocks(student: Student) -> tuple[str, ...]:
    """The parts that are in int8 or in float32 as a whole: convolutions, projection, reduction, layers, heads."""
    convolutions = len(student.frontend.layers) if isinstance(student.frontend, ConvFrontend) else 0
    names = [f"frontend.layers.{index}" for index in range(1, convolutions)]
    names += [name for name in ("projection", "time_reduction") if getattr(student, name) is not None]
    return (*names, *(f"layers.{index}" for index in range(len(student.layers))), "heads")


def quantise_within(student: Student, speech: Sequence[Tensor], bound: float = MAX_ERROR) -> tuple[Student, list[str]]:
    """`quantise` with as few blocks in float32 as keep the error of every state on `speech` within `bound`.

    Also returns the names of these blocks, the most sensitive first: the error of a block is that of a student with
    nothing else in int8.
    """

    def largest_error(kept: Collection[str]) -> float:
        return max(relative_errors(as_model(student), as_model(quantise(student, kept)), speech))

    kept: list[str] = []
    if largest_error(kept) > bound:
        blocks = list_blocks(student)
        alone = {block: largest_error([other for other in blocks if other != block]) for block in blocks}
        for block in sorted(blocks, key=lambda name: -alone[name]):
            kept.append(block)
            if largest_error(kept) <= bound:
                break
    return quantise(student, kept), kept


@torch.inference_mode()
def relative_errors(wanted: Model, given: Model, speech: Sequence[Tensor]) -> list[float]:
    """Of every state, the norm of the difference over that of the `wanted` one, over all frames of `speech`.

    `speech`: waveforms (samples,), which run one by one.
    """
    sums: dict[int, tuple[float, float]] = {}
    for waveform in speech:
        alone = pad_waveforms([waveform])
        states = zip(wanted(*alone).hidden_states, given(*alone).hidden_states, strict=True)
        for index, (ours, theirs) in enumerate(states):
            difference, norm = sums.get(index, (0.0, 0.0))
            sums[index] = difference + float((theirs - ours).square().sum()), norm + float(ours.square().sum())
    return [(difference / norm) ** 0.5 for difference, norm in sums.values()]


def as_model(student: Student) -> Model:
    """The read-out of a student as it is; `ReadOut` would copy it."""
    return lambda waveforms, lengths: SpeechOutput(*student.read(waveforms, lengths))


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
        if not torch.compiler.is_compiling():
            return torch.round(x / size) + _ZERO, size
        inputs = (x / size, self.one, self.zero)
        return torch.onnx.ops.symbolic("QuantizeLinear", inputs, dtype=torch.uint8, shape=x.shape), size

    def multiply(self, steps: Tensor, weight: Tensor) -> Tensor:
        """The product with rows of the weight in float32, in units of the frames' steps."""
        if not torch.compiler.is_compiling():
            return (steps - _ZERO) @ weight.float() * self.scale
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
    """`frontend` in int8, but for the first convolution, which reads single samples, and the blocks `kept`."""

    def __init__(self, frontend: ConvFrontend, kept: Collection[str] = ()) -> None:
        super().__init__()
        self.convolutions, self.width = frontend.convolutions, frontend.width
        self.layers = nn.ModuleList(
            layer if index == 0 or f"frontend.layers.{index}" in kept else Int8Conv(layer)  # type: ignore[arg-type]
            for index, layer in enumerate(frontend.layers)
        )

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """As `ConvFrontend.forward`."""
        first, *rest = self.layers
        x = first(waveforms[:, None, :], lengths)[0].transpose(1, 2)
        for layer in rest:  # Only the first has a norm over time, which needs the lengths.
            x = layer(x.transpose(1, 2), None)[0].transpose(1, 2) if isinstance(layer, ConvLayer) else layer(x)
        return x, count_conv_frames(lengths, self.convolutions)
