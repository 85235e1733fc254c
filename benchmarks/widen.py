"""A model of HuBERT Base's size that says what the embedded teacher says: every feature is there several times.

Random weights of that size say nothing of speech, so that heads on them learn noise. Copying units and sharing out the
weights between the copies changes no function (Chen et al. 2016, Net2Net, "wider").
"""

import torch
from torch import Tensor

from fithubert.config.teacher import hubert_base
from fithubert.models.canonical import prepare_for_inference
from fithubert.models.hubert import HubertModel, HubertTeacher


def widen_to_base(small: HubertTeacher) -> HubertTeacher:
    """`small`, whose depth, kernels, heads and groups are HuBERT Base's, at HuBERT Base's widths."""
    model = prepare_for_inference(HubertModel(hubert_base()))
    config, wide = small.model.config, model.config
    groups, heads = config.pos_conv_groups, config.attention_heads
    stream = _copies(config.width, wide.width, groups)
    of_heads, of_ffn = _copies(config.width, wide.width, heads), _copies(config.ffn_width, wide.ffn_width)
    last = _copies(config.conv_layers[-1][0], wide.conv_layers[-1][0])
    # Dot products of as many copies are as many times as large, and are divided by the root of the head's width.
    share = (config.width / wide.width) ** 0.5
    weights = {}
    for name, values in small.model.state_dict().items():
        part = name.split(".")[-2]
        if name.startswith("frontend."):
            layer = int(name.split(".")[2])
            rows = _copies(config.conv_layers[layer][0], wide.conv_layers[layer][0])
            columns = _copies(config.conv_layers[layer - 1][0], wide.conv_layers[layer - 1][0]) if layer else None
        elif name.startswith("positional."):
            rows, columns = stream, _copies(config.width // groups, wide.width // groups)
        else:
            rows, columns = {
                "feature_norm": (last, None),
                "projection": (stream, last),
                "ffn_in": (of_ffn, stream),
                "ffn_out": (stream, of_ffn),
                "out": (stream, of_heads),
            }.get(part, (of_heads, stream) if part in ("query", "key", "value") else (stream, None))
        weights[name] = _spread(values, rows, columns) * (share if part == "query" else 1.0)
    model.load_state_dict(weights)
    return HubertTeacher(model, f"{small.name}, as wide as HuBERT Base")


def _copies(small: int, wide: int, groups: int = 1) -> Tensor:
    """(wide,) which unit each one is a copy of; units stay in their group."""
    inside = torch.arange(wide // groups) % (small // groups)
    return (torch.arange(groups)[:, None] * (small // groups) + inside).flatten()


def _spread(values: Tensor, rows: Tensor, columns: Tensor | None) -> Tensor:
    """`values` for copied units: rows are repeated, columns repeated and shared out between the copies."""
    values = values[rows]
    if values.dim() == 1 or columns is None:
        return values
    counts = torch.bincount(columns)[columns]
    return values[:, columns] / counts.reshape(-1, *[1] * (values.dim() - 2))
