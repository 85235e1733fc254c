"""A student's transformer layers cut from its teacher's: heads and units chosen, outputs fitted to the teacher's."""

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
    student: PositionalConv, teacher: PositionalConv, kept: Tensor, ours: Sequence[Tensor], theirs: Sequence[Tensor]
) -> None:
    """The teacher's positional convolution of channels `kept`, hearing its inputs through the student's group.

    `ours` and `theirs` are the inputs of the two, (time, feature) each. Kernels of another length stay as they are.
    """
    given = teacher.conv.weight
    if student.conv.kernel_size != teacher.conv.kernel_size:
        return
    weight, bias = student.conv.weight.detach().clone(), student.conv.bias
    assert bias is not None
    assert teacher.conv.bias is not None
    heard, per_group = weight.shape[1], given.shape[1]
    for first in range(0, len(kept), heard):
        inputs = [x[:, first : first + heard] for x in ours]
        restored: dict[int, Tensor] = {}
        for place in range(first, first + heard):
            channel = int(kept[place])
            start = channel // per_group * per_group
            if start not in restored:
                # Without an intercept: beyond the ends of an utterance, for half a kernel, both hear zeros.
                group = [y[:, start : start + per_group] for y in theirs]
                restored[start] = fit_linear(inputs, group, intercept=False).weight
            weight[place] = restored[start].T @ given[channel]
            bias[place] = teacher.conv.bias[channel]
    student.conv.weight = weight


