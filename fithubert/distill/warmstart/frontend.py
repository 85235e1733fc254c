"""The front end of a student cut from its teacher's: filters chosen and fitted."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fithubert.distill.warmstart.regression import choose_channels, covariance, fit_linear
from fithubert.errors import UserError
from fithubert.frames import SAMPLE_RATE_HZ, receptive_field
from fithubert.models.frontend import ConvFrontend, ConvLayer, MelFrontend, mel_points

#: Windows that one convolution is fitted on; taken evenly if there are more.
_MOST_WINDOWS = 100_000


def cut_frontend(
    student: ConvFrontend | MelFrontend,
    teacher: ConvFrontend,
    waveforms: Sequence[Tensor],
    on_layer: Callable[[], object] = lambda: None,
) -> tuple[list[Tensor], list[Tensor]]:
    """Fit the student's convolutions layer by layer; the outputs of both front ends, (time, feature) per waveform.

    A layer is fitted to the responses (before norm and GELU) of the teacher's filters that predict all filters best.
    A first layer that stands for several of the teacher's gets waves of every frequency, for the next one to add up.
    Filter banks have nothing to fit. Raises UserError if no layer of the teacher has the frames of a student's layer.
    """
    if isinstance(student, MelFrontend):
        ours = [student(waveform[None], torch.tensor([len(waveform)]))[0][0] for waveform in waveforms]
        theirs = [teacher.convolve(waveform[None], None)[0] for waveform in waveforms]
        on_layer()
        return ours, theirs
    counterparts = match_layers(student, teacher)
    ours, theirs = ([waveform[None, None] for waveform in waveforms] for _ in range(2))
    for layer, numbers in zip(student.layers, counterparts, strict=True):
        assert isinstance(layer, ConvLayer)
        for number in numbers[:-1]:
            _advance(theirs, teacher.layers[number])
        if not numbers:
            _carry_through(layer)
        else:
            source, following = teacher.layers[numbers[-1]], teacher.layers[numbers[-1] + 1 :][:1]
            assert isinstance(source, ConvLayer)
            reads_waveform = layer.conv.in_channels == 1
            responses = [] if reads_waveform else _draw_responses(source, theirs)
            _advance(theirs, source)
            if reads_waveform and len(numbers) > 1:
                _set_waves(layer)
            else:
                kept = _choose_filters(theirs, following, layer.conv.out_channels)
                _fit_filters(layer, source, kept, ours, responses)
        _advance(ours, layer)
        on_layer()
    return [x[0].T for x in ours], [x[0].T for x in theirs]


def _advance(states: list[Tensor], layer: nn.Module) -> None:
    """Replace each of `states` by the output of `layer`: the first layers' states of minutes are gigabytes."""
    for index, x in enumerate(states):
        states[index] = layer(x, None)[0]


def _draw_responses(source: ConvLayer, inputs: Sequence[Tensor]) -> list[Tensor]:
    """(1, filter, window) responses of `source` before norm and GELU, in those windows that a fit uses."""
    step = _window_step(source, inputs)
    return [source.conv(x)[:, :, ::step].contiguous() for x in inputs]


