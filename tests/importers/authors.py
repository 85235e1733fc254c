"""Small checkpoints as the authors' trainers write them, and the forward pass of their public code in plain torch.

Written from the public definitions, one waveform at a time and without any mask: glory20h/FitHuBERT (folder fithubert),
sungnyun/ARMHuBERT (models/armhubert/reusing_module.py, models/maskhubert, models/starhubert) and s3prl
(s3prl/upstream/distiller). Nothing of this project is used.
"""

import argparse
import ast
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from tests.importers.pickled import foreign

CONVOLUTIONS = [(8, 10, 5), (12, 1, 1), *[(12, 3, 2)] * 4, (16, 1, 1), *[(16, 2, 2)] * 2]
HUBERT = [(8, 10, 5), *[(12, 3, 2)] * 4, *[(16, 2, 2)] * 2]
TEACHER = 28
_SIZES: dict[str, Any] = {
    "encoder_embed_dim": 24,
    "encoder_ffn_embed_dim": 20,
    "encoder_attention_heads": 4,
    "encoder_layers": 4,
    "conv_pos": 16,
    "conv_pos_groups": 4,
    "activation_fn": "gelu",
    "layer_norm_first": False,
}
_LIGHTNING = {"conv_feature_layers": str(CONVOLUTIONS), "required_seq_len_multiple": 1}
_HEADS = {"layerwise_proj": True, "pred_head_final_dim": TEACHER, "pred_layer_id": "[3]"}
_REDUCED = {"enable_tr_layer": True, "tr_layer_type": "conv1d", "tr_reduce_factor": 2, "tr_layer_index": 0}
_WHOLE = {"enable_tr_layer": False, "tr_layer_type": "conv1d", "tr_reduce_factor": 1, "tr_layer_index": 0}
#: The section `distiller` of each family as published, but small.
FAMILIES: dict[str, dict[str, Any]] = {
    "fithubert": {**_SIZES, **_LIGHTNING, **_HEADS, **_REDUCED},
    "distilhubert": {
        **_SIZES,
        "extractor_conv_feature_layers": str(HUBERT),
        "final_dim": 24,
        "n_tasks": 3,
        "pred_layer_id": [4, 8, 12],
        "out_layer_inter_dim": -1,
        "encoder_layers": 2,
    },
    "maskhubert": {**_SIZES, **_LIGHTNING, **_HEADS, **_WHOLE},
    "armhubert": {
        **_SIZES,
        **_LIGHTNING,
        **_HEADS,
        **_WHOLE,
        "layer_grad_scale": True,
        "reuse_pattern": "[True, False, True, False]",
    },
    "starhubert": {**_SIZES, **_LIGHTNING, "layer_grad_scale": True, "final_dim": TEACHER},
}


