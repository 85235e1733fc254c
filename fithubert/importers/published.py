"""Import of the authors' checkpoints: students of FitHuBERT's and ARMHuBERT's trainers, and s3prl's DistilHuBERT.

Nothing of a checkpoint runs: it is read with torch's weights-only loading, and its configuration strings are parsed.
Source: names, defaults and read-outs are those of glory20h/FitHuBERT (modules/, fithubert/expert.py), of
sungnyun/ARMHuBERT (models/armhubert, maskhubert, starhubert) and of s3prl (s3prl/upstream/distiller). Each student is
read out as its authors' `expert.py` does. Differs: padding never changes an utterance. In ARMHuBERT's code a padded
batch also mixes the reused maps of its utterances, so that only single utterances agree with it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fithubert.config.base import read_yaml, validate
from fithubert.config.students import StudentConfig
from fithubert.errors import UserError
from fithubert.importers.fairseq import LAYOUT
from fithubert.importers.names import check_understood, fold_weights
from fithubert.importers.torch_files import parse_list, read_torch_file
from fithubert.models.canonical import fill_model, prepare_for_inference
from fithubert.models.student import Student

#: The first part of the names of the heads' tensors. The last is of a loss on the front end.
_HEADS = ("proj_head", "final_proj", "output_layer", "upsampler", "cnn_proj_head")
#: Options that change the model and that no published checkpoint uses, with the only value that is understood.
_UNDERSTOOD = {
    "layer_type": "transformer",
    "n_mels": 0,
    "enable_log_mel": False,
    "pos_conv_depth": 1,
    "crop_seq_to_multiple": 1,
}
_DISTILHUBERT_UNDERSTOOD = {
    "out_layer_type": "expand-last",
    "task_emb_type": "expand-last",
    "attention_type": "original",
}
_HUBERT_LAYERS = "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512, 2, 2)] * 2"
_PREFIX = "student_model."


def import_published(checkpoint: Path | str, config: Path | str | None = None, readout: str | None = None) -> Student:
    """The student in a checkpoint as its authors' trainer writes it, ready for inference.

    A Lightning checkpoint (FitHuBERT, MaskHuBERT, ARMHuBERT, STaRHuBERT) needs `config`, its .yaml; DistilHuBERT's
    holds its own. `readout` replaces the authors' own (`StudentConfig.readout`). The last frame of odd lengths is
    dropped if the authors' code does (`drop_last_frame`). Raises UserError naming the file if it is none of them, holds
    pickled objects, or uses an option that is not understood.
    """
    path = Path(checkpoint)
    values = read_torch_file(path)
    if isinstance(values.get("Distiller"), Mapping) and isinstance(values.get("Config"), Mapping):
        settings, state = _section(values["Config"], "distiller", f"{path}: Config"), dict(values["Distiller"])
        found, source = _distilhubert_config(settings, str(path)), str(path)
    elif isinstance(values.get("state_dict"), Mapping):
        if config is None:
            raise UserError(f"{path}: a Lightning checkpoint; name the .yaml that its trainer wrote as well")
        settings = _section(read_yaml(Path(config)), "distiller", str(config))
        state = {name[len(_PREFIX) :]: v for name, v in values["state_dict"].items() if name.startswith(_PREFIX)}
        if not state:
            raise UserError(f"{path}: holds no student (no tensor {_PREFIX}*)")
        found, source = _lightning_config(settings, state, str(config)), str(config)
    else:
        raise UserError(
            f"{path}: neither a FitHuBERT checkpoint, or one of ARMHuBERT's trainer (state_dict), nor a "
            "DistilHuBERT one (Distiller, Config)"
        )
    student = validate(StudentConfig, found if readout is None else {**found, "readout": readout}, source)
    model = prepare_for_inference(Student(student))
    fill_model(model, _rename(state, student), str(path))
    return model


def _lightning_config(settings: Mapping[str, Any], state: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """StudentConfig values for the `distiller` section of a trainer's yaml; the tensors tell the families apart."""
    get = _reader(settings, source)
    check_understood(settings, _UNDERSTOOD, source)
    values = _common_config(get, source, str(get("conv_feature_layers", _HUBERT_LAYERS)))
    values |= {
        "input_dropout": float(get("dropout_input", 0.0)),
        "activation_dropout": float(get("activation_dropout", 0.0)),
        "balance_gradients": bool(get("layer_grad_scale", False)),
        "conv_bias": bool(get("conv_bias", False)),
        "masking": {} if "mask_emb" in state else None,
        "reuse_attention": _read_reused(get, values["depth"], source),
    }
    if "enable_tr_layer" not in settings and not any(name.startswith(("proj_head.", "upsampler.")) for name in state):
        identity = tuple((layer, layer) for layer in range(values["depth"] + 1))  # STaRHuBERT
        heads = {"kind": "none", "layer_map": identity}
        values |= {"heads": heads, "time_reduction": {"kind": "none"}, "readout": "outputs", "final_norm": "none"}
    else:
        values |= _reduction_and_heads(get, state, values, source)
    values["second_softmax"] = bool(values["reuse_attention"])
    return values


