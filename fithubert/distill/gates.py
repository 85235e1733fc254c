"""The gates of a student: hard concrete values, their place in its forward pass, and the smaller student they leave.

Source: L0 regularisation with hard concrete gates (Louizos et al. 2018), as DPHuBERT has them (Peng et al. 2023;
pyf98/DPHuBERT hardconcrete.py, prune.py). Differs: the width of the residual stream has gates too.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import log
from typing import Any

import torch
from torch import Tensor, nn

from fithubert.config.students import StudentConfig
from fithubert.errors import UserError
from fithubert.frames import count_stacked_frames
from fithubert.models.canonical import canonical_state, fill_model
from fithubert.models.encoder import EncoderLayer
from fithubert.models.frontend import ConvLayer, outside_autocast
from fithubert.models.heads import Upsampling
from fithubert.models.student import Student, build_student

#: The temperature of a gate, and the interval that its values are stretched to before they are cut to 0..1.
_BETA, _LOW, _HIGH = 2 / 3, -0.1, 1.1
#: An open gate's value in an evaluation is a sigmoid of this share of log alpha / beta (DPHuBERT).
_SOFT = 0.8
#: The value of every gate, by the name of its kind and layer.
Masks = Mapping[str, Tensor]


def draw_gates(log_alpha: Tensor) -> Tensor:
    """Values in 0..1 of hard concrete gates: 0 and 1 have a probability of their own, between them is a density."""
    uniform = torch.rand_like(log_alpha).clamp(1e-6, 1 - 1e-6)
    stretched = torch.sigmoid((uniform.logit() + log_alpha) / _BETA) * (_HIGH - _LOW) + _LOW
    return stretched.clamp(0, 1)


def open_probability(log_alpha: Tensor) -> Tensor:
    """The probability that a gate is not 0."""
    return torch.sigmoid(log_alpha - _BETA * log(-_LOW / _HIGH))


def typical_value(log_alpha: Tensor) -> Tensor:
    """The value of an open gate without chance."""
    return torch.sigmoid(_SOFT * log_alpha / _BETA)


def gate_sizes(config: StudentConfig) -> dict[str, int]:
    """The gates of a student: the channels of each convolution, heads and units of each layer, and the width.

    A layer that reuses an attention map has the gates of the layer that made it; filter banks have none. Raises
    UserError for a shape whose parts cannot be taken out one by one.
    """
    if config.masking is not None or config.time_reduction.kind == "fc2":
        raise UserError("init prune: cannot prune a student with masking, or with time_reduction fc2")
    if config.conv_layers and config.conv_layers[-1][0] * count_stacked_frames(config.time_reduction) == config.width:
        raise UserError("init prune: needs a projection; choose a last convolution that is not as wide as the layers")
    if len({layer.head_width for layer in config.layer_sizes}) > 1:
        raise UserError("init prune: the heads of all layers must have one width; set head_width")
    sizes = {f"channels_{index}": channels for index, (channels, _, _) in enumerate(config.conv_layers)}
    for index, layer in enumerate(config.layer_sizes):
        sizes |= {heads_gate(config, index): layer.heads, f"units_{index}": layer.ffn_width}
    return {**sizes, "width": config.width}


def heads_gate(config: StudentConfig, index: int) -> str:
    """The gate of the attention heads of layer `index`."""
    while index in config.reuse_attention:
        index -= 1
    return f"heads_{index}"


@contextmanager
def gated(student: Student, masks: Masks) -> Iterator[None]:
    """Inside, the parts of `student` are multiplied by `masks`, and its norms leave out what is closed."""
    config, handles, width = student.config, [], masks["width"]

    def after(module: nn.Module, change: Callable[[Any], Any]) -> None:
        handles.append(module.register_forward_hook(lambda _, __, output: change(output)))

    def before(module: nn.Module, mask: Tensor) -> None:
        handles.append(module.register_forward_pre_hook(lambda _, inputs: (inputs[0] * mask, *inputs[1:])))

    def scale(module: nn.Module | None, mask: Tensor) -> None:
        if isinstance(module, nn.LayerNorm):
            handles.append(module.register_forward_hook(lambda norm, inputs, _: _normalise(norm, inputs[0], mask)))
        elif module is not None:
            after(module, lambda y: (y[0] * mask, *y[1:]) if isinstance(y, tuple) else y * mask)

    for index in range(len(config.conv_layers)):
        layer = student.frontend.layers[index]  # type: ignore[index, union-attr]
        assert isinstance(layer, ConvLayer)
        channels = masks[f"channels_{index}"]
        if isinstance(layer.norm, nn.LayerNorm):
            scale(layer.norm, (channels > 0).to(channels))
        if index == len(config.conv_layers) - 1 and student.feature_norm is not None:
            scale(student.feature_norm, channels)
        else:
            scale(layer, channels[:, None])
    upsamplings = [module for module in student.modules() if isinstance(module, Upsampling)]
    stream = (student.projection, student.positional, student.encoder_norm, student.time_reduction, *upsamplings)
    for module in stream:
        scale(module, width)
    for index, layer in enumerate(student.layers):
        assert isinstance(layer, EncoderLayer)
        attention = layer.attention
        before(attention.out, masks[heads_gate(config, index)].repeat_interleave(config.layer_sizes[index].head_width))
        before(layer.ffn_out, masks[f"units_{index}"])
        for module in (attention.out, layer.attention_norm, layer.ffn_out, layer.ffn_norm):
            scale(module, width)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# A square above 65,504 is infinite in float16.
@outside_autocast
def _normalise(norm: nn.LayerNorm, x: Tensor, mask: Tensor) -> Tensor:
    """The layer norm of the open channels of `x` (..., feature) alone, times the mask."""
    share = (mask > 0).to(torch.float32)
    share = share / share.sum().clamp(min=1)
    centred = x.float() - (x.float() @ share)[..., None]
    normal = centred * torch.rsqrt(centred.square() @ share + norm.eps)[..., None]
    return (normal * norm.weight + norm.bias) * mask


@dataclass(frozen=True)
class _Kept:
    """Open gates: their places, and their values."""

    places: Tensor
    values: Tensor

    @classmethod
    def of(cls, mask: Tensor) -> "_Kept":
        mask = mask.detach().float().cpu()
        return cls(mask.nonzero().flatten(), mask[mask != 0])

    def spread(self, count: int) -> "_Kept":
        """Each gate on `count` neighbouring features."""
        places = self.places[:, None] * count + torch.arange(count)
        return _Kept(places.flatten(), self.values.repeat_interleave(count))


def fold(student: Student, masks: Masks) -> Student:
    """The smaller student, on the CPU, that outputs what `student` outputs in `gated`.

    The values of channels, heads and units are folded into the weights that read them. Those of the width must be 0
    or 1, with as many 1 in each group of the positional convolution.
    """
    config, kept = student.config, {name: _Kept.of(mask) for name, mask in masks.items()}
    counts = {name: len(part.places) for name, part in kept.items()}
    changes: dict[str, Any] = {
        "conv_layers": [(counts[f"channels_{i}"], *layer[1:]) for i, layer in enumerate(config.conv_layers)],
        "width": counts["width"],
        "attention_heads": [counts[heads_gate(config, index)] for index in range(config.depth)],
        "head_width": config.layer_sizes[0].head_width,
        "ffn_width": [counts[f"units_{index}"] for index in range(config.depth)],
    }
    if config.heads.kind == "shared":
        hidden = config.heads.hidden_width or config.width
        changes["heads"] = config.heads.model_copy(update={"hidden_width": hidden}).model_dump()
    state = {}
    for name, tensor in canonical_state(student).items():
        if name == "positional.conv.weight":
            state[name] = _fold_groups(tensor, kept["width"].places.view(config.pos_conv_groups, -1))
            continue
        rows, columns = _axes(name, config, kept)
        first = tensor.ndim - 2 if name.endswith("upsampling.weight") else 0
        if rows is not None:
            tensor = tensor.index_select(first, rows.places)
        if columns is not None and tensor.ndim > 1:
            factors = columns.values.view(-1, *[1] * (tensor.ndim - first - 2))
            tensor = tensor.index_select(first + 1, columns.places) * factors
        state[name] = tensor
    smaller = build_student(StudentConfig.model_validate({**config.model_dump(), **changes}))
    fill_model(smaller, state, "the pruned student")
    return smaller


def _fold_groups(weight: Tensor, places: Tensor) -> Tensor:
    """The kept channels `places` (group, channel) of a grouped convolution's weight (out, in of a group, tap)."""
    within = places % weight.shape[1]
    return weight[places[:, :, None], within[:, None, :]].flatten(0, 1)


