"""A recipe's shape for any teacher, at a chosen number of parameters."""

from bisect import bisect_right
from math import ceil, floor, lcm
from typing import Any

from fithubert.config.students import StudentConfig
from fithubert.config.teacher import HubertConfig, hubert_base
from fithubert.errors import UserError
from fithubert.frames import count_stacked_frames
from fithubert.models.recipes import RECIPES, resolve
from fithubert.models.weights import released_counts

#: The recipes that can be scaled: a head on every layer, and nothing that needs other losses or live targets.
SCALABLE = tuple(
    name for name, recipe in RECIPES.items() if recipe().heads.kind == "per_layer" and recipe().masking is None
)
#: Features of the narrowest attention head.
_LEAST_HEAD_WIDTH = 4
#: A shape whose width is a multiple of the positional convolution's groups is taken if it comes so close.
_TOLERANCE = 0.05
#: The feed-forward width may be so many times as wide, or as narrow, as the recipe's.
_FFN_FACTOR = 2.0


def scaled_shape(recipe: str, teacher: HubertConfig, teacher_parameters: int, size: float) -> dict[str, Any]:
    """The fields by which the student differs from `recipe`: about `size` of the teacher's parameters, as deep as it.

    The width decides the size, and the feed-forward width what is left over; convolutions scale with the width. Norms
    and strides are the teacher's, so that the student can be cut from it; so are attention heads, but for a recipe that
    has fewer than HuBERT Base. Layers that the recipe names are at the same share of the depth. Raises UserError for a
    recipe that cannot be scaled, and with the possible sizes if `size` is none of them.
    """
    if recipe not in SCALABLE:
        raise UserError(f"--recipe {recipe}: not one of {', '.join(SCALABLE)}")
    heads, wanted = teacher.attention_heads, size * teacher_parameters
    shaper = _Shaper(recipe, teacher)
    narrowest = min(_LEAST_HEAD_WIDTH, teacher.width // heads) * heads
    least = shaper.count(narrowest, shaper.ffn_range(narrowest)[0]) / teacher_parameters
    most = shaper.count(teacher.width, shaper.ffn_range(teacher.width)[1]) / teacher_parameters
    if not least <= size <= min(most, 1.0):
        raise UserError(
            f"--size {size:g}: a {recipe} student of this teacher has {ceil(least * 1000) / 1000:g} to "
            f"{floor(min(most, 1.0) * 1000) / 1000:g} of its parameters"
        )
    found: list[tuple[float, int, int]] = []
    for step in dict.fromkeys((lcm(heads, teacher.pos_conv_groups), heads)):
        widths = range(narrowest if step == heads else step, teacher.width + 1, step)
        # The widest with at most `wanted` parameters, and the one after it.
        place = bisect_right(widths, wanted, key=shaper.count)
        for width in widths[max(0, place - 1) : place + 1]:
            ffn_width = shaper.fit_ffn(width, wanted)
            found.append((abs(shaper.count(width, ffn_width) / wanted - 1), width, ffn_width))
        if found and min(found)[0] <= _TOLERANCE:
            break
    _, width, ffn_width = min(found)
    return shaper.shape(width, ffn_width)


class _Shaper:
    """The shapes of one recipe for one teacher, by width and feed-forward width."""

    def __init__(self, recipe: str, teacher: HubertConfig) -> None:
        self.recipe, self.teacher, self.base = recipe, teacher, RECIPES[recipe]()

    def shape(self, width: int, ffn_width: int) -> dict[str, Any]:
        teacher = self.teacher
        step = lcm(teacher.attention_heads, teacher.pos_conv_groups)
        groups = teacher.pos_conv_groups if width % step == 0 else teacher.attention_heads
        return {
            **self._front_end(width),
            "width": width,
            "depth": teacher.depth,
            "ffn_width": ffn_width,
            **self._attention(width),
            "layer_norm_first": teacher.norm_first,
            "pos_conv_kernel": ceil(teacher.pos_conv_kernel / count_stacked_frames(self.base.time_reduction)),
            "pos_conv_groups": groups,
            "time_reduction": {
                "before_layer": min(self._layer(self.base.time_reduction.before_layer), teacher.depth - 1)
            },
            "heads": {
                "teacher_width": teacher.width,
                "read": sorted({max(1, self._layer(n)) for n in self.base.heads.read}),
            },
        }

    def count(self, width: int, ffn_width: int | None = None) -> int:
        """Parameters of the student in use; without `ffn_width` with the recipe's."""
        ffn_width = self.own_ffn(width) if ffn_width is None else ffn_width
        return released_counts(self.config(width, ffn_width)).total

    def config(self, width: int, ffn_width: int) -> StudentConfig:
        return resolve(self.recipe, self.shape(width, ffn_width))

    def own_ffn(self, width: int) -> int:
        """The recipe's feed-forward width, which is as much narrower than this teacher's as than HuBERT Base's."""
        base, teacher = hubert_base(), self.teacher
        of_recipe = self.base.layer_sizes[0].ffn_width / self.base.width
        return max(1, round(width * of_recipe * (teacher.ffn_width / teacher.width) / (base.ffn_width / base.width)))

    def ffn_range(self, width: int) -> tuple[int, int]:
        own = self.own_ffn(width)
        return max(1, round(own / _FFN_FACTOR)), round(own * _FFN_FACTOR)

    def fit_ffn(self, width: int, wanted: float) -> int:
        """The feed-forward width that comes closest to `wanted` parameters, which grow linearly with it."""
        least, most = self.ffn_range(width)
        start, end = self.count(width, least), self.count(width, most)
        share = (wanted - start) / max(1, end - start)
        return min(most, max(least, round(least + share * (most - least))))

    def _layer(self, number: int) -> int:
        """The layer at the same share of this teacher's depth as layer `number` of the recipe's."""
        return round(number * self.teacher.depth / self.base.depth)

    def _attention(self, width: int) -> dict[str, Any]:
        """As many heads as the teacher, or as small a share of them as the recipe has of HuBERT Base's.

        Heads together are as large a part of the width as in the recipe, and each is at most as wide as the teacher's.
        """
        recipe, teacher = self.base.layer_sizes[0], self.teacher
        heads = max(1, round(recipe.heads / hubert_base().attention_heads * teacher.attention_heads))
        if self.base.head_width is None:
            return {"attention_heads": heads}
        own = round(width * recipe.heads * recipe.head_width / self.base.width / heads)
        return {"attention_heads": heads, "head_width": max(1, min(own, teacher.width // teacher.attention_heads))}

    def _front_end(self, width: int) -> dict[str, Any]:
        """The recipe's convolutions, if they have the teacher's strides, else the teacher's; in the student's scale.

        Filter banks stay as they are.
        """
        if self.base.frontend == "mel":
            return {}
        teacher = self.teacher
        norms = {"conv_norm": teacher.conv_norm, "conv_bias": teacher.conv_bias, "feature_norm": teacher.feature_norm}
        recipe, own = self.base.conv_layers, self.teacher.conv_layers
        strides = [(kernel, stride) for _, kernel, stride in recipe if (kernel, stride) != (1, 1)]
        fits = strides == [(kernel, stride) for _, kernel, stride in own]
        layers, share = (recipe, width / self.base.width) if fits else (own, width / self.teacher.width)
        # A layer wider than the teacher's could not be cut from it.
        widest = max(channels for channels, _, _ in own)
        convolutions = [[max(4, min(widest, round(n * share / 4) * 4)), kernel, stride] for n, kernel, stride in layers]
        return {"conv_layers": convolutions, **norms}