def fit_norm(norm: nn.LayerNorm, inputs: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    """Gain and bias of `norm` for which its output comes closest to `targets`, channel by channel."""
    normal = [F.layer_norm(x, x.shape[-1:], eps=norm.eps) for x in inputs]
    count = sum(len(x) for x in normal)
    mean_in, mean_out = sum_rows(normal) / count, sum_rows(targets) / count
    product = sum_rows([x * y for x, y in zip(normal, targets, strict=True)]) / count
    variance = sum_rows([x.square() for x in normal]) / count - mean_in.square()
    gain = (product - mean_in * mean_out) / variance.clamp(min=1e-6)
    # A channel that cannot be followed keeps a little gain, or no gradient would ever reach it.
    gain = torch.where(gain.abs() < 0.05, 0.05, gain)
    norm.weight.copy_(gain)
    norm.bias.copy_(mean_out - gain * mean_in)


def cut_layer(
    layer: EncoderLayer,
    source: EncoderLayer,
    channels: Channels,
    ours: Sequence[Tensor],
    theirs: Sequence[Tensor],
    maps: Sequence[Tensor | None],
) -> list[Tensor]:
    """Fit `layer` to `source` and give its outputs; `ours` and `theirs` are the inputs of the two, (time, feature).

    `channels`: what the student's channels stand for; `maps`: the attention maps that the layer reuses, where it does.
    """
    first = layer.norm_first
    heard = [layer.attention_norm(x) if first else x for x in ours]
    attended = [source.attention_norm(y) if first else y for y in theirs]
    restored = fit_linear(heard, [channels.mean(y) for y in attended])
    out = channels.carry(_cut_attention(layer.attention, source.attention, restored, heard))
    contexts = [
        layer.attention.context(x[None], None, attention_map)[0] for x, attention_map in zip(heard, maps, strict=True)
    ]
    theirs = [y + source.attention(a[None], None)[0] for y, a in zip(theirs, attended, strict=True)]
    _fit_branch(layer.attention.out, out, contexts, ours, [channels.of(y) for y in theirs])
    ours = [x + layer.attention.out(c) for x, c in zip(ours, contexts, strict=True)]
    if not first:
        theirs = [source.attention_norm(y) for y in theirs]
        fit_norm(layer.attention_norm, ours, [channels.of(y) for y in theirs])
        ours = [layer.attention_norm(x) for x in ours]
    heard = [layer.ffn_norm(x) if first else x for x in ours]
    fed = [source.ffn_norm(y) if first else y for y in theirs]
    frames = [fit_linear(heard, [channels.frame(y, place) for y in fed]) for place in range(channels.factor)]
    out = _cut_units(layer, source, channels, frames, heard)
    units = [F.gelu(layer.ffn_in(x)) for x in heard]
    theirs = [y + source.ffn_out(F.gelu(source.ffn_in(a))) for y, a in zip(theirs, fed, strict=True)]
    _fit_branch(layer.ffn_out, out, units, ours, [channels.of(y) for y in theirs])
    ours = [x + layer.ffn_out(u) for x, u in zip(ours, units, strict=True)]
    if not first:
        theirs = [source.ffn_norm(y) for y in theirs]
        fit_norm(layer.ffn_norm, ours, [channels.of(y) for y in theirs])
        ours = [layer.ffn_norm(x) for x in ours]
    return ours


def _fit_branch(
    out: nn.Linear, given: Tensor, inputs: Sequence[Tensor], residual: Sequence[Tensor], targets: Sequence[Tensor]
) -> None:
    """The output projection of a residual branch for which residual + branch comes closest to `targets`.

    `given`: its weight as the teacher has it, which the fit starts from.
    """
    set_linear(out, fit_linear(inputs, [y - x for x, y in zip(residual, targets, strict=True)], prior=given))


def set_linear(layer: nn.Linear, given: LinearMap) -> None:
    """Make `layer` the map `given`."""
    layer.weight.copy_(given.weight)
    layer.bias.copy_(given.bias)


def _cut_attention(
    student: SelfAttention, teacher: SelfAttention, heard: LinearMap, inputs: Sequence[Tensor]
) -> Tensor:
    """Queries, keys and values of as many heads as fit, each cut to the student's head width.

    `heard` restores the teacher's input from the student's `inputs`. A head keeps the directions in which its queries
    and keys, or its values on their way out, matter most on these inputs. Gives what the teacher's output projection
    becomes, (teacher feature, student's values).
    """
    projection = torch.zeros(teacher.out.out_features, student.value.out_features).to(teacher.out.weight)
    wide, thin = teacher.query.out_features // teacher.heads, student.value.out_features // student.heads
    rank = min(wide, thin)
    for place, head in enumerate(_choose_heads(student, teacher, heard, inputs)):
        rows = slice(head * wide, (head + 1) * wide)
        target = slice(place * thin, place * thin + rank)
        value = _rows(teacher.value, rows).after(heard)
        root, inverse = square_root(covariance([value(x) for x in inputs]))
        out = teacher.out.weight[:, rows].double()
        directions = torch.linalg.svd(out @ root, full_matrices=False)[2][:rank] @ inverse
        scale = root.diagonal().square().mean().sqrt()
        _set_rows(student.value, target, value, directions * scale)
        projection[:, target] = (out @ root @ (root @ directions.T)).to(projection.dtype) / scale
        if student.reuse:
            continue
        query, key = _rows(teacher.query, rows).after(heard), _rows(teacher.key, rows).after(heard)
        roots = [square_root(covariance([m(x) for x in inputs], centre=False)) for m in (query, key)]
        left, strength, right = torch.linalg.svd(roots[0][0] @ roots[1][0])
        # Scores are divided by the root of the head's width, which is another one now.
        share = (strength[:rank].sqrt() * (thin / wide) ** 0.25)[:, None]
        _set_rows(student.query, target, query, share * (left.T[:rank] @ roots[0][1]))
        _set_rows(student.key, target, key, share * (right[:rank] @ roots[1][1]))
    return projection


def _choose_heads(
    student: SelfAttention, teacher: SelfAttention, heard: LinearMap, inputs: Sequence[Tensor]
) -> list[int]:
    """The teacher's heads by how much they move the output, as many as the student has, in the teacher's order."""
    if student.heads >= teacher.heads:
        return list(range(teacher.heads))
    moved = []
    for rows in torch.arange(teacher.value.out_features).split(teacher.value.out_features // teacher.heads):
        value = _rows(teacher.value, rows).after(heard)
        out = teacher.out.weight[:, rows].double()
        moved.append((out @ covariance([value(x) for x in inputs]) @ out.T).trace())
    return sorted(torch.stack(moved).argsort(descending=True)[: student.heads].tolist())


def _cut_units(
    layer: EncoderLayer, source: EncoderLayer, channels: Channels, frames: Sequence[LinearMap], inputs: Sequence[Tensor]
) -> Tensor:
    """Those of the teacher's feed-forward units that tell most about what all of them add to the student's channels.

    `frames` restores the teacher's input at each frame of a group from the student's `inputs`: a unit is chosen for
    one of them. Gives the teacher's output projection of the chosen, (student's channel, student's unit).
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
    """`directions` (rank, feature) of what `given` computes, as rows of `layer`."""
    directions = directions.to(layer.weight.dtype)
    layer.weight[target] = directions @ given.weight
    layer.bias[target] = directions @ given.bias