def _axes(name: str, config: StudentConfig, kept: Mapping[str, _Kept]) -> tuple[_Kept | None, _Kept | None]:
    """The gates of the outputs and of the inputs of the weight called `name`; None if all of them are kept."""
    width, last = kept["width"], kept.get(f"channels_{len(config.conv_layers) - 1}")
    match name.split("."):
        case ["frontend", "layers", index, "conv", _]:
            return kept[f"channels_{index}"], kept.get(f"channels_{int(index) - 1}")
        case ["frontend", "layers", index, *_]:
            return kept[f"channels_{index}"], None
        case ["frontend", *_]:
            return None, None
        case ["feature_norm", _]:
            return last, None
        case ["projection", _]:
            return width, None if last is None else last.spread(count_stacked_frames(config.time_reduction))
        case ["time_reduction", *_]:
            return width, width.spread(config.time_reduction.factor)
        case ["layers", index, "attention", part, _]:
            heads = kept[heads_gate(config, int(index))].spread(config.layer_sizes[int(index)].head_width)
            return (width, heads) if part == "out" else (heads, width)
        case ["layers", index, "ffn_in", _]:
            return kept[f"units_{index}"], width
        case ["layers", index, "ffn_out", _]:
            return width, kept[f"units_{index}"]
        case ["heads" | "unit_head", *_, "projection" | "hidden", _]:
            return None, width
        case ["heads" | "unit_head", *_, "upsampling", _]:
            return width, width
        case ["heads", *_]:
            return None, None
        case _:
            return width, None
