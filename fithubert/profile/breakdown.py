"""Parameters, multiply-accumulates and time of each part of a model, taken while it runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from time import perf_counter

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
    "relative": "transformer",
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
    counter = FlopCounterMode(display=False)
    params, macs = dict.fromkeys(PARTS, 0), dict.fromkeys(PARTS, 0)
    entered: list[int] = []
    seen: set[int] = set()

    def enter() -> None:
        entered.append(counter.get_total_flops())

    def leave(module: nn.Module, part: str) -> None:
        before = entered.pop()
        if not entered:
            macs[part] += (counter.get_total_flops() - before) // 2
        new = {id(p): p.numel() for p in module.parameters() if id(p) not in seen}
        seen.update(new)
        params[part] += sum(new.values())

    waveforms = torch.zeros(1, round(seconds * SAMPLE_RATE_HZ))
    with _watched(find_module(model), enter, leave), counter, sdpa_kernel(SDPBackend.MATH):
        model.extract(waveforms, torch.tensor([waveforms.shape[1]]))
    # An attention map that several layers share is made outside any layer's own call.
    rest = "transformer" if macs["transformer"] else "other"
    macs[rest] += counter.get_total_flops() // 2 - sum(macs.values())
    return {part: PartCost(params[part], macs[part]) for part in PARTS}


def time_parts(model: SpeechModel, seconds: float, rounds: int = 3) -> dict[str, float]:
    """The share of its time that `model` spends in each part on one utterance of `seconds`, in `PARTS` order.

    Medians over `rounds`, after one untimed pass; `other` is what happens outside all parts. On a GPU every part waits
    for the device, which a real run does not.
    """
    root = find_module(model)
    on_gpu = any(parameter.is_cuda for parameter in root.parameters())
    entered: list[float] = []
    spent = dict.fromkeys(PARTS, 0.0)

    def now() -> float:
        if on_gpu:
            torch.cuda.synchronize()
        return perf_counter()

    def enter() -> None:
        entered.append(now())

    def leave(_: nn.Module, part: str) -> None:
        before = entered.pop()
        if not entered:
            spent[part] += now() - before

    waveforms = torch.zeros(1, round(seconds * SAMPLE_RATE_HZ))
    shares: dict[str, list[float]] = {part: [] for part in PARTS}
    with _watched(root, enter, leave):
        for number in range(rounds + 1):
            spent.update(dict.fromkeys(PARTS, 0.0))
            begun = now()
            model.extract(waveforms, torch.tensor([waveforms.shape[1]]))
            total = now() - begun
            spent["other"] += total - sum(spent.values())
            for part in PARTS if number else ():
                shares[part].append(spent[part] / total)
    return {part: median(values) for part, values in shares.items()}


@contextmanager
def _watched(root: nn.Module, enter: Callable[[], None], leave: Callable[[nn.Module, str], None]) -> Iterator[None]:
    """Inside, `enter` and `leave` are called around every module that belongs to a part, nested ones too."""
    handles = []
    for name, module in root.named_modules():
        part = _part_of(name)
        if part is not None:
            handles.append(module.register_forward_pre_hook(lambda _, __: enter()))
            handles.append(module.register_forward_hook(lambda m, _, __, part=part: leave(m, part)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def find_module(model: SpeechModel) -> nn.Module:
    """The torch module inside a speech model, or an empty one for a model without any (filter banks)."""
    if isinstance(model, nn.Module):
        return model
    inside = [value for value in vars(model).values() if isinstance(value, nn.Module)]
    return inside[0] if inside else nn.Module()


def _part_of(name: str) -> str | None:
    """The part of the module with this dotted name, decided by its outermost known attribute."""
    return next((_PART_OF_ATTRIBUTE[a] for a in name.split(".") if a in _PART_OF_ATTRIBUTE), None)
