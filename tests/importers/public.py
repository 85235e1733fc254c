"""Random models of the public implementations, and their checkpoints in every form that people have."""

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torchaudio.models.wav2vec2.utils import import_huggingface_model

from fithubert.importers import load_teacher
from fithubert.models.hubert import HubertTeacher

FAMILIES = ("hubert", "wav2vec2", "wavlm", "data2vec-audio")
#: A few layers of odd sizes; kernels and strides are HuBERT's.
SMALL: dict[str, Any] = {
    "conv_dim": [8, 12, 12, 12, 16, 16, 16],
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "num_conv_pos_embedding_groups": 4,
}
#: The options of a Large model.
STABLE = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
_CLASSES: dict[str, tuple[Any, Any, Any]] = {
    "hubert": (transformers.HubertConfig, transformers.HubertModel, transformers.HubertForCTC),
    "wav2vec2": (transformers.Wav2Vec2Config, transformers.Wav2Vec2Model, transformers.Wav2Vec2ForCTC),
    "wavlm": (transformers.WavLMConfig, transformers.WavLMModel, transformers.WavLMForCTC),
    "data2vec-audio": (
        transformers.Data2VecAudioConfig,
        transformers.Data2VecAudioModel,
        transformers.Data2VecAudioForCTC,
    ),
}


def build(family: str, *, ctc: bool = False, std: float = 0.15, **options: Any) -> Any:
    """A model of transformers in evaluation mode whose weights are large enough for every part to matter."""
    config_class, plain, with_head = _CLASSES[family]
    torch.manual_seed(11)
    model = (with_head if ctc else plain)(config_class(**options, attn_implementation="eager")).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=std)
    return model


def small(family: str, **options: Any) -> Any:
    """A small model of `family`, with WavLM's buckets few enough to be used up and data2vec's kernel short."""
    special = {
        "wavlm": {"num_buckets": 16, "max_bucket_distance": 20},
        "data2vec-audio": {"conv_pos_kernel_size": 5, "num_conv_pos_embeddings": 3},
    }.get(family, {"num_conv_pos_embeddings": 16})
    return build(family, **{**SMALL, "num_conv_pos_embeddings": 16, **special, **options})


def with_final_proj(model: Any) -> Any:
    """`model` as a `HubertModelWithFinalProj`, as ContentVec is published for transformers and as RVC reads it."""
    width, projected = model.config.hidden_size, model.config.classifier_proj_size
    model.final_proj = nn.Linear(width, projected)
    for parameter in model.final_proj.parameters():
        nn.init.normal_(parameter, std=0.15)
    return model


def draw_statistics(model: Any) -> None:
    """Random statistics for the batch norm of `model`, if it has one."""
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 2.0)


def load(spec: str | Path) -> HubertTeacher:
    """The HuBERT-like teacher that `spec` names."""
    teacher = load_teacher(spec)
    assert isinstance(teacher, HubertTeacher)
    return teacher


def save(model: Any, folder: Path, normalise: bool, **options: Any) -> Path:
    """`model` as transformers writes it, with its feature extractor."""
    model.save_pretrained(folder, **options)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=normalise).save_pretrained(folder)
    return folder


@torch.inference_mode()
def hidden_states(model: Any, waveform: Tensor, normalise: bool) -> list[Tensor]:
    """Layer 0..L that transformers gives for one waveform (samples,), each (time, feature).

    The last is `last_hidden_state`: after the final norm of a pre-norm model, where transformers 5 lists it before.
    """
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=normalise)
    inputs = extractor(waveform.numpy(), sampling_rate=16_000, return_tensors="pt").input_values
    out = model(inputs, output_hidden_states=True)
    return [state[0] for state in (*out.hidden_states[:-1], out.last_hidden_state)]


def relative_error(one: Tensor, other: Tensor) -> float:
    """The norm of the difference over that of `other`."""
    return float((one - other).norm() / other.norm())


