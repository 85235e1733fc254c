"""Named students: plain functions that give a full-size StudentConfig, and `resolve` for one that differs from it."""

from collections.abc import Callable, Mapping
from typing import Any

from fithubert.config.base import merge, validate
from fithubert.config.students import HeadsConfig, MaskingConfig, StudentConfig, TimeReductionConfig
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


def fithubert_lite() -> StudentConfig:
    """FitHuBERT with a front end of this project that is narrow at high rates: 21,063,360 downstream.

    HuBERT's own seven convolutions, widening from 64 to 512 channels: 29 % of the multiplications of the published
    front end at the same frame rate (which has 256 channels at 1.6 kHz and more pointwise layers).
    """
    widths = (64, 128, 192, 256, 256, 384, 512)
    layers = tuple((width, kernel, stride) for width, (_, kernel, stride) in zip(widths, HUBERT_FRONTEND, strict=True))
    return fithubert().model_copy(update={"conv_layers": layers})


def fithubert_mel() -> StudentConfig:
    """FitHuBERT behind log-mel filter banks instead of convolutions (of this project): 18,554,432 downstream.

    39 % of FitHuBERT's multiplications on 10 s (566 M a second of audio), 7.6 % of HuBERT Base's. 80 bands, two windows
    of 25 ms to each frame of the teacher. A linear map takes two frames at once to 25 Hz, where positions are added
    over the same time as in FitHuBERT; layers and heads are FitHuBERT's.
    """
    return fithubert().model_copy(
        update={
            "frontend": "mel",
            "conv_layers": (),
            "feature_norm": False,  # the bands are normalised, and the energy of a frame is information
            "pos_conv_kernel": 64,
            "time_reduction": TimeReductionConfig(kind="stack"),
        }
    )