def _reduction_and_heads(
    get: Any, state: Mapping[str, Tensor], values: Mapping[str, Any], source: str
) -> dict[str, Any]:
    """The sections `time_reduction` and `heads`, and the read-out of the authors' expert."""
    depth, reused = values["depth"], bool(values["reuse_attention"])
    kind = str(get("tr_layer_type", "conv1d" if reused else "fc1")) if get("enable_tr_layer", True) else "none"
    before = 0
    reduction: dict[str, Any] = {"kind": kind}
    if kind != "none":
        before, factor = int(get("tr_layer_index", 0 if reused else 1)), int(get("tr_reduce_factor", 2))
        reduction |= {"factor": factor, "before_layer": before, "drop_last_frame": True}
        if kind == "fc2":
            raise UserError(f"{source}: tr_layer_type 'fc2' is not understood; its authors' code cannot run it either")
        if before >= depth:
            raise UserError(f"{source}: tr_layer_index {before} is no layer of 0 to {depth - 1}")
        multiple = get("required_seq_len_multiple", 2)
        if multiple not in (1, factor if factor == 2 else 1):
            raise UserError(
                f"{source}: required_seq_len_multiple {multiple} loses frames with this time reduction; only 1"
            )
    heads: dict[str, Any] = {"teacher_width": int(get("pred_head_final_dim", 768))}
    if get("layerwise_proj", False):
        # Heads below the time reduction upsample in the authors' code what was never reduced: they cannot be trained.
        first = before + 1 if before > 0 else 1
        if any(name.startswith("final_proj.") for name in state):  # Saved after the other heads were deleted.
            first = depth
        heads["layer_map"] = tuple((layer, layer) for layer in range(first, depth + 1))
        own = "last"
    else:
        ids = parse_list(get("pred_layer_id", "[3, 7, 11]"), f"{source}: pred_layer_id")
        heads |= {"kind": "shared", "layer_map": tuple((depth, int(index) + 1) for index in ids)}
        heads["hidden_width"] = int(get("pred_head_inter_dim", 0)) or values["width"]
        own = "encoder"
    readout = own if values["masking"] is None else "projections"
    # Heads of each layer read the outputs of the layers; shared ones read the encoder's output, which is normed.
    final_norm = "none" if readout == "projections" and own == "last" else "all"
    return {"time_reduction": reduction, "heads": heads, "readout": readout, "final_norm": final_norm}


def _read_reused(get: Any, depth: int, source: str) -> tuple[int, ...]:
    """The layers that have no attention map of their own, False in ARMHuBERT's `reuse_pattern`."""
    text = get("reuse_pattern", "[]")
    pattern = parse_list(text or "[]", f"{source}: reuse_pattern") or [True] * depth
    if len(pattern) != depth or not all(own is True or own is False for own in pattern):
        raise UserError(f"{source}: reuse_pattern {text!r} is not {depth} times True or False")
    return tuple(layer for layer, own in enumerate(pattern) if not own)


def _distilhubert_config(settings: Mapping[str, Any], source: str) -> dict[str, Any]:
    """StudentConfig values for the `distiller` section of a DistilHuBERT checkpoint's own `Config`."""
    get = _reader(settings, source)
    check_understood(settings, _DISTILHUBERT_UNDERSTOOD, source)
    values = _common_config(get, source, str(get("extractor_conv_feature_layers", _HUBERT_LAYERS)))
    values["depth"] = int(get("encoder_layers", 1))
    layers = tuple(int(layer) for layer in get("pred_layer_id", range(1, int(get("n_tasks", 12)) + 1)))
    values["heads"] = {
        "kind": "shared",
        "layer_map": tuple((values["depth"], layer) for layer in layers),
        "teacher_width": int(get("final_dim", 768)),
        "hidden_width": max(int(get("out_layer_inter_dim", -1)), 0) or values["width"],
    }
    values["time_reduction"] = {"kind": "none"}
    # s3prl's weighted sum needs states of one width.
    readout = "all" if values["heads"]["teacher_width"] == values["width"] else "layers"
    values |= {"feature_norm": False, "input_dropout": 0.0, "readout": readout, "final_norm": "heads"}
    return {**values, "activation_dropout": float(get("activation_dropout", 0.1))}


