"""Latency of several models taken in turn, so that their ratios hold on a machine that does other work."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fithubert.frames import SAMPLE_RATE_HZ
from fithubert.speech_model import SpeechModel

#: model -> seconds of audio -> the latency of every round, in seconds.
Timings = dict[str, dict[float, list[float]]]


@dataclass(frozen=True)
class Ratio:
    """The median of a ratio over rounds, and the 95 % bootstrap interval of that median."""

    median: float
    low: float
    high: float


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """torch runs on `threads` threads inside, and as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def noise(seconds: float) -> tuple[Tensor, Tensor]:
    """One utterance (1, samples) of seeded noise and its length (1,): cost does not depend on what is said."""
    samples = round(seconds * SAMPLE_RATE_HZ)
    waveform = 0.1 * torch.randn(1, samples, generator=torch.Generator().manual_seed(0))
    return waveform, torch.tensor([samples])


def time_in_turn(
    models: Mapping[str, SpeechModel],
    seconds: Sequence[float],
    rounds: int,
    on_round: Callable[[int], None] | None = None,
) -> Timings:
    """Latencies of every model on one utterance of each length, `rounds` times each.

    In every round each model runs once per length, one after another, and the order shifts by one from round to
    round: whatever else the machine does meets all of them alike. One untimed pass of each goes first.
    """
    utterances = {s: noise(s) for s in seconds}
    names = list(models)
    timings: Timings = {name: {s: [] for s in seconds} for name in names}
    for model in models.values():
        for waveform, lengths in utterances.values():
            model.extract(waveform, lengths)
    for index in range(rounds):
        shift = index % len(names)
        for s, (waveform, lengths) in utterances.items():
            for name in names[shift:] + names[:shift]:
                timings[name][s].append(_time_once(models[name], waveform, lengths))
        if on_round is not None:
            on_round(index + 1)
    return timings


def _time_once(model: SpeechModel, waveform: Tensor, lengths: Tensor) -> float:
    began = time.perf_counter()
    output = model.extract(waveform, lengths)
    if output.hidden_states[-1].is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def paired_ratio(times: Sequence[float], reference: Sequence[float], resamples: int = 2000, seed: int = 0) -> Ratio:
    """The median over rounds of `times / reference`, each round against itself, with its bootstrap interval."""
    ratios = np.asarray(times) / np.asarray(reference)
    generator = np.random.default_rng(seed)
    drawn = generator.integers(0, len(ratios), (resamples, len(ratios)))
    low, high = np.percentile(np.median(ratios[drawn], axis=1), [2.5, 97.5])
    return Ratio(float(np.median(ratios)), float(low), float(high))