def _window_step(layer: ConvLayer, inputs: Sequence[Tensor]) -> int:
    """A fit uses every so-manieth window of `layer`."""
    windows = sum((x.shape[2] - layer.kernel) // layer.stride + 1 for x in inputs)
    return max(1, windows // _MOST_WINDOWS)


def match_layers(student: ConvFrontend, teacher: ConvFrontend) -> list[range]:
    """For each convolution of the student, the teacher's that it stands for, in order.

    They end with the one whose frames are as long and as far apart. None for pointwise convolutions, which only the
    student has (FitHuBERT's change of width).
    """
    ends = {receptive_field(teacher.convolutions[:count]): count for count in range(1, len(teacher.convolutions) + 1)}
    matched, done = [], 0
    for index, layer in enumerate(student.convolutions, 1):
        end = done if layer == (1, 1) else ends.get(receptive_field(student.convolutions[:index]), done)
        if end == done and layer != (1, 1):
            break
        matched.append(range(done, end))
        done = end
    if len(matched) < len(student.convolutions) or done < len(teacher.convolutions):
        raise UserError(
            f"init cut_teacher: convolutions (kernel, stride) {list(student.convolutions)} cannot be cut from the "
            f"teacher's {list(teacher.convolutions)}; use those, with (1, 1) between, any neighbours merged into one "
            "of their receptive field and stride, or init: random"
        )
    return matched


def _choose_filters(outputs: Sequence[Tensor], following: nn.ModuleList, kept: int) -> Tensor:
    """Filters to keep, by their outputs and by the weight that the next layer gives them."""
    moments = covariance([x[0].T[:: max(1, x.shape[2] // 1000)] for x in outputs])
    for layer in following:
        used = layer.conv.weight.double().norm(dim=(0, 2))  # type: ignore[union-attr, operator]
        moments = moments * used[:, None] * used
    return choose_channels(moments, kept)


def _fit_filters(
    layer: ConvLayer, source: ConvLayer, kept: Tensor, inputs: Sequence[Tensor], responses: Sequence[Tensor]
) -> None:
    count, conv = len(kept), layer.conv
    if inputs[0].shape[1] == 1:  # Both read the waveform itself.
        conv.weight[:count] = source.conv.weight[kept]
        if conv.bias is not None and source.conv.bias is not None:
            conv.bias[:count] = source.conv.bias[kept]
    else:
        step = _window_step(layer, inputs)
        windows = [x[0].unfold(1, layer.kernel, layer.stride)[:, ::step].transpose(0, 1).flatten(1) for x in inputs]
        wanted = [y[0, kept].T for y in responses]
        fitted = fit_linear(windows, wanted, intercept=conv.bias is not None)
        conv.weight[:count] = fitted.weight.view(count, *conv.weight.shape[1:])
        if conv.bias is not None:
            conv.bias[:count] = fitted.bias
    if layer.norm is not None and source.norm is not None:
        layer.norm.weight[:count] = source.norm.weight[kept]  # type: ignore[index, operator]
        layer.norm.bias[:count] = source.norm.bias[kept]  # type: ignore[index, operator]


def _set_waves(layer: ConvLayer) -> None:
    """Windowed waves of frequencies evenly spaced on the mel scale, each in four phases, a quarter of a period apart.

    The sum of all four behind their GELUs is near the amplitude, as a later convolution may want it.
    """
    channels, kernel = layer.conv.out_channels // 4, layer.kernel
    samples = torch.arange(kernel, dtype=torch.float64)
    window = torch.sin((samples + 0.5) * (math.pi / kernel)).square()
    points = mel_points(SAMPLE_RATE_HZ / kernel / 2, SAMPLE_RATE_HZ / 2, channels + 1)[:channels]
    angles = (700 * torch.expm1(points / 1127))[:, None] * samples * (2 * math.pi / SAMPLE_RATE_HZ)
    waves = torch.cat([torch.cos(angles + phase * (math.pi / 2)) * window for phase in range(4)])
    layer.conv.weight[: len(waves), 0] = (waves / waves.norm(dim=1, keepdim=True)).to(layer.conv.weight)
    if layer.conv.bias is not None:
        layer.conv.bias.zero_()


def _carry_through(layer: ConvLayer) -> None:
    """Pass on the inputs and, if there is room, their negatives, in the order of the channels.

    gelu(x) - gelu(-x) = x: a layer above that reads both can restore the input itself.
    """
    outputs, inputs = layer.conv.weight.shape[:2]
    passed = torch.cat([torch.eye(inputs), -torch.eye(inputs)])[:outputs, :, None]
    layer.conv.weight[: len(passed)] = passed.to(layer.conv.weight)
    if layer.conv.bias is not None:
        layer.conv.bias.zero_()
