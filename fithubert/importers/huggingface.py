"""Teachers from Hugging Face: a directory that transformers wrote, or a repository of the hub, without transformers."""

from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

from torch import Tensor

from fithubert.config.base import validate
from fithubert.config.teacher import HubertConfig
from fithubert.errors import UserError
from fithubert.files import read_json
from fithubert.frames import SAMPLE_RATE_HZ
from fithubert.importers.names import Layout, build_teacher, check_understood, encoder_modules, without_prefix
from fithubert.importers.torch_files import read_torch_file
from fithubert.models.hubert import HubertTeacher
from fithubert.tensors import read_tensors

#: `model_type` of a family -> the module that holds the model in a model with a head.
FAMILIES = {"hubert": "hubert.", "wav2vec2": "wav2vec2.", "wavlm": "wavlm.", "data2vec-audio": "data2vec_audio."}
LAYOUT = Layout(
    (
        ("feature_extractor.conv_layers.{}.conv", "frontend.layers.{}.conv"),
        ("feature_extractor.conv_layers.{}.layer_norm", "frontend.layers.{}.norm"),
        ("feature_projection.layer_norm", "feature_norm"),
        ("feature_projection.projection", "projection"),
        ("encoder.pos_conv_embed.conv", "positional.conv"),
        ("encoder.pos_conv_embed.layers.{}.conv", "positional.convs.{}"),
        ("encoder.pos_conv_embed", "positional"),
        ("encoder.layer_norm", "encoder_norm"),
        ("encoder.layers.0.attention.rel_attn_embed", "relative.embedding"),
        *encoder_modules("attention", "layer_norm", "feed_forward.intermediate_dense", "feed_forward.output_dense"),
    ),
    mask_embedding="masked_spec_embed",
    ignored=("lm_head.", "quantizer.", "project_q.", "project_hid.", "adapter."),
)
#: Options that change the hidden states, with the only value that is understood.
_UNDERSTOOD = {
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "layer_norm_eps": 1e-5,
    "adapter_attn_dim": None,
}
#: `Wav2Vec2FeatureExtractor.zero_mean_unit_var_norm` of transformers.
_WAVEFORM_EPSILON = 1e-7
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_PATTERNS = ["*config.json", *_WEIGHTS, *(f"{name}.index.json" for name in _WEIGHTS), "model-*", "pytorch_model-*"]


def read_huggingface(place: str) -> HubertTeacher:
    """The teacher in directory `place`, or in the hub's repository of that name (`owner/name[@revision]`).

    Families: HuBERT, wav2vec 2.0, WavLM, data2vec-audio; a head on top is left out, but the projection of ContentVec's
    `HubertModelWithFinalProj` (`final_proj`) is kept. Waveforms are normalised if
    the directory's own feature extractor says so. Raises UserError naming the file, option or tensor that is wrong.
    """
    directory = Path(place) if Path(place).is_dir() else _download(place)
    source = str(directory / "config.json")
    values = read_json(directory / "config.json")
    family = values.get("model_type") if isinstance(values, dict) else None
    if family not in FAMILIES:
        raise UserError(f"{source}: model_type {family!r} is not one of {', '.join(FAMILIES)}")
    settings = _model_settings(values, source)
    if _normalises(directory):
        settings |= {"normalise_waveform": True, "waveform_epsilon": _WAVEFORM_EPSILON}
    config = validate(HubertConfig, settings, source)
    path, state = _read_weights(directory)
    state = without_prefix(state, [FAMILIES[family]])
    name = place.rstrip("/").rsplit("/", 1)[-1] or place
    return build_teacher(config, state, LAYOUT, name, str(path))


