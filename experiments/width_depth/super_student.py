"""A super-student: one set of weights of the space's largest shape, trained so that slices of it are students.

Source: once-for-all training (Cai et al. 2020) with the sandwich rule (Yu and Huang 2019), as LightHuBERT (Wang et al.
2022) uses it for HuBERT. Differs: depth, frame rate and front end vary too, and the start is a cut of the teacher.
"""

from collections.abc import Iterator, Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fithubert.config.students import StudentConfig
from fithubert.distill.warmstart.regression import choose_channels, covariance
from fithubert.models.heads import LayerHead
from fithubert.models.student import Student, build_student
from fithubert.models.time_reduction import TimeReduction, Upsampling

FACTORS = (2, 3, 4)


class SuperStudent(nn.Module):
    """The largest shape without time reduction (`base`), with a reduction and upsamplings for every factor.

    Channels, attention dimensions, units and filters lie in the order in which slices keep them.
    """

    def __init__(self, base: StudentConfig) -> None:
        super().__init__()
        self.config = base
        self.base = build_student(base)
        self.reductions = nn.ModuleDict({str(f): TimeReduction("conv1d", base.width, f) for f in FACTORS})
        self.upsamplings = nn.ModuleDict(
            {str(f): nn.ModuleList(Upsampling(base.width, f) for _ in range(base.depth)) for f in FACTORS}
        )
        self._start_as_mean_and_repetition()

    @torch.no_grad()
    def _start_as_mean_and_repetition(self) -> None:
        eye = torch.eye(self.config.width)
        for reduction in self.reductions.values():
            factor: int = reduction.factor
            reduction.linear.weight.copy_(eye.repeat_interleave(factor, dim=1) / factor)
            reduction.linear.bias.zero_()
        for upsamplings in self.upsamplings.values():
            for upsampling in upsamplings:
                upsampling.weight.copy_(eye.expand_as(upsampling.weight))
                upsampling.bias.zero_()

    def slice(self, config: StudentConfig) -> dict[str, Tensor]:
        """The state of a student of `config`'s shape as slices of these weights; gradients flow back."""
        return dict(_Slices(self, config))

    def hints(self, config: StudentConfig, waveforms: Tensor, lengths: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """`Student.hints` of the slice of `config`'s shape."""
        with torch.device("meta"):
            forward = _Hints(build_student(config))
        return functional_call(
            forward, {f"student.{k}": v for k, v in self.slice(config).items()}, (waveforms, lengths)
        )


class _Hints(nn.Module):
    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        return self.student.hints(waveforms, lengths)


class _Slices:
    """Iterates over (name, tensor) of the slice of one shape."""

    def __init__(self, whole: SuperStudent, config: StudentConfig) -> None:
        self.whole, self.config = whole, config
        self.state: Mapping[str, Tensor] = dict(whole.named_parameters())
        self.width = keep_by_group(whole.config.width, config.width, config.pos_conv_groups)

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        yield from self._frontend()
        yield from self._input()
        reduction = self.config.time_reduction
        if reduction.kind == "conv1d":
            weight = self._whole(f"reductions.{reduction.factor}.linear.weight")[self.width]
            places = (self.width[:, None] * reduction.factor + torch.arange(reduction.factor)).flatten()
            yield "time_reduction.linear.weight", weight[:, places]
            yield "time_reduction.linear.bias", self._whole(f"reductions.{reduction.factor}.linear.bias")[self.width]
        for layer in range(self.config.depth):
            yield from self._layer(layer)
        for head, (layer, target) in enumerate(self.config.heads.layer_map):
            yield f"heads.{head}.projection.weight", self._base(f"heads.{target - 1}.projection.weight")[:, self.width]
            yield f"heads.{head}.projection.bias", self._base(f"heads.{target - 1}.projection.bias")
            factor = self.config.factor_of(layer)
            if factor > 1:
                name = f"upsamplings.{factor}.{target - 1}"
                weight = self._whole(f"{name}.weight")[:, self.width][:, :, self.width]
                yield f"heads.{head}.upsampling.weight", weight
                yield f"heads.{head}.upsampling.bias", self._whole(f"{name}.bias")[self.width]

    def _whole(self, name: str) -> Tensor:
        return self.state[name]

    def _base(self, name: str) -> Tensor:
        return self.state[f"base.{name}"]

    def _frontend(self) -> Iterator[tuple[str, Tensor]]:
        before = 1
        for index, (channels, _, _) in enumerate(self.config.conv_layers):
            name = f"frontend.layers.{index}"
            yield f"{name}.conv.weight", self._base(f"{name}.conv.weight")[:channels, :before]
            for kind in ("weight", "bias"):
                if f"base.{name}.norm.{kind}" in self.state:
                    yield f"{name}.norm.{kind}", self._base(f"{name}.norm.{kind}")[:channels]
            before = channels

    def _input(self) -> Iterator[tuple[str, Tensor]]:
        top = self.config.conv_layers[-1][0]
        for kind in ("weight", "bias"):
            yield f"feature_norm.{kind}", self._base(f"feature_norm.{kind}")[:top]
            yield f"encoder_norm.{kind}", self._base(f"encoder_norm.{kind}")[self.width]
        if top != self.config.width:
            yield "projection.weight", self._base("projection.weight")[self.width, :top]
            yield "projection.bias", self._base("projection.bias")[self.width]
        # The gain belongs to the norm of the whole: the slice's weight has to stay what it is.
        gain, direction = (self._base(f"positional.conv.parametrizations.weight.original{i}") for i in (0, 1))
        heard = self.config.width // self.config.pos_conv_groups
        part = direction[self.width, :heard]
        share = torch.linalg.vector_norm(part, dim=(0, 1), keepdim=True)
        share = share / torch.linalg.vector_norm(direction, dim=(0, 1), keepdim=True)
        yield "positional.conv.parametrizations.weight.original0", gain * share
        yield "positional.conv.parametrizations.weight.original1", part
        yield "positional.conv.bias", self._base("positional.conv.bias")[self.width]

    def _layer(self, layer: int) -> Iterator[tuple[str, Tensor]]:
        config, whole = self.config, self.whole.config
        mine, theirs = f"layers.{layer}", f"layers.{round((layer + 1) * whole.depth / config.depth) - 1}"
        inner = keep_by_group(whole.width, config.width, whole.attention_heads)
        # Scores are divided by the root of the head's width, which is another one now.
        scale = (config.width / config.attention_heads * whole.attention_heads / whole.width) ** 0.5
        for part in ("query", "key", "value"):
            factor = scale if part == "query" else 1.0
            weight = self._base(f"{theirs}.attention.{part}.weight")[inner][:, self.width]
            yield f"{mine}.attention.{part}.weight", weight * factor
            yield f"{mine}.attention.{part}.bias", self._base(f"{theirs}.attention.{part}.bias")[inner] * factor
        yield f"{mine}.attention.out.weight", self._base(f"{theirs}.attention.out.weight")[self.width][:, inner]
        yield f"{mine}.attention.out.bias", self._base(f"{theirs}.attention.out.bias")[self.width]
        yield f"{mine}.ffn_in.weight", self._base(f"{theirs}.ffn_in.weight")[: config.ffn_width, self.width]
        yield f"{mine}.ffn_in.bias", self._base(f"{theirs}.ffn_in.bias")[: config.ffn_width]
        yield f"{mine}.ffn_out.weight", self._base(f"{theirs}.ffn_out.weight")[self.width, : config.ffn_width]
        yield f"{mine}.ffn_out.bias", self._base(f"{theirs}.ffn_out.bias")[self.width]
        for norm in ("attention_norm", "ffn_norm"):
            for kind in ("weight", "bias"):
                yield f"{mine}.{norm}.{kind}", self._base(f"{theirs}.{norm}.{kind}")[self.width]


def keep_by_group(whole: int, kept: int, groups: int) -> Tensor:
    """(kept,) indices: the first of each of `groups` equal parts of `whole`, as many of each."""
    return (torch.arange(groups)[:, None] * (whole // groups) + torch.arange(kept // groups)).flatten()


@torch.no_grad()
def sort_base(student: Student, waveforms: list[Tensor]) -> None:
    """Put channels, units and pointwise filters of a student without time reduction in the order that slices keep.

    The most telling first, by pivoted Cholesky decomposition of their moments on `waveforms`; channels within each
    group of the positional convolution. Attention dimensions and the other filters of a cut student are in order
    already. The student's outputs stay the same.
    """
    student.eval()
    _sort_filters(student)
    encoded = [student.encode([w]) for w in waveforms]
    total = torch.zeros(student.config.width, student.config.width, dtype=torch.float64)
    for layer in range(student.config.depth + 1):
        own = covariance([e.states[layer][0] for e in encoded])
        total += own / own.trace()
    rank = torch.empty(len(total), dtype=torch.long)
    rank[choose_channels(total, len(total))] = torch.arange(len(total))
    groups = rank.unflatten(0, (student.config.pos_conv_groups, -1)).argsort(1)
    order = (groups + torch.arange(len(groups))[:, None] * groups.shape[1]).flatten()
    _permute_width(student, order, groups)
    for index, layer in enumerate(student.layers):
        heard = [student.encode([w], last_layer=index).states[-1][0] for w in waveforms]
        middle = [layer.attention_norm(x + layer.attention(x[None], None)[0]) for x in heard]
        units = [torch.nn.functional.gelu(layer.ffn_in(x)) for x in middle]
        strength = layer.ffn_out.weight.double().norm(dim=0)
        chosen = choose_channels(covariance(units) * strength[:, None] * strength, len(strength))
        _permute(layer.ffn_in, chosen, 0)
        layer.ffn_out.weight.copy_(layer.ffn_out.weight[:, chosen])
    student.train()


def _sort_filters(student: Student) -> None:
    """Those of pointwise layers, so that a slice hears the inputs that it passes on; a cut has the others in order."""
    layers = list(student.frontend.layers)
    for layer, following in pairwise(layers):
        if layer.kernel == layer.stride == 1:
            outputs, inputs = layer.conv.weight.shape[:2]
            order = interleave(inputs, outputs)
            _permute(layer.conv, order, 0)
            following.conv.weight.copy_(following.conv.weight[:, order])


def interleave(inputs: int, outputs: int) -> Tensor:
    """An order of `inputs` channels passed on and `outputs - inputs` negatives in which both parts grow alike."""
    places = [(i / inputs, i) for i in range(inputs)]
    places += [((i + 0.5) / (outputs - inputs), inputs + i) for i in range(outputs - inputs)]
    return torch.tensor([index for _, index in sorted(places)])


def _permute_width(student: Student, order: Tensor, groups: Tensor) -> None:
    assert student.projection is not None
    _permute(student.projection, order, 0)
    conv = student.positional.conv
    weight = conv.weight[order].unflatten(0, (len(groups), -1))
    conv.weight = torch.cat([w[:, g] for w, g in zip(weight, groups, strict=True)])
    conv.bias.copy_(conv.bias[order])
    _permute(student.encoder_norm, order, 0)
    for layer in student.layers:
        for linear in (layer.attention.query, layer.attention.key, layer.attention.value, layer.ffn_in):
            linear.weight.copy_(linear.weight[:, order])
        for part in (layer.attention.out, layer.ffn_out, layer.attention_norm, layer.ffn_norm):
            _permute(part, order, 0)
    for head in student.heads:
        assert isinstance(head, LayerHead)
        head.projection.weight.copy_(head.projection.weight[:, order])


def _permute(module: nn.Module, order: Tensor, dim: int) -> None:
    for parameter in module.parameters(recurse=False):
        parameter.copy_(parameter.index_select(dim, order))
