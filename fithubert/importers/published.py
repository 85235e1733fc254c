"""Import of the authors' checkpoints: FitHuBERT and FitW2V2 (Lightning .ckpt + .yaml), s3prl's DistilHuBERT.

Nothing of a checkpoint runs: it is read with torch's weights-only loading, and its configuration strings are parsed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fithubert.config.base import read_yaml, validate
from fithubert.config.students import StudentConfig
from fithubert.errors import UserError
from fithubert.importers.torch_files import parse_list, read_torch_file
from fithubert.models.canonical import fill_model, prepare_for_inference
from fithubert.models.student import Student

#: fairseq's names, and ours, inside a transformer layer.
_LAYER_NAMES = {
    "self_attn.q_proj": "attention.query",
    "self_attn.k_proj": "attention.key",
    "self_attn.v_proj": "attention.value",
    "self_attn.out_proj": "attention.out",
    "self_attn_layer_norm": "attention_norm",
    "fc1": "ffn_in",
    "fc2": "ffn_out",
    "final_layer_norm": "ffn_norm",
}
_NAMES = {"layer_norm": "feature_norm", "post_extract_proj": "projection", "encoder.layer_norm": "encoder_norm"}
#: Options that change the model and that no published checkpoint uses, with the only value that is understood.
_UNDERSTOOD = {"layer_type": "transformer", "n_mels": 0, "pos_conv_depth": 1, "crop_seq_to_multiple": 1}


def import_published(checkpoint: Path | str, config: Path | str | None = None) -> Student:
    """The student in a checkpoint that FitHuBERT's or DistilHuBERT's authors publish, ready for inference.

    FitHuBERT's Lightning checkpoint needs `config`, its .yaml; DistilHuBERT's holds its own. The last frame of odd
    lengths is dropped if the authors' code does (`drop_last_frame`). Raises UserError naming the file where it is
    neither, holds pickled objects, or uses an option that no published model does.
    """
    path = Path(checkpoint)
    values = read_torch_file(path)
    if isinstance(values.get("Distiller"), Mapping) and isinstance(values.get("Config"), Mapping):
        settings, state = _section(values["Config"], "distiller", f"{path}: Config"), dict(values["Distiller"])
        student = validate(StudentConfig, _distilhubert_config(settings, str(path)), str(path))
    elif isinstance(values.get("state_dict"), Mapping):
        if config is None:
            raise UserError(f"{path}: a Lightning checkpoint; name the .yaml published beside it as well")
        settings = _section(read_yaml(Path(config)), "distiller", str(config))
        prefix = "student_model."
        state = {name[len(prefix) :]: v for name, v in values["state_dict"].items() if name.startswith(prefix)}
        student = validate(StudentConfig, _fithubert_config(settings, str(config)), str(config))
    else:
        raise UserError(
            f"{path}: neither a FitHuBERT checkpoint (state_dict) nor a DistilHuBERT one (Distiller, Config)"
        )
    model = prepare_for_inference(Student(student))
    fill_model(model, _rename(state, student), str(path))
    return model


def _fithubert_config(settings: Mapping[str, Any], source: str) -> dict[str, Any]:
    """StudentConfig values for the `distiller` section of FitHuBERT's yaml."""
    get = _reader(settings, source)
    for option, value in _UNDERSTOOD.items():
        if get(option, value) != value:
            raise UserError(f"{source}: {option} {get(option, value)!r} is not understood, only {value!r}")
    depth, width = int(get("encoder_layers", 12)), int(get("encoder_embed_dim", 768))
    kind = str(get("tr_layer_type", "fc1")) if get("enable_tr_layer", True) else "none"
    before = int(get("tr_layer_index", 1)) if kind != "none" else 0
    # heads below the time reduction upsample in the authors' code what was never reduced: they cannot be trained
    first_head = before + 1 if before > 0 else 1
    if get("layerwise_proj", False):
        pairs, heads_kind = tuple((layer, layer) for layer in range(first_head, depth + 1)), "per_layer"
    else:
        ids = parse_list(get("pred_layer_id", "[3, 7, 11]"), f"{source}: pred_layer_id")
        pairs, heads_kind = tuple((depth, int(index) + 1) for index in ids), "shared"
    values = _common_config(get, source, str(get("conv_feature_layers", _HUBERT_LAYERS)))
    values["time_reduction"] = {
        "kind": kind,
        "factor": int(get("tr_reduce_factor", 2)),
        "before_layer": before,
        "drop_last_frame": kind == "conv1d",
    }
    values["heads"] = {
        "kind": heads_kind,
        "layer_map": pairs,
        "teacher_width": int(get("pred_head_final_dim", 768)),
        "hidden_width": int(get("pred_head_inter_dim", 0)) or width,
    }
    return {**values, "feature_norm": True, "input_dropout": float(get("dropout_input", 0.0)), "readout": "last"}


def _distilhubert_config(settings: Mapping[str, Any], source: str) -> dict[str, Any]:
    """StudentConfig values for the `distiller` section of a DistilHuBERT checkpoint's own `Config`."""
    get = _reader(settings, source)
    if get("out_layer_type", "expand-last") != "expand-last" or get("attention_type", "original") != "original":
        raise UserError(f"{source}: only out_layer_type expand-last and attention_type original are understood")
    values = _common_config(get, source, str(get("extractor_conv_feature_layers", _HUBERT_LAYERS)))
    layers = tuple(int(layer) for layer in get("pred_layer_id", (4, 8, 12)))
    values["heads"] = {
        "kind": "shared",
        "layer_map": tuple((values["depth"], layer) for layer in layers),
        "teacher_width": int(get("final_dim", 768)),
        "hidden_width": max(int(get("out_layer_inter_dim", -1)), 0) or values["width"],
    }
    values["time_reduction"] = {"kind": "none"}
    return {**values, "feature_norm": False, "input_dropout": 0.0, "readout": "layers"}


