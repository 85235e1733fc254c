"""A student's front end cut from its teacher's: filters chosen, then refitted to what is left of their inputs."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fithubert.distill.warmstart.regression import choose_channels, covariance, fit_linear
from fithubert.errors import UserError
from fithubert.models.frontend import ConvFrontend, ConvLayer

#: Windows that one convolution is fitted on; taken evenly where there are more.
_MOST_WINDOWS = 100_000


def cut_frontend(
    student: ConvFrontend, teacher: ConvFrontend, waveforms: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Fit the student's convolutions layer by layer; what both front ends then say, (time, feature) per waveform.

    A layer is fitted to the responses (before norm and GELU) of those of the teacher's filters that tell most about
    all of them. Raises UserError where the two do not stride alike.
    """
    counterparts = match_layers(student, teacher)
    ours = theirs = [waveform[None, None] for waveform in waveforms]
    for layer, number in zip(student.layers, counterparts, strict=True):
        assert isinstance(layer, ConvLayer)
        if number is None:
            _carry_through(layer)
        else:
            source, following = teacher.layers[number], teacher.layers[number + 1 :][:1]
            assert isinstance(source, ConvLayer)
            responses = [source.conv(x) for x in theirs]
            theirs = [source(x, None)[0] for x in theirs]
            kept = _choose_filters(theirs, following, layer.conv.out_channels)
            _fit_filters(layer, source, kept, ours, responses)
        ours = [layer(x, None)[0] for x in ours]
    return [x[0].T for x in ours], [x[0].T for x in theirs]


def match_layers(student: ConvFrontend, teacher: ConvFrontend) -> list[int | None]:
    """For each convolution of the student the teacher's of the same kernel and stride, in order.

    None for pointwise convolutions, which only the student has (FitHuBERT's change of width).
    """
    counterparts: list[int | None] = []
    number = 0
    for kernel, stride in student.convolutions:
        if number < len(teacher.convolutions) and teacher.convolutions[number] == (kernel, stride):
            counterparts.append(number)
            number += 1
        elif (kernel, stride) == (1, 1):
            counterparts.append(None)
        else:
            break
    if len(counterparts) < len(student.convolutions) or number < len(teacher.convolutions):
        raise UserError(
            f"init cut_teacher: convolutions (kernel, stride) {list(student.convolutions)} cannot be cut from the "
            f"teacher's {list(teacher.convolutions)}; use those, with (1, 1) between, or init: random"
        )
    return counterparts


def _choose_filters(outputs: Sequence[Tensor], following: nn.ModuleList, count: int) -> Tensor:
    """Filters to keep, by what they say and by how much of it the next layer listens to."""
    moments = covariance([x[0].T[:: max(1, x.shape[2] // 1000)] for x in outputs])
    for layer in following:
        heard = layer.conv.weight.double().norm(dim=(0, 2))  # type: ignore[union-attr, operator]
        moments = moments * heard[:, None] * heard
    return choose_channels(moments, count)


def _fit_filters(
    layer: ConvLayer, source: ConvLayer, kept: Tensor, inputs: Sequence[Tensor], responses: Sequence[Tensor]
) -> None:
    count, conv = len(kept), layer.conv
    if inputs[0].shape[1] == 1:  # both hear the waveform itself
        conv.weight[:count] = source.conv.weight[kept]
        if conv.bias is not None and source.conv.bias is not None:
            conv.bias[:count] = source.conv.bias[kept]
    else:
        step = max(1, sum(y.shape[2] for y in responses) // _MOST_WINDOWS)
        windows = [x[0].unfold(1, layer.kernel, layer.stride)[:, ::step].transpose(0, 1).flatten(1) for x in inputs]
        wanted = [y[0, kept, ::step].T for y in responses]
        fitted = fit_linear(windows, wanted, intercept=conv.bias is not None)
        conv.weight[:count] = fitted.weight.view(count, *conv.weight.shape[1:])
        if conv.bias is not None:
            conv.bias[:count] = fitted.bias
    if layer.norm is not None and source.norm is not None:
        layer.norm.weight[:count] = source.norm.weight[kept]  # type: ignore[index, operator]
        layer.norm.bias[:count] = source.norm.bias[kept]  # type: ignore[index, operator]


def _carry_through(layer: ConvLayer) -> None:
    """Pass the inputs on, and where there is room their negatives too, the most telling first.

    gelu(x) - gelu(-x) = x: a layer above that hears both hears the input itself.
    """
    outputs, inputs = layer.conv.weight.shape[:2]
    passed = torch.cat([torch.eye(inputs), -torch.eye(inputs)])[:outputs, :, None]
    layer.conv.weight[: len(passed)] = passed.to(layer.conv.weight)
    if layer.conv.bias is not None:
        layer.conv.bias.zero_()
