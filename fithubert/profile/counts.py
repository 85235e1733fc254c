"""Multiply-accumulates and time of the parts of a student."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from time import perf_counter

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fithubert.config.students import StudentConfig, TimeReductionConfig
from fithubert.config.teacher import HubertConfig
from fithubert.frames import SAMPLE_RATE_HZ
from fithubert.models.speech_model import SpeechModel
from fithubert.records import PartCost


def analytic_macs(config: HubertConfig | StudentConfig, num_samples: int) -> dict[str, int]:
    """Multiply-accumulates of each part on one utterance of `num_samples`, in `PARTS` order.

    The same convention as `count_parts`: matrix products and convolutions only. A student's layers and heads are those
    that its `readout` needs.
    """
    macs = dict.fromkeys(PARTS, 0)
    macs["front_end"], frames = _front_end_macs(config.conv_layers, num_samples)
    features = config.conv_layers[-1][0]
    if isinstance(config, HubertConfig) or features != config.width:
        macs["projection"] = frames * features * config.width
    # An even kernel is padded by half on both sides and computes one frame that is then dropped.
    positions = frames + 1 - config.pos_conv_kernel % 2
    channels_in = config.width // config.pos_conv_groups
    macs["positional_conv"] = positions * config.width * channels_in * config.pos_conv_kernel
    if isinstance(config, HubertConfig):
        macs["positional_conv"] *= config.pos_conv_depth
        # WavLM's two gates on its position bias.
        gates = 0 if config.relative_buckets is None else frames * config.width * 2
        macs["transformer"] = config.depth * (_layer_macs(frames, config.width, config.ffn_width, reuse=False) + gates)
        return macs
    reduction, pairs = config.time_reduction, config.released().heads.layer_map
    reduced = frames
    if reduction.kind != "none":
        reduced = frames // reduction.factor if reduction.drop_last_frame else -(-frames // reduction.factor)
    depth = config.depth if config.readout == "layers" else max(layer for layer, _ in pairs)
    for index in range(depth):
        at_rate = reduced if config.factor_of(index + 1) > 1 else frames
        macs["transformer"] += _layer_macs(at_rate, config.width, config.ffn_width, index in config.reuse_attention)
    if config.factor_of(depth) > 1:
        macs["time_reduction"] = reduced * _reduction_macs_per_frame(reduction, config.width)
    macs["readout"] = _readout_macs(config, pairs, frames, reduced)
    return macs


def _front_end_macs(layers: Sequence[tuple[int, int, int]], num_samples: int) -> tuple[int, int]:
    """The convolutions' multiply-accumulates, and the frames that they leave."""
    total, channels_in, length = 0, 1, num_samples
    for channels, kernel, stride in layers:
        length = (length - kernel) // stride + 1
        total += length * channels * channels_in * kernel
        channels_in = channels
    return total, length


def _layer_macs(frames: int, width: int, ffn_width: int, reuse: bool) -> int:
    """One transformer layer: projections, scores, weighted values, feed-forward; `reuse` needs no query, key, score."""
    projections, products = (2, 1) if reuse else (4, 2)
    return frames * (projections * width * width + 2 * width * ffn_width) + products * frames * frames * width


def _reduction_macs_per_frame(config: TimeReductionConfig, width: int) -> int:
    """A linear map of `factor` neighbouring frames to one, `fc2` with a hidden layer; a mean multiplies nothing."""
    inner = config.factor * width
    return {"mean": 0, "fc2": inner * inner + inner * width}.get(config.kind, inner * width)


def _readout_macs(config: StudentConfig, pairs: Sequence[tuple[int, int]], frames: int, reduced: int) -> int:
    """The heads of `pairs`: upsampling where it is learnt, then projections at the rate that it leaves."""
    heads, factor = config.heads, config.time_reduction.factor
    if not pairs or heads.kind == "none":
        return 0
    learnt = heads.upsampling == "transposed_conv"
    if config.time_reduction.drop_last_frame:
        frames = reduced * factor
    total = 0
    shared = heads.kind == "shared"
    hidden = heads.hidden_width or config.width
    # Shared heads upsample once and make the hidden part of every prediction.
    for layer, _ in pairs[:1] if shared else pairs:
        upsamples = learnt and config.factor_of(layer) > 1
        at_rate = reduced if config.factor_of(layer) > 1 and not learnt else frames
        total += reduced * factor * config.width**2 if upsamples else 0
        if shared:
            total += at_rate * len(pairs) * hidden * (config.width + heads.teacher_width)
        else:
            total += at_rate * config.width * heads.teacher_width
    return total


#: The parts in the order in which the signal meets them.
PARTS = ("front_end", "projection", "positional_conv", "time_reduction", "transformer", "readout", "other")

#: The part that a module belongs to, by the attribute that holds it. The norms of a part belong to it.
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
        model(waveforms, torch.tensor([waveforms.shape[1]]))
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
            model(waveforms, torch.tensor([waveforms.shape[1]]))
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
