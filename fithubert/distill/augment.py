"""Noise and rooms on what a student reads in training. The targets stay those of the clean speech.

Source: RobustDistiller (Guimaraes et al. 2023), distillation from clean speech to a student that reads noisy speech.
Differs: noise and rooms are synthetic, those of the embedded corpus.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fithubert.config.params import AugmentParams
from fithubert.data import make_generator
from fithubert.data.synthetic.recording import draw_noise, draw_room


@dataclass(frozen=True)
class Surroundings:
    """The room and the noise of one crop. `room`: its impulse response (samples,), direct sound first, or None.

    `noise`: (samples,) of unit power, at `ratio_db` below the speech in its room, or None.
    """

    room: Tensor | None
    noise: Tensor | None
    ratio_db: float


def draw_surroundings(params: AugmentParams, seed: int, epoch: int, utterance: str, num_samples: int) -> Surroundings:
    """The surroundings of a crop of `num_samples` of `utterance` in `epoch`; a function of its arguments alone."""
    rng = make_generator(seed, f"augment/{epoch}/{utterance}")
    in_room, noisy = rng.random(2)
    ratio_db = float(rng.uniform(*params.noise_db))
    room = torch.from_numpy(draw_room(rng)).float() if in_room < params.room_share else None
    noise = torch.from_numpy(draw_noise(rng, num_samples)).float() if noisy < params.noise_share else None
    return Surroundings(room, noise, ratio_db)


def add_surroundings(waveforms: Tensor, drawn: Sequence[Surroundings], lengths: Sequence[int]) -> Tensor:
    """Padded `waveforms` (batch, samples) with the surroundings of each; padding stays 0.

    Every waveform by itself, so that its values do not depend on the others. Silence gets no noise.
    """
    result = torch.zeros_like(waveforms)
    for row, (around, length) in enumerate(zip(drawn, lengths, strict=True)):
        x = waveforms[row, :length]
        if around.room is not None:
            size = length + len(around.room) - 1
            spectrum = torch.fft.rfft(x, size) * torch.fft.rfft(around.room.to(x.device), size)
            x = torch.fft.irfft(spectrum, size)[:length]
        if around.noise is not None:
            power = x.square().mean() / 10 ** (around.ratio_db / 10)
            x = x + power.sqrt() * around.noise.to(x.device)
        result[row, :length] = x
    return result