def _model_settings(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Fields of HubertConfig from a transformers configuration; what it leaves out has transformers' default."""
    check_understood(values, _UNDERSTOOD, source)
    data2vec = values["model_type"] == "data2vec-audio"
    try:
        convolutions = tuple(zip(values["conv_dim"], values["conv_kernel"], values["conv_stride"], strict=True))
        settings = {
            "conv_layers": convolutions,
            "conv_norm": "layer" if data2vec else values["feat_extract_norm"],
            "conv_bias": values["conv_bias"],
            "width": values["hidden_size"],
            "depth": values["num_hidden_layers"],
            "ffn_width": values["intermediate_size"],
            "attention_heads": values["num_attention_heads"],
            "norm_first": values.get("do_stable_layer_norm", False),
            "pos_conv_kernel": values["conv_pos_kernel_size" if data2vec else "num_conv_pos_embeddings"],
            "pos_conv_groups": values["num_conv_pos_embedding_groups"],
            "pos_conv_depth": values["num_conv_pos_embeddings"] if data2vec else 1,
            "pos_conv_batch_norm": values.get("conv_pos_batch_norm", False),
            "feature_norm": values.get("feat_proj_layer_norm", True),
        }
        if values["model_type"] == "wavlm":
            settings |= {
                "relative_buckets": values["num_buckets"],
                "relative_max_distance": values["max_bucket_distance"],
            }
    except KeyError as error:
        raise UserError(f"{source}: option {error.args[0]} is missing") from None
    except (TypeError, ValueError):
        raise UserError(f"{source}: conv_dim, conv_kernel and conv_stride must be lists of one length") from None
    return settings


def _normalises(directory: Path) -> bool:
    """Whether the feature extractor saved with the model normalises waveforms; never guessed."""
    for name, section in (("preprocessor_config.json", None), ("processor_config.json", "feature_extractor")):
        if (directory / name).exists():
            values = read_json(directory / name)
            values = values.get(section) if section and isinstance(values, dict) else values
            rate = values.get("sampling_rate", SAMPLE_RATE_HZ) if isinstance(values, dict) else SAMPLE_RATE_HZ
            if rate != SAMPLE_RATE_HZ:
                raise UserError(
                    f"{directory / name}: sampling_rate {rate!r}; only models of {SAMPLE_RATE_HZ} Hz are supported"
                )
            if isinstance(values, dict) and isinstance(values.get("do_normalize"), bool):
                return values["do_normalize"]
    raise UserError(
        f"{directory / 'preprocessor_config.json'}: no such file, or it has no do_normalize, so it is unknown whether "
        'this model wants normalised waveforms; write {"do_normalize": false} (HuBERT Base) or true (Large) to it'
    )


def _read_weights(directory: Path) -> tuple[Path, dict[str, Tensor]]:
    """The file that holds the weights, or lists those that do, and all tensors by name."""
    for name in _WEIGHTS:
        if (directory / name).exists():
            return directory / name, _read_tensors(directory / name)
        index = directory / f"{name}.index.json"
        if index.exists():
            shards = sorted(set(read_json(index).get("weight_map", {}).values()))
            if any(Path(shard).name != shard for shard in shards):
                raise UserError(f"{index}: names files outside its directory")
            tensors = [_read_tensors(directory / shard) for shard in shards]
            return index, {name: tensor for shard in tensors for name, tensor in shard.items()}
    raise UserError(f"{directory}: holds neither {' nor '.join(_WEIGHTS)}")


def _read_tensors(path: Path) -> dict[str, Tensor]:
    return read_tensors(path) if path.suffix == ".safetensors" else read_torch_file(path)


def _download(place: str) -> Path:
    """A snapshot of the hub's repository in its cache; huggingface_hub shows progress, resumes and verifies."""
    name, _, revision = place.partition("@")
    by_hand = (
        f"download config.json, preprocessor_config.json and {' or '.join(_WEIGHTS)} from "
        f"https://huggingface.co/{name} by hand into a folder and give hf:/path/to/folder"
    )
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise UserError(f"hf:{place}: no such directory, and not a repository of the hub (owner/name)")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UserError(f"hf:{place}: needs pip install 'fithubert[hub]'; or {by_hand}") from None
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=_PATTERNS))
    except (
        Exception
    ) as error:  # the hub's client and its transport raise many kinds: offline, unknown, gated, full disk
        reason = shorten(str(error), 120, placeholder=" ...")
        raise UserError(f"hf:{place}: cannot be downloaded ({reason}); {by_hand}") from None
