"""Small students of every read-out, and speech-like batches."""

from typing import Any

import torch
from torch import Tensor

from fithubert.models.runtime import ReadOut
from tests.models.shapes import PRUNED, strong, tiny

#: Few layers, one of each kind: tracing them is what takes long.
SMALL = {"conv_layers": [[8, 10, 5], [12, 1, 1], [16, 3, 2], [16, 2, 2]], "depth": 2}
#: Time is reduced between the two layers.
LATE = {"pos_conv_kernel": 128, "time_reduction": {"kind": "conv1d", "before_layer": 1}}
#: A student for each read-out by its name: its recipe, and what is changed of its shape.
READOUTS: dict[str, tuple[str, dict[str, Any]]] = {
    "last": ("fithubert", {}),
    "layers": ("distilhubert", {}),
    "layers_starhubert": ("starhubert", {}),
    "projections": ("armhubert", {}),
    "some_heads": ("fithubert_mel", {"readout": "projections", "heads": {"read": [1, 3]}, **LATE}),
    "encoder": ("distilhubert", {"readout": "encoder", "time_reduction": {"kind": "conv1d"}}),
    "outputs": ("starhubert", {"readout": "outputs"}),
    "pruned": ("fithubert", PRUNED),
    "limited": ("fithubert", {"conv_norm": "layer", "context_frames": 2}),
    "last_mel": ("fithubert_mel", {}),
    "all": ("distilhubert", {"readout": "all", "heads": {"teacher_width": 32}}),
}
#: Larger than 1e-5 between a batch and one by one: logarithms enlarge the rounding of quiet bands.
TOLERANCES = {"last_mel": 5e-5, "some_heads": 5e-5}


def tiny_readout(name: str, **changes: Any) -> ReadOut:
    """The tiny student of `READOUTS` by its name, or of a recipe, with `changes` of its shape."""
    recipe, shape = READOUTS.get(name, (name, {}))
    return ReadOut(strong(tiny(recipe, **shape, **changes)), name)


def draw_waveforms(*lengths: int) -> list[Tensor]:
    """Noise of each length in samples."""
    generator = torch.Generator().manual_seed(0)
    return [0.1 * torch.randn(length, generator=generator) for length in lengths]


def read_alone(readout: ReadOut, waveform: Tensor) -> list[Tensor]:
    """The read-out's states (time, feature) of one utterance."""
    out = readout(waveform[None], torch.tensor([len(waveform)]))
    return [state[0] for state in out.hidden_states]
