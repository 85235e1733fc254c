"""Named students: plain functions that give a full-size StudentConfig, and `resolve` for one that differs from it."""

from collections.abc import Callable, Mapping
from typing import Any

from fithubert.config.base import validate
from fithubert.config.student import HeadsConfig, StudentConfig, TimeReductionConfig
from fithubert.errors import UserError


def fithubert() -> StudentConfig:
    """FitHuBERT (Lee et al. 2022; glory20h/FitHuBERT data/conf/fithubert.yaml): 22,030,784 parameters downstream.

    As deep as HuBERT Base, 480 wide, time reduction by 2 before the first layer, a head on every layer. The published
    22.49M also counts an upsampler that is never used. Trained with mse, last head 1.0, the others 0.1 each.
    """
    return StudentConfig(
        conv_layers=_thin_frontend(512),
        width=480,
        depth=12,
        ffn_width=480,
        attention_heads=12,
        heads=HeadsConfig(layer_map=_identity(12)),
    )


def distilhubert() -> StudentConfig:
    """DistilHuBERT (Chang et al. 2022; s3prl upstream/distiller): 23,491,200 parameters downstream (23.49M).

    HuBERT Base's front end and two layers, started from the teacher's, without the layer norm behind the front end;
    three predictions from the last layer. Trained with the mean over them of l1 + cosine.
    """
    return StudentConfig(
        conv_layers=HUBERT_FRONTEND,
        feature_norm=False,
        width=768,
        depth=2,
        ffn_width=3072,
        attention_heads=12,
        frontend_gradient=0.1,
        input_dropout=0.0,
        time_reduction=TimeReductionConfig(kind="none"),
        heads=HeadsConfig(kind="shared", layer_map=((2, 4), (2, 8), (2, 12))),
        readout="layers",
    )


HUBERT_FRONTEND = ((512, 10, 5), *[(512, 3, 2)] * 4, *[(512, 2, 2)] * 2)

#: Every recipe by its name.
RECIPES: dict[str, Callable[[], StudentConfig]] = {
    "fithubert": fithubert,
    "distilhubert": distilhubert,
}


def resolve(recipe: str, shape: Mapping[str, Any] | None = None) -> StudentConfig:
    """The recipe's shape with `shape`'s fields in place of its own, nested sections merged key by key.

    A layer map that is not overridden follows an overridden depth: layer by layer, or from the last layer for shared
    heads. Raises UserError naming the recipes where there is none such, and the field where one is wrong.
    """
    if recipe not in RECIPES:
        raise UserError(f"recipe {recipe!r}: not one of {', '.join(sorted(RECIPES))}")
    values, changes = RECIPES[recipe]().model_dump(), dict(shape or {})
    for key, value in changes.items():
        values[key] = (
            {**values[key], **value} if isinstance(value, Mapping) and isinstance(values.get(key), dict) else value
        )
    heads, depth = values["heads"], values["depth"]
    if "depth" in changes and "layer_map" not in changes.get("heads", {}) and isinstance(depth, int):
        if heads["kind"] == "shared":
            heads["layer_map"] = tuple((depth, teacher_layer) for _, teacher_layer in heads["layer_map"])
        else:
            del heads["layer_map"]
    return validate(StudentConfig, values, f"recipe {recipe}")


def _thin_frontend(width: int) -> tuple[tuple[int, int, int], ...]:
    """FitHuBERT's front end: thinner than HuBERT's, with two pointwise layers where the width changes."""
    return ((128, 10, 5), (256, 1, 1), *[(256, 3, 2)] * 4, (width, 1, 1), *[(width, 2, 2)] * 2)


def _identity(depth: int) -> tuple[tuple[int, int], ...]:
    return tuple((layer, layer) for layer in range(1, depth + 1))