_TO_FAIRSEQ = [
    ("encoder.pos_conv_embed.batch_norm", "encoder.pos_conv.0"),
    ("feature_projection.layer_norm", "layer_norm"),
    ("feature_projection.projection", "post_extract_proj"),
    ("encoder.pos_conv_embed.conv.parametrizations.weight.original0", "encoder.pos_conv.0.weight_g"),
    ("encoder.pos_conv_embed.conv.parametrizations.weight.original1", "encoder.pos_conv.0.weight_v"),
    ("encoder.pos_conv_embed.conv", "encoder.pos_conv.0"),
    ("feed_forward.intermediate_dense", "fc1"),
    ("feed_forward.output_dense", "fc2"),
    ("masked_spec_embed", "mask_emb"),
    ("attention.gru_rel_pos_linear", "attention.grep_linear"),
    ("attention.gru_rel_pos_const", "attention.grep_a"),
    ("attention.rel_attn_embed", "attention.relative_attention_bias"),
]


def fairseq_state(model: Any) -> dict[str, Tensor]:
    """The weights of a plain model of transformers by the names of fairseq (and unilm, for WavLM)."""
    state = {}
    for name, tensor in model.state_dict().items():
        parts = name.split(".")
        if getattr(model.config, "conv_pos_batch_norm", False):
            name = name.replace("encoder.pos_conv_embed.conv", "encoder.pos_conv.1")
        for theirs, fairseqs in _TO_FAIRSEQ:
            name = name.replace(theirs, fairseqs)
        if name.startswith("feature_extractor.conv_layers."):
            norm = "2" if model.config.model_type != "data2vec-audio" and _is_group(model) else "2.1"
            name = ".".join([*parts[:3], "0" if parts[3] == "conv" else norm, parts[4]])
        elif name.startswith("encoder.layers."):
            name = name.replace(f".{parts[2]}.layer_norm.", f".{parts[2]}.self_attn_layer_norm.")
            name = name.replace(".attention.", ".self_attn.")
        elif name.startswith("encoder.pos_conv_embed.layers."):
            name = f"encoder.pos_conv.{parts[3]}.0.{parts[5]}"
        state[name] = tensor
    return state


def _is_group(model: Any) -> bool:
    return model.config.feat_extract_norm == "group"


def fairseq_options(model: Any) -> dict[str, Any]:
    """The options that fairseq would have for the shape of `model`."""
    config = model.config
    layers = list(zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True))
    data2vec = config.model_type == "data2vec-audio"
    options = {
        "extractor_mode": "layer_norm" if data2vec or not _is_group(model) else "default",
        "conv_feature_layers": str(layers[:1]) + " + " + str(layers[1:]),
        "conv_bias": config.conv_bias,
        "encoder_layers": config.num_hidden_layers,
        "encoder_embed_dim": config.hidden_size,
        "encoder_ffn_embed_dim": config.intermediate_size,
        "encoder_attention_heads": config.num_attention_heads,
        "layer_norm_first": getattr(config, "do_stable_layer_norm", False),
        "activation_fn": "gelu",
        "conv_pos": config.num_conv_pos_embeddings,
        "conv_pos_groups": config.num_conv_pos_embedding_groups,
        "conv_pos_batch_norm": getattr(config, "conv_pos_batch_norm", False),
    }
    if data2vec:
        depth = config.num_conv_pos_embeddings
        options |= {"pos_conv_depth": depth, "conv_pos": config.conv_pos_kernel_size * depth}
    if config.model_type == "wavlm":
        options |= {"relative_position_embedding": True, "gru_rel_pos": True}
        options |= {"num_buckets": config.num_buckets, "max_distance": config.max_bucket_distance}
    return options


def torchaudio_state(model: Any) -> dict[str, Tensor]:
    """The weights as torchaudio's own importer names them."""
    return import_huggingface_model(model).state_dict()
