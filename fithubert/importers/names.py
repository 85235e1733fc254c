"""Tensors of other implementations by this project's names, and each kind of checkpoint's way of writing them."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fithubert.config.teacher import HubertConfig
from fithubert.errors import UserError
from fithubert.models.canonical import fill_model, prepare_for_inference, take_projection
from fithubert.models.hubert import HubertModel, HubertTeacher

_PROJECTIONS = (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("out_proj", "out"))
#: WavLM's gates in transformers and torchaudio, and in its authors' code.
_GATES, _GATE_SCALES = ("gru_rel_pos_linear", "grep_linear"), ("gru_rel_pos_const", "grep_a")
_BATCH_NORM_EPSILON = 1e-5


@dataclass(frozen=True)
class Layout:
    """How one implementation names the tensors of a HuBERT-family model.

    `modules`: (its module, ours) pairs, `{}` standing for a number. `mask_embedding`: its name for that vector.
    `ignored`: beginnings of names that have no part in hidden states: quantisers, heads, training-only parts.
    """

    modules: tuple[tuple[str, str], ...]
    mask_embedding: str
    ignored: tuple[str, ...] = ()

    def ours(self, name: str) -> str | None:
        """Our name of the tensor that this implementation calls `name`; None if it is not of the model."""
        return _translate(name, self.modules)

    def theirs(self, name: str) -> str:
        """This implementation's name of our tensor `name`, for messages; ours if it has none."""
        return _translate(name, [(ours, theirs) for theirs, ours in self.modules]) or name


def _translate(name: str, modules: Iterable[tuple[str, str]]) -> str | None:
    module, _, last = name.rpartition(".")
    for old, new in modules:
        found = re.fullmatch(re.escape(old).replace(r"\{\}", r"(\d+)"), module)
        if found:
            return f"{new.format(*found.groups())}.{last}"
    return None


def encoder_modules(
    attention: str, norm: str, ffn_in: str, ffn_out: str, layers: str = "encoder.layers"
) -> tuple[tuple[str, str], ...]:
    """The module pairs of the transformer layers `layers`.N, from the names of their parts."""
    pairs = [(f"{attention}.{theirs}", f"attention.{ours}") for theirs, ours in _PROJECTIONS]
    pairs += [(f"{attention}.gate{end}", f"attention.gate{end}") for end in ("", ".gates")]
    pairs += [(norm, "attention_norm"), (ffn_in, "ffn_in"), (ffn_out, "ffn_out"), ("final_layer_norm", "ffn_norm")]
    return tuple((f"{layers}.{{}}.{theirs}", f"layers.{{}}.{ours}") for theirs, ours in pairs)


def check_understood(options: Mapping[str, Any], understood: Mapping[str, Any], source: str) -> None:
    """Raise UserError for an option that is present with another value than the only one that is understood."""
    for option, value in understood.items():
        if options.get(option, value) != value:
            raise UserError(f"{source}: {option} {options[option]!r} is not understood, only {value!r}")


def build_teacher(
    config: HubertConfig, state: Mapping[str, Tensor], layout: Layout, name: str, source: str
) -> HubertTeacher:
    """The teacher of `config`'s shape with the weights `state`, which `layout` names.

    `source` is the file for messages. Raises UserError naming the tensor that is missing, unknown or misshapen.
    """
    model = prepare_for_inference(HubertModel(config))
    state = dict(state)
    projection = take_projection(state, config.width, source)
    state = {key: tensor for key, tensor in state.items() if not key.startswith(layout.ignored)}
    embedding = state.pop(layout.mask_embedding, None)
    if embedding is not None and tuple(embedding.shape) != (config.width,):
        raise UserError(
            f"{source}: tensor {layout.mask_embedding} has shape {tuple(embedding.shape)} instead of {(config.width,)}"
        )
    renamed, unknown = {}, []
    for key, tensor in fold_weights(state).items():
        ours = layout.ours(key)
        if ours is None:
            unknown.append(key)
        else:
            renamed[ours] = tensor
    if unknown:
        raise UserError(f"{source}: tensor {min(unknown)} is of no known part of the model ({len(unknown)} such)")
    fill_model(model, renamed, source, layout.theirs)
    return HubertTeacher(model, name, embedding, projection)


def fold_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` with weight norms multiplied out, batch norms as scale and shift, WavLM's gates as `PositionGate`'s."""
    folded = dict(state)
    for name in list(folded):
        module, _, last = name.rpartition(".")
        parent, _, part = module.rpartition(".")
        if last in ("weight_v", "original1"):
            gain = folded.pop(name.replace("weight_v", "weight_g").replace("original1", "original0"), None)
            if gain is not None:
                module = module.removesuffix(".parametrizations.weight")
                folded[f"{module}.weight"] = torch._weight_norm(folded.pop(name).float(), gain.float(), 2)
        elif last == "running_var":
            scale = folded.pop(f"{module}.weight").double() / (folded.pop(name).double() + _BATCH_NORM_EPSILON).sqrt()
            shift = folded.pop(f"{module}.bias").double() - folded.pop(f"{module}.running_mean").double() * scale
            folded.pop(f"{module}.num_batches_tracked", None)
            folded |= {f"{parent}.scale": scale.float(), f"{parent}.shift": shift.float()}
        elif part in _GATES:
            folded[f"{parent}.gate.gates.{last}"] = folded.pop(name).float().unflatten(0, (2, 4)).sum(1)
        elif last in _GATE_SCALES:
            folded[f"{module}.gate.scale"] = folded.pop(name).flatten()
    return folded


def without_prefix(state: Mapping[str, Tensor], prefixes: Iterable[str]) -> dict[str, Tensor]:
    """The tensors of the model proper, if the model is a module of a model with a head."""
    for prefix in prefixes:
        inner = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        if inner:
            return inner
    return dict(state)