def fithubert_late() -> StudentConfig:
    """FitHuBERT behind filter banks with a late time reduction (of this project): 21,610,752 downstream.

    61 % of FitHuBERT's multiplications. The teacher's frame rate up to layer 5, where voices are best heard, narrow
    attention and wide feed-forward maps. Heads on all layers train; three are read (experiments/LOG.md).
    """
    return fithubert_mel().model_copy(
        update={
            "ffn_width": 1104,
            "attention_heads": 4,
            "head_width": 48,
            "pos_conv_kernel": 128,
            "time_reduction": TimeReductionConfig(kind="conv1d", before_layer=5),
            "heads": HeadsConfig(layer_map=_identity(12), read=(5, 11, 12)),
            "readout": "projections",
        }
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


def half_width() -> StudentConfig:
    """The 12-layer half-width student (Ashihara et al. 2022, 12-L Half-L2L): 26,872,960 parameters.

    HuBERT Base with its transformer half as wide; a linear head on every layer in training. The count fixes the sizes
    but not the number of attention heads, which is the teacher's here.
    """
    return StudentConfig(
        conv_layers=HUBERT_FRONTEND,
        width=384,
        depth=12,
        ffn_width=1536,
        attention_heads=12,
        time_reduction=TimeReductionConfig(kind="none"),
        heads=HeadsConfig(layer_map=_identity(12)),
        readout="layers",
    )


def armhubert() -> StudentConfig:
    """ARMHuBERT (Jang et al. 2023; sungnyun/ARMHuBERT conf/armhubert): 26,447,968 with its heads (26.45M).

    Every second layer attends with the map of the one before it; frames are masked in training; all heads are read.
    Trained with mse and `masked_teacher`: masked frames learn from the teacher of the whole speech, the others from the
    teacher of the masked speech. `second_softmax` is the public code's habit; the paper reuses the map as it is.
    """
    return _recycled(480, 864)


def armhubert_s() -> StudentConfig:
    """ARMHuBERT-S (as `armhubert`, armhubert-s-960.yaml): 22,393,648 with its heads, the published 22.39M."""
    return _recycled(432, 816)


def maskhubert() -> StudentConfig:
    """MaskHuBERT (as `armhubert`, conf/maskhubert): own attention maps; 26,635,360 with its heads (26.64M)."""
    changes = {"reuse_attention": (), "second_softmax": False, "balance_gradients": False}
    return _recycled(480, 640).model_copy(update=changes)


def starhubert() -> StudentConfig:
    """STaRHuBERT (Jang et al. 2024): 22,308,592 parameters, the published 22.31M.

    No heads: temporal Gram matrices of the layers are compared. Its configuration is not published; the sizes are
    those of ARMHuBERT-S with the feed-forward width that gives the published parameters.
    """
    return _temporal_relation(976)


def starhubert_l() -> StudentConfig:
    """STaRHuBERT-L (as `starhubert`): 26,626,672 parameters, the published 26.63M.

    Of the sizes that give this count, those whose multiplications exceed STaRHuBERT's by the published 48.4 G.
    """
    return _temporal_relation(1392)


def _recycled(width: int, ffn_width: int) -> StudentConfig:
    return StudentConfig(
        conv_layers=_thin_frontend(width),
        width=width,
        depth=12,
        ffn_width=ffn_width,
        attention_heads=12,
        reuse_attention=(1, 3, 5, 7, 9, 11),
        second_softmax=True,
        masking=MaskingConfig(),
        balance_gradients=True,
        time_reduction=TimeReductionConfig(kind="none"),
        heads=HeadsConfig(layer_map=_identity(12)),
        readout="projections",
    )


def _temporal_relation(ffn_width: int) -> StudentConfig:
    return StudentConfig(
        conv_layers=_thin_frontend(432),
        width=432,
        depth=12,
        ffn_width=ffn_width,
        attention_heads=12,
        time_reduction=TimeReductionConfig(kind="none"),
        heads=HeadsConfig(kind="none", layer_map=((0, 0), *_identity(12))),
        readout="layers",
    )


HUBERT_FRONTEND = ((512, 10, 5), *[(512, 3, 2)] * 4, *[(512, 2, 2)] * 2)

#: Every recipe by its name.
RECIPES: dict[str, Callable[[], StudentConfig]] = {
    "fithubert": fithubert,
    "fithubert_lite": fithubert_lite,
    "fithubert_mel": fithubert_mel,
    "fithubert_late": fithubert_late,
    "distilhubert": distilhubert,
    "half_width": half_width,
    "armhubert": armhubert,
    "armhubert_s": armhubert_s,
    "maskhubert": maskhubert,
    "starhubert": starhubert,
    "starhubert_l": starhubert_l,
}


def resolve(recipe: str, shape: Mapping[str, Any] | None = None) -> StudentConfig:
    """The recipe's shape with `shape`'s fields instead of its own, nested sections merged key by key.

    What is not overridden follows an overridden depth: the layer map layer by layer, or from the last layer for shared
    heads; the heads that are read and the place of the time reduction as far as there are layers. Raises UserError with
    the names of all recipes for an unknown one, and naming a wrong field.
    """
    if recipe not in RECIPES:
        raise UserError(f"recipe {recipe!r}: not one of {', '.join(sorted(RECIPES))}")
    changes = dict(shape or {})
    values = merge(RECIPES[recipe]().model_dump(), changes)
    if isinstance(changes.get("depth"), int) and isinstance(changes.get("heads", {}), Mapping):
        _follow_depth(values, changes)
    return validate(StudentConfig, values, f"recipe {recipe}")


def _follow_depth(values: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Adapt to the depth in `values`, a whole shape, what `changes` leave to the recipe."""
    depth, heads, own_heads = values["depth"], values["heads"], changes.get("heads", {})
    if "layer_map" not in own_heads and heads["kind"] == "shared":
        heads["layer_map"] = tuple((depth, teacher_layer) for _, teacher_layer in heads["layer_map"])
    elif "layer_map" not in own_heads:
        first = min(layer for layer, _ in heads["layer_map"])
        heads["layer_map"] = tuple((layer, layer) for layer in range(first, depth + 1))
        # Of the recipe's heads that are read, those that are left; the last one of a student that has none of them.
        if heads["read"] and "read" not in own_heads:
            heads["read"] = tuple(layer for layer in heads["read"] if first <= layer <= depth) or (depth,)
    own_reduction = changes.get("time_reduction", {})
    if isinstance(own_reduction, Mapping) and "before_layer" not in own_reduction:
        reduction = values["time_reduction"]
        reduction["before_layer"] = min(reduction["before_layer"], max(0, depth - 1))
    if "reuse_attention" not in changes:
        values["reuse_attention"] = tuple(layer for layer in values["reuse_attention"] if layer < depth)


def _thin_frontend(width: int) -> tuple[tuple[int, int, int], ...]:
    """FitHuBERT's front end: thinner than HuBERT's, with two pointwise layers at changes of width."""
    return ((128, 10, 5), (256, 1, 1), *[(256, 3, 2)] * 4, (width, 1, 1), *[(width, 2, 2)] * 2)


def _identity(depth: int) -> tuple[tuple[int, int], ...]:
    return tuple((layer, layer) for layer in range(1, depth + 1))