_HUBERT_LAYERS = "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512, 2, 2)] * 2"


def _common_config(get: Any, source: str, conv_layers: str) -> dict[str, Any]:
    mode = get("extractor_mode", "default")
    if mode not in ("default", "layer_norm"):
        raise UserError(f"{source}: extractor_mode {mode!r} is not default or layer_norm")
    return {
        "conv_layers": tuple(parse_list(conv_layers, f"{source}: conv_feature_layers")),
        "conv_norm": "group" if mode == "default" else "layer",
        "conv_bias": bool(get("conv_bias", False)),
        "width": int(get("encoder_embed_dim", 768)),
        "depth": int(get("encoder_layers", 12)),
        "ffn_width": int(get("encoder_ffn_embed_dim", 3072)),
        "attention_heads": int(get("encoder_attention_heads", 12)),
        "layer_norm_first": bool(get("layer_norm_first", False)),
        "pos_conv_kernel": int(get("conv_pos", 128)),
        "pos_conv_groups": int(get("conv_pos_groups", 16)),
        "dropout": float(get("dropout", 0.1)),
        "attention_dropout": float(get("attention_dropout", 0.1)),
        "activation_dropout": float(get("activation_dropout", 0.1)),
        "frontend_gradient": float(get("feature_grad_mult", 1.0)),
    }


def _rename(state: Mapping[str, Tensor], config: StudentConfig) -> dict[str, Tensor]:
    """The authors' tensors by our names and in our layouts; unknown ones keep theirs, for errors."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        module, _, last = name.rpartition(".")
        parts = name.split(".")
        if name.startswith("feature_extractor.conv_layers."):
            renamed[f"frontend.layers.{parts[2]}.{'conv' if parts[3] == '0' else 'norm'}.{last}"] = tensor
        elif module in _NAMES:
            renamed[f"{_NAMES[module]}.{last}"] = tensor
        elif name == "encoder.pos_conv.0.bias":
            renamed["positional.conv.bias"] = tensor
        elif name == "encoder.pos_conv.0.weight_v":
            gain = state["encoder.pos_conv.0.weight_g"]
            renamed["positional.conv.weight"] = torch._weight_norm(tensor, gain, 2)
        elif name.startswith("encoder.layers."):
            renamed.update(_rename_layer(int(parts[2]), ".".join(parts[3:-1]), last, tensor, config))
        elif parts[0] in ("proj_head", "output_layer", "upsampler"):
            renamed.update(_rename_head(parts, tensor, config))
        elif name != "encoder.pos_conv.0.weight_g":
            renamed[name] = tensor
    if config.heads.kind == "per_layer" and config.width == config.heads.teacher_width:
        for index in range(len(config.heads.layer_map)):  # the authors' heads have no projection then
            renamed.setdefault(f"heads.{index}.projection.weight", torch.eye(config.width))
            renamed.setdefault(f"heads.{index}.projection.bias", torch.zeros(config.width))
    return renamed


def _rename_layer(index: int, inner: str, last: str, tensor: Tensor, config: StudentConfig) -> dict[str, Tensor]:
    """A tensor of the encoder's layer list, in which the authors' time reduction takes a place of its own."""
    reduction = config.time_reduction
    if reduction.kind != "none" and index == reduction.before_layer and not inner:
        if tensor.ndim == 3:  # a convolution's (out, in, kernel)
            tensor = tensor.flatten(1)
        elif tensor.ndim == 2:  # fc1 puts whole frames side by side
            tensor = tensor.unflatten(1, (reduction.factor, -1)).transpose(1, 2).flatten(1)
        return {f"time_reduction.linear.{last}": tensor}
    if reduction.kind != "none" and index > reduction.before_layer:
        index -= 1
    return {f"layers.{index}.{_LAYER_NAMES.get(inner, inner)}.{last}": tensor}


def _rename_head(parts: list[str], tensor: Tensor, config: StudentConfig) -> dict[str, Tensor]:
    """A tensor of the heads; the model-level upsampler serves shared heads and is never used with a head per layer."""
    last, shared = parts[-1], config.heads.kind == "shared"
    if parts[0] == "upsampler":
        return {f"heads.upsampling.{last}": _upsampling(tensor)} if shared else {}
    if shared:
        if parts[1] == "0":
            return {f"heads.hidden.{last}": tensor}
        if parts[2] == "layer":
            return {f"heads.{last}": tensor[None]}
        return {f"heads.{last}": tensor.transpose(1, 2) if last == "weight" else tensor.flatten(0, 2)}
    index = int(parts[1]) - (config.depth - len(config.heads.layer_map))
    if index < 0:
        return {}
    if parts[2] == "upsampler":
        return {f"heads.{index}.upsampling.{last}": _upsampling(tensor)}
    return {f"heads.{index}.projection.{last}": tensor}


def _upsampling(tensor: Tensor) -> Tensor:
    """A transposed convolution's (in, out, kernel) as our (kernel, out, in); a bias as it is."""
    return tensor.permute(2, 1, 0) if tensor.ndim == 3 else tensor


def _section(values: Mapping[str, Any], name: str, source: str) -> Mapping[str, Any]:
    section = values.get(name)
    if not isinstance(section, Mapping):
        raise UserError(f"{source}: has no section {name!r}")
    return section


def _reader(settings: Mapping[str, Any], source: str) -> Any:
    def get(option: str, default: Any) -> Any:
        value = settings.get(option, default)
        if isinstance(default, int | float) and not isinstance(value, int | float):
            raise UserError(f"{source}: {option} {value!r} is not a number")
        return value

    return get
