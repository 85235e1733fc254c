"""Teachers from torchaudio's pipelines: HUBERT_BASE, WAV2VEC2_LARGE, WAVLM_BASE_PLUS and the others."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torchaudio
from torch import Tensor

from fithubert.config.base import validate
from fithubert.config.teacher import HubertConfig
from fithubert.downloads import download
from fithubert.errors import UserError
from fithubert.importers.names import Layout, build_teacher, encoder_modules
from fithubert.importers.torch_files import read_torch_file
from fithubert.models.hubert import HubertTeacher

LAYOUT = Layout(
    (
        ("feature_extractor.conv_layers.{}.conv", "frontend.layers.{}.conv"),
        ("feature_extractor.conv_layers.{}.layer_norm", "frontend.layers.{}.norm"),
        ("encoder.feature_projection.layer_norm", "feature_norm"),
        ("encoder.feature_projection.projection", "projection"),
        ("encoder.transformer.pos_conv_embed.conv", "positional.conv"),
        ("encoder.transformer.layer_norm", "encoder_norm"),
        ("encoder.transformer.layers.0.attention.rel_attn_embed", "relative.embedding"),
        *encoder_modules(
            "attention",
            "layer_norm",
            "feed_forward.intermediate_dense",
            "feed_forward.output_dense",
            "encoder.transformer.layers",
        ),
    ),
    mask_embedding="mask_generator.mask_embedding",
    ignored=("aux.", "logit_generator."),
)
_HOME = "https://download.pytorch.org/torchaudio/models/"


def read_torchaudio(name: str) -> HubertTeacher:
    """The teacher in torchaudio's pipeline `name`; missing weights are downloaded to torch's hub folder.

    Shape and normalisation are those of the pipeline. Raises UserError with the names there are, with what to
    download by hand, or naming the tensor that is wrong.
    """
    bundles = _bundles()
    if name not in bundles:
        raise UserError(f"torchaudio:{name}: no such pipeline; there are {', '.join(sorted(bundles))}")
    bundle = bundles[name]
    # torchaudio has no public way to a pipeline's shape but to download and build it.
    path = _fetch(name, bundle._path)
    config = validate(HubertConfig, _settings(bundle), f"torchaudio:{name}")
    return build_teacher(config, _split_projections(read_torch_file(path)), LAYOUT, name, str(path))


def _bundles() -> dict[str, Any]:
    found = {name: getattr(torchaudio.pipelines, name) for name in torchaudio.pipelines.__all__}
    return {name: bundle for name, bundle in found.items() if isinstance(bundle, torchaudio.pipelines.Wav2Vec2Bundle)}


def _settings(bundle: Any) -> dict[str, Any]:
    params = bundle._params
    return {
        "conv_layers": tuple(params["extractor_conv_layer_config"]),
        "conv_norm": params["extractor_mode"].removesuffix("_norm"),
        "conv_bias": params["extractor_conv_bias"],
        "width": params["encoder_embed_dim"],
        "depth": params["encoder_num_layers"],
        "ffn_width": params["encoder_ff_interm_features"],
        "attention_heads": params["encoder_num_heads"],
        "norm_first": params["encoder_layer_norm_first"],
        "pos_conv_kernel": params["encoder_pos_conv_kernel"],
        "pos_conv_groups": params["encoder_pos_conv_groups"],
        "relative_buckets": params.get("encoder_num_buckets"),
        "relative_max_distance": params.get("encoder_max_distance", 800),
        "normalise_waveform": bundle._normalize_waveform,
    }


def _split_projections(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` with WavLM's joint projection of queries, keys and values as three."""
    split: dict[str, Tensor] = {}
    for name, tensor in state.items():
        joint, inner, end = name.partition(".attention.attention.")
        if inner and end.startswith("in_proj_"):
            for part, values in zip("qkv", tensor.chunk(3), strict=True):
                split[f"{joint}.attention.{part}_proj.{end.removeprefix('in_proj_')}"] = values
        else:
            split[name.replace(".attention.attention.", ".attention.") if inner else name] = tensor
    return split


def _fetch(name: str, location: str) -> Path:
    """The file of weights, in the folder of torch.hub."""
    url = location if location.startswith("https://") else _HOME + location
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if not path.exists():
        try:
            download(url, path)
        except UserError as error:
            raise UserError(f"torchaudio:{name}: {error}; or download it by hand to {path}") from None
    return path
