"""From the choices of a trial to a student, and back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fithubert.config.base import read_yaml, validate
from fithubert.config.distill import StudentParams
from fithubert.config.sweep import SpaceParams
from fithubert.errors import UserError
from fithubert.student.recipes import resolve

#: The value of every choice, by the name of its list in `SpaceParams`.
Choices = Mapping[str, Any]
#: Channels of the front end are multiples of this.
_CHANNELS = 4


def read_space(path: Path) -> SpaceParams:
    """The space in a YAML file of `sweep.space`; raises UserError in one line naming the key."""
    return validate(SpaceParams, read_yaml(path), str(path))


def check_space(space: SpaceParams, of: StudentParams, teacher_depth: int, teacher_width: int) -> None:
    """Raise UserError where some shape of `space` cannot be built or started as `of` says."""
    groups = resolve(of.recipe, of.shape).pos_conv_groups
    for width in space.width:
        if width % groups:
            raise UserError(f"space.width: {width} is no multiple of the {groups} groups of the positional convolution")
    if of.init == "teacher_layers":
        raise UserError("sweep: a student with init teacher_layers has its teacher's shape; take another for sweep.of")
    if max(space.depth) > teacher_depth:
        raise UserError(f"space.depth: {max(space.depth)} is deeper than the teacher, {teacher_depth}")
    if of.init == "cut_teacher" and max(space.width) > teacher_width:
        raise UserError(f"space.width: {max(space.width)} is wider than the teacher, {teacher_width}; use init: random")


def make_student(of: StudentParams, choices: Choices, teacher_depth: int) -> StudentParams:
    """The student that is `of` but for `choices`; its heads predict teacher layers that are spread evenly."""
    base, depth = resolve(of.recipe, of.shape), choices["depth"]
    kind = choices["time_reduction"]
    reduction: dict[str, Any] = {"kind": kind}
    if kind != "none":
        reduction |= {"factor": choices["factor"], "before_layer": int(choices["position"] * depth)}
    shape = {
        "depth": depth,
        "width": choices["width"],
        "ffn_width": choices["ffn_width"],
        "attention_heads": choices["attention_heads"],
        "conv_layers": [
            [max(_CHANNELS, round(channels * choices["front_end"] / _CHANNELS) * _CHANNELS), kernel, stride]
            for channels, kernel, stride in base.conv_layers
        ],
        "time_reduction": reduction,
        "readout": choices["readout"],
        "heads": {"layer_map": [[layer, round(layer * teacher_depth / depth)] for layer in range(1, depth + 1)]},
    }
    # Else a factor of `of`'s own would be left where frames are not reduced.
    merged = of.model_copy(update={"shape": {k: v for k, v in of.shape.items() if k != "time_reduction"}})
    return merged.changed({"shape": shape})


def find_choices(of: StudentParams, space: SpaceParams) -> dict[str, Any] | None:
    """The choices that give `of` itself, or None where `space` does not hold its shape."""
    config = resolve(of.recipe, of.shape)
    reduction = config.time_reduction
    wanted: dict[str, Any] = {
        "depth": config.depth,
        "width": config.width,
        "ffn_width": config.ffn_width,
        "attention_heads": config.attention_heads,
        "front_end": 1.0,
        "time_reduction": reduction.kind,
        "factor": reduction.factor if reduction.kind != "none" else space.factor[0],
        "readout": config.readout,
    }
    layer = reduction.before_layer if reduction.kind != "none" else int(space.position[0] * config.depth)
    positions = [share for share in space.position if int(share * config.depth) == layer]
    if not positions or any(value not in getattr(space, name) for name, value in wanted.items()):
        return None
    return {**wanted, "position": positions[0]}
