"""Parameters and multiply-accumulates of each part of a model, counted while it runs."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fithubert.frames import SAMPLE_RATE_HZ
from fithubert.speech_model import SpeechModel

#: The parts in the order in which the signal meets them.
PARTS = ("front_end", "projection", "positional_conv", "time_reduction", "transformer", "readout", "other")

#: The part that a module belongs to, by the attribute that holds it. The norms beside a part belong to it.
_PART_OF_ATTRIBUTE = {
    "frontend": "front_end",
    "feature_norm": "projection",
    "projection": "projection",
    "positional": "positional_conv",
    "encoder_norm": "positional_conv",
    "time_reduction": "time_reduction",
    "layers": "transformer",
    "heads": "readout",
}


@dataclass(frozen=True)
class PartCost:
    """What one part holds and does: parameters, and multiply-accumulates of one utterance."""

    params: int
    macs: int


def count_parts(model: SpeechModel, seconds: float) -> dict[str, PartCost]:
    """Parameters and multiply-accumulates of each part of `model` on one utterance of `seconds`, in `PARTS` order.

    Counts the matrix products and convolutions that really run, attention included (two operations are one
    multiply-accumulate); norms, activations, softmax and Fourier transforms are not counted, as is usual. Attention
    runs on torch's plain backend here: the fused CPU kernel is invisible to torch's counter. Parameters are those of
    modules that ran, so a head that only training uses is in neither figure.
    """
    root = find_module(model)
    counter = FlopCounterMode(display=False)
    params, macs = dict.fromkeys(PARTS, 0), dict.fromkeys(PARTS, 0)
    entered: list[int] = []
    seen: set[int] = set()

    def enter(module: nn.Module, _: Any) -> None:
        entered.append(counter.get_total_flops())

    def leave(module: nn.Module, part: str) -> None:
        before = entered.pop()
        if not entered:
            macs[part] += (counter.get_total_flops() - before) // 2
        new = {id(p): p.numel() for p in module.parameters() if id(p) not in seen}
        seen.update(new)
        params[part] += sum(new.values())

    handles = []
    for name, module in root.named_modules():
        part = _part_of(name)
        if part is not None:
            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(lambda m, _, __, part=part: leave(m, part)))
    waveforms = torch.zeros(1, round(seconds * SAMPLE_RATE_HZ))
    try:
        with counter, sdpa_kernel(SDPBackend.MATH):
            model.extract(waveforms, torch.tensor([waveforms.shape[1]]))
    finally:
        for handle in handles:
            handle.remove()
    # An attention map that several layers share is made outside any layer's own call.
    rest = "transformer" if macs["transformer"] else "other"
    macs[rest] += counter.get_total_flops() // 2 - sum(macs.values())
    return {part: PartCost(params[part], macs[part]) for part in PARTS}


def find_module(model: SpeechModel) -> nn.Module:
    """The torch module inside a speech model, or an empty one for a model without any (filter banks)."""
    if isinstance(model, nn.Module):
        return model
    inside = [value for value in vars(model).values() if isinstance(value, nn.Module)]
    return inside[0] if inside else nn.Module()


def _part_of(name: str) -> str | None:
    """The part of the module with this dotted name, decided by its outermost known attribute."""
    return next((_PART_OF_ATTRIBUTE[a] for a in name.split(".") if a in _PART_OF_ATTRIBUTE), None)