@dataclass(frozen=True)
class Published:
    """A checkpoint: its family, the options of its configuration, and its tensors by the authors' names.

    `unwritten`: options that its configuration leaves to their defaults.
    """

    family: str
    options: dict[str, Any]
    state: dict[str, Tensor]
    unwritten: tuple[str, ...] = ()

    def states(self, waveform: Tensor) -> list[Tensor]:
        """What the authors' expert returns for `waveform` (samples,): (time, feature) each."""
        features, x = self._start(waveform)
        layers: list[Tensor] = []
        attention: Tensor | None = None
        reduced = self.options.get("enable_tr_layer", False)
        at = self.options.get("tr_layer_index", 0)
        pattern = self.options.get("reuse_pattern", "").strip("[]").split(", ")
        for index in range(self.options["encoder_layers"]):
            if reduced and index == at:
                x = self._reduce(x, f"encoder.layers.{at}", self.options["tr_reduce_factor"])
            reuses = len(pattern) > 1 and pattern[index] == "False"
            name = f"encoder.layers.{index + (reduced and index >= at)}"
            x, attention = self._layer(x, name, attention if reuses else None)
            layers.append(x)
        final = self._norm(x, "encoder.layer_norm") if self.options["layer_norm_first"] else x
        return self._read(features, layers, final)

    def _read(self, features: Tensor, layers: list[Tensor], final: Tensor) -> list[Tensor]:
        if self.family == "starhubert":
            return layers
        if self.family == "distilhubert":
            return [features, *layers, *self._split(final, "output_layer")]
        if not self.options["layerwise_proj"]:
            shared = self._upsample(final, "upsampler")
            return [shared] if self.family == "fithubert" else self._split(shared, "proj_head")
        if self.family == "fithubert":
            return [self._head(final, len(layers) - 1)]
        return [self._head(layer, index) for index, layer in enumerate(layers)]

    def _start(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """The projected features, and the input of the first layer (or of the time reduction)."""
        x, distil = waveform[:, None], self.family == "distilhubert"
        for index, (channels, _, stride) in enumerate(_convolutions(self.options)):
            name = f"feature_extractor.conv_layers.{index}"
            x = self._convolve(x, f"{name}.0", stride=stride)
            if self.options.get("extractor_mode") == "layer_norm":
                x = self._norm(x, f"{name}.2.1")
            elif index == 0:
                weight, bias = self.state[f"{name}.2.weight"], self.state[f"{name}.2.bias"]
                x = F.group_norm(x.T[None], channels, weight, bias)[0].T
            x = F.gelu(x)
        x = x if distil else self._norm(x, "layer_norm")
        features = self._linear(x, "post_extract_proj") if "post_extract_proj.weight" in self.state else x
        direction, gain = self.state["encoder.pos_conv.0.weight_v"], self.state["encoder.pos_conv.0.weight_g"]
        weight = direction * gain / direction.square().sum((0, 1), keepdim=True).sqrt()
        bias, kernel = self.state["encoder.pos_conv.0.bias"], self.options["conv_pos"]
        groups = self.options["conv_pos_groups"]
        positions = F.conv1d(features.T[None], weight, bias, padding=kernel // 2, groups=groups)[0].T
        x = features + F.gelu(positions[: len(features)])
        return features, x if self.options["layer_norm_first"] else self._norm(x, "encoder.layer_norm")

    def _layer(self, x: Tensor, name: str, reused: Tensor | None) -> tuple[Tensor, Tensor]:
        """The output of a transformer layer, and its attention map (head, time, time) before any second softmax."""
        first = self.options["layer_norm_first"]
        inner = self._norm(x, f"{name}.self_attn_layer_norm") if first else x
        value = self._by_head(inner, f"{name}.self_attn.v_proj")
        if reused is None:
            query = self._by_head(inner, f"{name}.self_attn.q_proj")
            query = query * query.shape[-1] ** -0.5
            own = attention = F.softmax(query @ self._by_head(inner, f"{name}.self_attn.k_proj").mT, dim=-1)
        else:  # the public code applies the softmax to the map a second time
            own, attention = reused, F.softmax(reused, dim=-1)
        context = (attention @ value).transpose(0, 1).flatten(1)
        x = x + self._linear(context, f"{name}.self_attn.out_proj")
        x = x if first else self._norm(x, f"{name}.self_attn_layer_norm")
        inner = self._norm(x, f"{name}.final_layer_norm") if first else x
        activation = F.relu if self.options["activation_fn"] == "relu" else F.gelu
        x = x + self._linear(activation(self._linear(inner, f"{name}.fc1")), f"{name}.fc2")
        return x if first else self._norm(x, f"{name}.final_layer_norm"), own

    def _head(self, x: Tensor, index: int) -> Tensor:
        x, name = self._upsample(x, f"proj_head.{index}.upsampler"), f"proj_head.{index}.lin_proj"
        return self._linear(x, name) if f"{name}.weight" in self.state else x

    def _split(self, x: Tensor, name: str) -> list[Tensor]:
        """Predictions by a hidden projection that is split, then a linear map each (`SplitLinear`)."""
        hidden = F.gelu(self._linear(x, f"{name}.0"))
        if f"{name}.2.layer.weight" in self.state:
            return [self._linear(hidden, f"{name}.2.layer")]
        weight, bias = self.state[f"{name}.2.weight"], self.state[f"{name}.2.bias"][0, 0]
        hidden = hidden.unflatten(1, (len(weight), -1))
        return [hidden[:, task] @ weight[task] + bias[task] for task in range(len(weight))]

    def _upsample(self, x: Tensor, name: str) -> Tensor:
        if f"{name}.weight" not in self.state:
            return x
        factor = self.options["tr_reduce_factor"]
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        return F.conv_transpose1d(x.T[None], weight, bias, stride=factor)[0].T

    def _reduce(self, x: Tensor, name: str, factor: int) -> Tensor:
        if self.options["tr_layer_type"] == "conv1d":
            return self._convolve(x, name, stride=factor)
        # fc1 always adds frames of zeros: a whole group of them if none is incomplete.
        x = F.pad(x, (0, 0, 0, factor - len(x) % factor))
        return self._linear(torch.cat([x[place::factor] for place in range(factor)], dim=1), name)

    def _convolve(self, x: Tensor, name: str, stride: int) -> Tensor:
        return F.conv1d(x.T[None], self.state[f"{name}.weight"], self.state.get(f"{name}.bias"), stride=stride)[0].T

    def _by_head(self, x: Tensor, name: str) -> Tensor:
        return self._linear(x, name).unflatten(1, (self.options["encoder_attention_heads"], -1)).transpose(0, 1)

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        return F.layer_norm(x, x.shape[-1:], weight, bias)

    def save(self, folder: Path) -> list[str]:
        """The files as the trainer writes them, with its optimiser and its own objects; arguments of `import`."""
        folder.mkdir(parents=True, exist_ok=True)
        moments = {0: {"step": 9, "exp_avg": torch.zeros(3), "exp_avg_sq": torch.zeros(3)}}
        options = {name: value for name, value in self.options.items() if name not in self.unwritten}
        kinds = {
            "s3prl.optimizers.WarmupLinearSchedule": object,
            "pytorch_lightning.utilities.parsing.AttributeDict": dict,
        }
        with foreign(kinds) as (schedule_kind, attributes_kind):
            schedule, attributes = schedule_kind(), attributes_kind()
            schedule.warmup, schedule.t_total = 0.07, 200_000
            optimiser = {"state": moments, "param_groups": [{"lr": 2e-4, "params": [0], "schedule": schedule}]}
            if self.family == "distilhubert":
                config = {"distiller": options, "teacher": {"n_layers": 12}}
                values = {"Distiller": self.state, "Config": config, "Step": 200_000, "Optimizer": optimiser}
                torch.save({**values, "Args": argparse.Namespace(mode="train", seed=1337)}, folder / "states.ckpt")
                return [str(folder / "states.ckpt")]
            attributes["cfg"] = {"distiller": options}
            tensors = {f"student_model.{name}": tensor for name, tensor in self.state.items()}
            tensors["teacher_model.model.mask_emb"] = torch.zeros(3)
            progress = {"epoch": 99, "global_step": 200_000, "pytorch-lightning_version": "1.5.10", "loops": {}}
            state = {"state_dict": tensors, "optimizer_states": [optimiser], "lr_schedulers": []}
            torch.save({**progress, **state, "hyper_parameters": attributes}, folder / "last.ckpt")
        train = {"cnn_loss_weight": options.pop("cnn_loss_weight", 0)}
        sections = {"teacher": {"teacher_model": "hubert_base_ls960.pt"}, "distiller": options, "train": train}
        (folder / "config.yaml").write_text(yaml.safe_dump(sections))
        return [str(folder / "last.ckpt"), str(folder / "config.yaml")]


def publish(family: str, without: tuple[str, ...] = (), **options: Any) -> Published:
    """A checkpoint of `family` with random weights, with some options changed or left out of its configuration."""
    values = {**FAMILIES[family], **options}
    generator = torch.Generator().manual_seed(7)
    state = {}
    for name, shape in _shapes(family, values).items():
        fan_in = math.prod(shape[1:]) if len(shape) > 1 else 4
        centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        state[name] = centre + torch.randn(shape, generator=generator) * (0.3 if centre else fan_in**-0.5)
    return Published(family, values, state, without)


def _convolutions(options: dict[str, Any]) -> list[tuple[int, int, int]]:
    text = options.get("extractor_conv_feature_layers") or options["conv_feature_layers"]
    return [tuple(layer) for layer in ast.literal_eval(text)]


def _shapes(family: str, options: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    channels, width, ffn = 1, options["encoder_embed_dim"], options["encoder_ffn_embed_dim"]
    shapes: dict[str, tuple[int, ...]] = {}
    for index, (out, kernel, _) in enumerate(_convolutions(options)):
        name = f"feature_extractor.conv_layers.{index}"
        shapes[f"{name}.0.weight"] = (out, channels, kernel)
        if options.get("conv_bias"):
            shapes[f"{name}.0.bias"] = (out,)
        if options.get("extractor_mode") == "layer_norm":
            shapes |= _linear(f"{name}.2.1", out)
        elif index == 0:
            shapes |= _linear(f"{name}.2", out)
        channels = out
    if family != "distilhubert":
        shapes |= _linear("layer_norm", channels)
    if channels != width:
        shapes |= _linear("post_extract_proj", width, channels)
    kernel, groups = options["conv_pos"], options["conv_pos_groups"]
    shapes["encoder.pos_conv.0.weight_g"] = (1, 1, kernel)
    shapes["encoder.pos_conv.0.weight_v"] = (width, width // groups, kernel)
    shapes["encoder.pos_conv.0.bias"] = (width,)
    shapes |= _linear("encoder.layer_norm", width)
    factor, reduced = options.get("tr_reduce_factor", 1), options.get("enable_tr_layer", False)
    pattern = options.get("reuse_pattern", "").strip("[]").split(", ")
    if reduced:
        inner = (width, factor) if options["tr_layer_type"] == "conv1d" else (width * factor,)
        shapes |= _linear(f"encoder.layers.{options['tr_layer_index']}", width, *inner)
    for index in range(options["encoder_layers"]):
        name = f"encoder.layers.{index + (reduced and index >= options['tr_layer_index'])}"
        reuses = len(pattern) > 1 and pattern[index] == "False"
        for part in ("v_proj", "out_proj") if reuses else ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= _linear(f"{name}.self_attn.{part}", width, width)
        shapes |= _linear(f"{name}.self_attn_layer_norm", width)
        shapes |= _linear(f"{name}.fc1", ffn, width) | _linear(f"{name}.fc2", width, ffn)
        shapes |= _linear(f"{name}.final_layer_norm", width)
    if family in ("maskhubert", "armhubert"):
        shapes["mask_emb"] = (width,)
    return shapes | _head_shapes(family, options, factor if reduced else 1)


def _head_shapes(family: str, options: dict[str, Any], factor: int) -> dict[str, tuple[int, ...]]:
    """Of the heads, behind a time reduction by `factor` (1: none), and of what only the training needs."""
    width, distil = options["encoder_embed_dim"], family == "distilhubert"
    if family == "starhubert":
        return _linear("final_proj", TEACHER, width)
    shapes = _linear("upsampler", width, width, factor) if factor > 1 else {}
    out = options["final_dim"] if distil else options["pred_head_final_dim"]
    if options.get("cnn_loss_weight"):
        shapes |= _linear("cnn_proj_head.1", out, width)
    if distil or not options["layerwise_proj"]:
        tasks = options["n_tasks"] if distil else options["pred_layer_id"].count(",") + 1
        inner = max(options.get("out_layer_inter_dim" if distil else "pred_head_inter_dim", 0), 0) or width
        name = "output_layer" if distil else "proj_head"
        shapes |= _linear(f"{name}.0", inner * tasks, width)
        if tasks == 1:
            return shapes | _linear(f"{name}.2.layer", out, inner)
        return {**shapes, f"{name}.2.weight": (tasks, inner, out), f"{name}.2.bias": (1, 1, tasks, out)}
    for index in range(options["encoder_layers"]):
        if factor > 1:
            shapes |= _linear(f"proj_head.{index}.upsampler", width, width, factor)
        if out != width:
            shapes |= _linear(f"proj_head.{index}.lin_proj", out, width)
    return shapes


def _linear(name: str, *weight: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}