def _common_config(get: Any, source: str, conv_layers: str) -> dict[str, Any]:
    mode, activation = get("extractor_mode", "default"), str(get("activation_fn", "gelu"))
    if mode not in ("default", "layer_norm"):
        raise UserError(f"{source}: extractor_mode {mode!r} is not default or layer_norm")
    if activation not in ("gelu", "relu"):
        raise UserError(f"{source}: activation_fn {activation!r} is not gelu or relu")
    return {
        "conv_layers": tuple(parse_list(conv_layers, f"{source}: conv_feature_layers")),
        "conv_norm": "group" if mode == "default" else "layer",
        "width": int(get("encoder_embed_dim", 768)),
        "depth": int(get("encoder_layers", 12)),
        "ffn_width": int(get("encoder_ffn_embed_dim", 3072)),
        "attention_heads": int(get("encoder_attention_heads", 12)),
        "activation": activation,
        "layer_norm_first": bool(get("layer_norm_first", False)),
        "pos_conv_kernel": int(get("conv_pos", 128)),
        "pos_conv_groups": int(get("conv_pos_groups", 16)),
        "dropout": float(get("dropout", 0.1)),
        "attention_dropout": float(get("attention_dropout", 0.1)),
        "frontend_gradient": float(get("feature_grad_mult", 1.0)),
    }


def _rename(state: Mapping[str, Tensor], config: StudentConfig) -> dict[str, Tensor]:
    """The authors' tensors by our names and in our layouts; unknown ones keep theirs, for errors."""
    reduction = config.time_reduction
    renamed: dict[str, Tensor] = {}
    for name, tensor in fold_weights(state).items():
        parts = name.split(".")
        if parts[0] in _HEADS:
            renamed |= _rename_head(parts, tensor, config)
            continue
        if name.startswith("encoder.layers.") and reduction.kind != "none":
            # The authors' time reduction takes a place of its own in the list of layers.
            index = int(parts[2])
            if index == reduction.before_layer and len(parts) == 4:
                renamed[f"time_reduction.linear.{parts[3]}"] = _neighbouring_frames(tensor, reduction.factor)
                continue
            if index > reduction.before_layer:
                name = ".".join([*parts[:2], str(index - 1), *parts[3:]])
        ours = "mask_embedding" if name == LAYOUT.mask_embedding else LAYOUT.ours(name)
        renamed[ours or name] = tensor
    if config.heads.kind == "per_layer" and config.width == config.heads.teacher_width:
        for index in range(len(config.heads.layer_map)):  # the authors' heads have no projection then
            renamed.setdefault(f"heads.{index}.projection.weight", torch.eye(config.width))
            renamed.setdefault(f"heads.{index}.projection.bias", torch.zeros(config.width))
    return renamed


def _neighbouring_frames(tensor: Tensor, factor: int) -> Tensor:
    """A time reduction's weight as a linear map (out, in * frame); a bias as it is."""
    if tensor.ndim == 3:  # a convolution's (out, in, kernel)
        return tensor.flatten(1)
    if tensor.ndim == 2:  # fc1 puts whole frames side by side
        return tensor.unflatten(1, (factor, -1)).transpose(1, 2).flatten(1)
    return tensor


def _rename_head(parts: list[str], tensor: Tensor, config: StudentConfig) -> dict[str, Tensor]:
    """A tensor of the heads; the model-level upsampler serves shared heads and is never used with a head per layer."""
    last, shared = parts[-1], config.heads.kind == "shared"
    if config.heads.kind == "none" or parts[0] == "cnn_proj_head":  # STaRHuBERT's expert drops `final_proj` too.
        return {}
    if parts[0] == "final_proj":
        parts = ["proj_head", str(config.depth - 1), *parts[1:]]
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
