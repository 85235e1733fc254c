"""Layers of a student cut from its teacher's: attention heads and units chosen, outputs fitted."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fithubert.distill.warmstart.regression import (
    Channels,
    LinearMap,
    choose_channels,
    covariance,
    fit_linear,
    square_root,
    sum_rows,
)
from fithubert.models.encoder import EncoderLayer, PositionalConv, SelfAttention


def cut_positional(
    student: PositionalConv,
    teacher: PositionalConv,
    channels: Channels,
    ours: Sequence[Tensor],
    theirs: Sequence[Tensor],
) -> None:
    """Give the student the teacher's positional convolution of `channels`, restored from the student's groups.

    `ours` and `theirs` are the inputs of the two, (time, feature) each, those of the student at the rate of `channels`.
    Kernels that span another time are left unchanged.
    """
    given, factor = teacher.conv.weight, channels.factor
    span, taps = given.shape[2], student.conv.kernel_size[0]
    if taps != -(-span // factor):
        return
    weight, bias = student.conv.weight.detach().clone(), student.conv.bias
    assert bias is not None
    assert teacher.conv.bias is not None
    group_width, per_group = weight.shape[1], given.shape[1]
    shares, margin = channels.shares().to(given), 2 * factor
    given = F.pad(given, (margin, margin))
    # The teacher's taps that reach, from one frame of a group, the frame at `place` of the groups around it.
    first_taps = factor * (torch.arange(taps, device=given.device) - taps // 2) + span // 2 + margin
    for first in range(0, len(channels.chosen), group_width):
        inputs = [x[:, first : first + group_width] for x in ours]
        restored: dict[int, list[Tensor]] = {}
        for place in range(first, first + group_width):
            channel = int(channels.chosen[place]) % channels.width
            start = channel // per_group * per_group
            if start not in restored:
                # Without an intercept: both read zeros for half a kernel beyond the ends of an utterance.
                group = [y[:, start : start + per_group] for y in theirs]
                restored[start] = [
                    fit_linear(inputs, [channels.frame(y, frame) for y in group], intercept=False).weight
                    for frame in range(factor)
                ]
            weight[place] = sum(
                share * (fitted.T @ given[channel][:, first_taps + to - at])
                for at, share in enumerate(shares[place])
                for to, fitted in enumerate(restored[start])
            )
            bias[place] = teacher.conv.bias[channel] * shares[place].sum()
    student.conv.weight = weight


def fit_norm(norm: nn.LayerNorm, inputs: Sequence[Tensor], targets: Sequence[Tensor]) -> list[Tensor]:
    """Set the gain and bias of `norm` so that its outputs, returned, are closest to `targets`, channel by channel."""
    normal = [F.layer_norm(x, x.shape[-1:], eps=norm.eps) for x in inputs]
    count = sum(len(x) for x in normal)
    mean_in, mean_out = sum_rows(normal) / count, sum_rows(targets) / count
    product = sum_rows([x * y for x, y in zip(normal, targets, strict=True)]) / count
    variance = sum_rows([x.square() for x in normal]) / count - mean_in.square()
    gain = (product - mean_in * mean_out) / variance.clamp(min=1e-6)
    # A channel that cannot be predicted keeps a small gain, or no gradient would ever reach it.
    gain = torch.where(gain.abs() < 0.05, 0.05, gain)
    norm.weight.copy_(gain)
    norm.bias.copy_(mean_out - gain * mean_in)
    return [norm(x) for x in inputs]


def cut_layer(
    layer: EncoderLayer,
    source: EncoderLayer,
    channels: Channels,
    ours: Sequence[Tensor],
    theirs: Sequence[Tensor],
    maps: Sequence[Tensor | None],
    masks: Sequence[Tensor | None],
) -> list[Tensor]:
    """Fit `layer` to `source`; returns its outputs. `ours` and `theirs` are the inputs of the two, (time, feature).

    `channels`: the teacher's channels that the student's represent. For each utterance, `maps`: the attention map that
    the layer reuses, or None; `masks`: that of `attention_mask`.
    """
    first = layer.norm_first
    inputs = [layer.attention_norm(x) if first else x for x in ours]
    attended = [source.attention_norm(y) if first else y for y in theirs]
    restored = fit_linear(inputs, [channels.mean(y) for y in attended])
    given = channels.carry(_cut_attention(layer.attention, source.attention, restored, inputs))
    given_maps = zip(inputs, masks, maps, strict=True)
    contexts = [layer.attention.context(x[None], mask, reused)[0] for x, mask, reused in given_maps]
    theirs = [y + source.attention(a[None], None)[0] for y, a in zip(theirs, attended, strict=True)]
    ours = _add_branch(layer.attention.out, given, contexts, ours, [channels.of(y) for y in theirs])
    if not first:
        theirs = [source.attention_norm(y) for y in theirs]
        ours = fit_norm(layer.attention_norm, ours, [channels.of(y) for y in theirs])
    inputs = [layer.ffn_norm(x) if first else x for x in ours]
    fed = [source.ffn_norm(y) if first else y for y in theirs]
    frames = [fit_linear(inputs, [channels.frame(y, place) for y in fed]) for place in range(channels.factor)]
    given = _cut_units(layer, source, channels, frames, inputs)
    units = [F.gelu(layer.ffn_in(x)) for x in inputs]
    theirs = [y + source.ffn_out(F.gelu(source.ffn_in(a))) for y, a in zip(theirs, fed, strict=True)]
    ours = _add_branch(layer.ffn_out, given, units, ours, [channels.of(y) for y in theirs])
    return ours if first else fit_norm(layer.ffn_norm, ours, [channels.of(source.ffn_norm(y)) for y in theirs])


def _add_branch(
    out: nn.Linear, given: Tensor, inputs: Sequence[Tensor], residual: Sequence[Tensor], targets: Sequence[Tensor]
) -> list[Tensor]:
    """Fit `out`, the output projection of a residual branch, so that residual + branch, returned, is near `targets`.

    `given`: the teacher's weight, towards which the fit is regularised.
    """
    changes = [y - x for x, y in zip(residual, targets, strict=True)]
    return [x + y for x, y in zip(residual, fit_layer(out, inputs, changes, given), strict=True)]


def fit_layer(
    layer: nn.Linear, inputs: Sequence[Tensor], targets: Sequence[Tensor], prior: Tensor | None = None
) -> list[Tensor]:
    """Set `layer` to the map of `fit_linear` from `inputs` to `targets`; its outputs."""
    set_linear(layer, fit_linear(inputs, targets, prior=prior))
    return [layer(x) for x in inputs]


def set_linear(layer: nn.Linear, given: LinearMap) -> None:
    """Set `layer` to the map `given`."""
    layer.weight.copy_(given.weight)
    layer.bias.copy_(given.bias)


def _cut_attention(
    student: SelfAttention, teacher: SelfAttention, restored: LinearMap, inputs: Sequence[Tensor]
) -> Tensor:
    """Set queries, keys and values of as many heads as fit, each cut to the student's head width.

    `restored` maps the student's `inputs` to the teacher's. A head keeps the directions in which its queries and keys,
    or its values after the output projection, matter most on these inputs. Returns the teacher's output projection
    of the kept values, (teacher feature, student's values).
    """
    projection = torch.zeros(teacher.out.out_features, student.value.out_features).to(teacher.out.weight)
    wide, thin = teacher.query.out_features // teacher.heads, student.value.out_features // student.heads
    rank = min(wide, thin)
    for place, head in enumerate(_choose_heads(student, teacher, restored, inputs)):
        rows = slice(head * wide, (head + 1) * wide)
        target = slice(place * thin, place * thin + rank)
        value = _rows(teacher.value, rows).after(restored)
        root, inverse = square_root(covariance([value(x) for x in inputs]))
        out = teacher.out.weight[:, rows].double()
        directions = torch.linalg.svd(out @ root, full_matrices=False)[2][:rank] @ inverse
        scale = root.diagonal().square().mean().sqrt()
        _set_rows(student.value, target, value, directions * scale)
        projection[:, target] = (out @ root @ (root @ directions.T)).to(projection.dtype) / scale
        if student.reuse:
            continue
        query, key = _rows(teacher.query, rows).after(restored), _rows(teacher.key, rows).after(restored)
        roots = [square_root(covariance([m(x) for x in inputs], centre=False)) for m in (query, key)]
        left, strength, right = torch.linalg.svd(roots[0][0] @ roots[1][0])
        # Scores are divided by the root of the head's width, which has changed.
        share = (strength[:rank].sqrt() * (thin / wide) ** 0.25)[:, None]
        _set_rows(student.query, target, query, share * (left.T[:rank] @ roots[0][1]))
        _set_rows(student.key, target, key, share * (right[:rank] @ roots[1][1]))
    return projection


def _choose_heads(
    student: SelfAttention, teacher: SelfAttention, restored: LinearMap, inputs: Sequence[Tensor]
) -> list[int]:
    """The teacher's heads that change the output most, as many as the student has, in the teacher's order."""
    if student.heads >= teacher.heads:
        return list(range(teacher.heads))
    moved = []
    for rows in torch.arange(teacher.value.out_features).split(teacher.value.out_features // teacher.heads):
        value = _rows(teacher.value, rows).after(restored)
        out = teacher.out.weight[:, rows].double()
        moved.append((out @ covariance([value(x) for x in inputs]) @ out.T).trace())
    return sorted(torch.stack(moved).argsort(descending=True)[: student.heads].tolist())


def _cut_units(
    layer: EncoderLayer, source: EncoderLayer, channels: Channels, frames: Sequence[LinearMap], inputs: Sequence[Tensor]
) -> Tensor:
    """Choose the teacher's feed-forward units that best predict the sum of all units in the student's channels.

    `frames` restore the teacher's input at each frame of a group from the student's `inputs`: a unit is chosen for
    one of them. Returns the teacher's output projection of the chosen units, (student's channel, student's unit).
    """
    ffn_in = LinearMap(source.ffn_in.weight, source.ffn_in.bias)
    maps = [ffn_in.after(frame) for frame in frames]
    into = LinearMap(torch.cat([m.weight for m in maps]), torch.cat([m.bias for m in maps]))
    given = torch.cat([channels.carry(source.ffn_out.weight, place) for place in range(len(frames))], 1)
    strength = given.double().norm(dim=0)
    moments = covariance([F.gelu(into(x)) for x in inputs]) * strength[:, None] * strength
    chosen = choose_channels(moments, layer.ffn_in.out_features).to(given.device)
    layer.ffn_in.weight[: len(chosen)] = into.weight[chosen]
    layer.ffn_in.bias[: len(chosen)] = into.bias[chosen]
    projection = torch.zeros(len(given), layer.ffn_in.out_features).to(given)
    projection[:, : len(chosen)] = given[:, chosen]
    return projection


def _rows(layer: nn.Linear, rows: slice | Tensor) -> LinearMap:
    return LinearMap(layer.weight[rows], layer.bias[rows])


def _set_rows(layer: nn.Linear, target: slice, given: LinearMap, directions: Tensor) -> None:
    """Set rows of `layer` to the `directions` (rank, feature) of the output of `given`."""
    directions = directions.to(layer.weight.dtype)
    layer.weight[target] = directions @ given.weight
    layer.bias[target] = directions @ given.bias
