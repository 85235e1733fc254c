"""Teachers from the authors' own checkpoints: fairseq's .pt, s3prl's conversions, WavLM's from unilm, ContentVec's."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from fithubert.config.base import validate
from fithubert.config.teacher import HubertConfig
from fithubert.errors import UserError
from fithubert.importers.names import Layout, build_teacher, check_understood, encoder_modules, without_prefix
from fithubert.importers.torch_files import as_plain_data, parse_list, read_torch_file
from fithubert.models.hubert import HubertTeacher

LAYOUT = Layout(
    (
        ("feature_extractor.conv_layers.{}.0", "frontend.layers.{}.conv"),
        # Group norm stands bare in its place, layer norm between two transpositions.
        ("feature_extractor.conv_layers.{}.2", "frontend.layers.{}.norm"),
        ("feature_extractor.conv_layers.{}.2.1", "frontend.layers.{}.norm"),
        ("layer_norm", "feature_norm"),
        ("post_extract_proj", "projection"),
        ("encoder.pos_conv.0", "positional.conv"),
        # Behind a batch norm, which becomes a scale and a shift.
        ("encoder.pos_conv.1", "positional.conv"),
        ("encoder.pos_conv", "positional"),
        ("encoder.pos_conv.{}.0", "positional.convs.{}"),
        ("encoder.layer_norm", "encoder_norm"),
        ("encoder.layers.0.self_attn.relative_attention_bias", "relative.embedding"),
        *encoder_modules("self_attn", "self_attn_layer_norm", "fc1", "fc2"),
    ),
    mask_embedding="mask_emb",
    ignored=(
        "quantizer.",
        "input_quantizer.",
        "project_q.",
        "project_inp.",
        "label_embs_concat",
        "layer_proj.",
        "target_glu.",
        "_ema",
    ),
)
#: The name prefix of the model in a fine-tuned checkpoint.
_PREFIXES = ("w2v_encoder.w2v_model.", "w2v_model.")
_UNDERSTOOD = {"activation_fn": "gelu", "layer_type": "transformer", "gru_rel_pos": True}
_MODES = {"default": "group", "group_norm_masked": "group", "layer_norm": "layer"}


def read_fairseq(path: Path) -> HubertTeacher:
    """The teacher in a checkpoint of HuBERT's, wav2vec 2.0's, data2vec's or WavLM's authors, or s3prl's form of one.

    ContentVec's are read in both of their forms; RVC's hubert_base.pt is one. Nothing in the file runs; fine-tuned
    models come without their head. Shape and normalisation are those of the file's
    own configuration. Raises UserError naming the file and the option or tensor that is wrong.
    """
    values = read_torch_file(path)
    state = values.get("model", values.get("model_weight"))
    if not isinstance(state, Mapping):
        raise UserError(f"{path}: neither a fairseq checkpoint (cfg, model) nor s3prl's form of one (model_weight)")
    model, task = _configuration(values, str(path))
    config = validate(HubertConfig, _settings(model, task, str(path)), str(path))
    state = without_prefix(state, _PREFIXES)
    if model.get("encoder_layers_1"):
        state = _without_speaker_layers(state, config.depth)
    return build_teacher(config, state, LAYOUT, path.stem, str(path))


def _without_speaker_layers(state: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    """ContentVec's own form without the layers above the states, which know the speaker and serve pre-training only.

    Source: auspicious3000/contentvec, `TransformerEncoder_1`; its "legacy" files have no such layers.
    """

    def serves_states(name: str) -> bool:
        found = re.match(r"encoder\.layers\.(\d+)\.", name)
        return not name.startswith("encoder.cond_layer_norm.") and (found is None or int(found[1]) < depth)

    return {name: tensor for name, tensor in state.items() if serves_states(name)}


def _configuration(values: Mapping[str, Any], source: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of the pre-trained model and of its task, from any of the forms they come in."""
    if "model_cfg" in values:  # s3prl
        model, task = as_plain_data(values["model_cfg"]), as_plain_data(values.get("task_cfg"))
    else:
        cfg = as_plain_data(values.get("cfg")) or as_plain_data(values.get("args"))
        # Hydra's has sections; the older Namespace and unilm's are flat.
        cfg = cfg if isinstance(cfg, dict) else {}
        model, task = cfg.get("model", cfg), cfg.get("task", cfg)
    task = task if isinstance(task, dict) else {}
    for _ in range(2):  # a fine-tuned model keeps the configuration that it was pre-trained with
        inner = as_plain_data(model.get("w2v_args")) if isinstance(model, dict) else None
        model = inner.get("model", inner) if isinstance(inner, dict) else model
    if not isinstance(model, dict) or "encoder_layers" not in model:
        raise UserError(f"{source}: holds no configuration (cfg or args with encoder_layers)")
    return model, {**model, **task}


def _settings(model: Mapping[str, Any], task: Mapping[str, Any], source: str) -> dict[str, Any]:
    check_understood(model, _UNDERSTOOD, source)
    mode = model.get("extractor_mode")
    if mode not in _MODES:
        raise UserError(f"{source}: extractor_mode {mode!r} is not one of {', '.join(_MODES)}")
    if not isinstance(task.get("normalize"), bool):
        raise UserError(f"{source}: task.normalize is missing, so it is unknown whether waveforms are normalised")
    try:
        depth = int(model.get("pos_conv_depth", 1))
        settings = {
            "conv_layers": tuple(parse_list(model["conv_feature_layers"], f"{source}: conv_feature_layers")),
            "conv_norm": _MODES[mode],
            "conv_bias": bool(model.get("conv_bias", False)),
            "width": int(model["encoder_embed_dim"]),
            "depth": int(model["encoder_layers"]),
            "ffn_width": int(model["encoder_ffn_embed_dim"]),
            "attention_heads": int(model["encoder_attention_heads"]),
            "norm_first": bool(model.get("layer_norm_first", False)),
            "pos_conv_kernel": int(model["conv_pos"]) if depth == 1 else max(3, int(model["conv_pos"]) // depth),
            "pos_conv_groups": int(model["conv_pos_groups"]),
            "pos_conv_depth": depth,
            "pos_conv_batch_norm": bool(model.get("conv_pos_batch_norm", False)),
            "normalise_waveform": task["normalize"],
        }
        if model.get("relative_position_embedding"):
            settings["relative_buckets"] = int(model["num_buckets"])
            settings["relative_max_distance"] = int(model["max_distance"])
    except KeyError as error:
        raise UserError(f"{source}: option {error.args[0]} is missing from its configuration") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{source}: an option of its configuration is not a number ({error})") from None
    return settings
