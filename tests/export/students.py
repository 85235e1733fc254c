"""Small students of every read-out, and speech-like batches."""

from typing import Any

import torch
from torch import Tensor

from fithubert.models.runtime import ReadOut
from tests.models.shapes import strong, tiny

#: What each of them reads: the last head, blocks without time reduction, blocks with, every head.
RECIPES = ("fithubert", "distilhubert", "starhubert", "armhubert")


#: Few layers, one of each kind: tracing them is what takes long.
SMALL = {"conv_layers": [[8, 10, 5], [12, 1, 1], [16, 3, 2], [16, 2, 2]], "depth": 2}


def tiny_readout(recipe: str, **changes: Any) -> ReadOut:
    """A tiny student of `recipe`, with `changes` of its shape."""
    return ReadOut(strong(tiny(recipe, **changes)), recipe)


def draw_waveforms(*lengths: int) -> list[Tensor]:
    """Noise of each length in samples."""
    generator = torch.Generator().manual_seed(0)
    return [0.1 * torch.randn(length, generator=generator) for length in lengths]


def read_alone(readout: ReadOut, waveform: Tensor) -> list[Tensor]:
    """The read-out's states (time, feature) of one utterance."""
    out = readout(waveform[None], torch.tensor([len(waveform)]))
    return [state[0] for state in out.hidden_states]
