"""The recorded behaviour of the public implementations, and their habits for tests that need them."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fithubert.models.encoder import PositionalConv
from fithubert.models.frontend import MaskedGroupNorm

_ROOT = Path(__file__).resolve().parents[2]
_PLACES = [
    Path(os.environ.get("FITHUBERT_REFERENCE", "/nonexistent")),
    _ROOT / "shared/fixtures/reference",
    _ROOT.parent / "shared/fixtures/reference",
]
REFERENCE = next((place for place in _PLACES if place.is_dir()), None)
needs_reference = pytest.mark.skipif(
    REFERENCE is None, reason="recorded reference numbers not found (shared/fixtures/reference or FITHUBERT_REFERENCE)"
)
#: The tolerance that the recordings state for activations, losses and gradient norms.
ACTIVATIONS = {"atol": 2e-5, "rtol": 1e-5}
LOSSES = {"atol": 1e-6, "rtol": 1e-5}
VARIANTS = (
    "tr_off",
    "tr_index2",
    "tr_factor3",
    "distil_heads_tr_on",
    "distil_heads_tr_off",
    "distil_one_head_inter24",
    "same_width_head",
    "pre_ln_extractor_ln",
    "pad_multiple2",
    "tr_fc1",
)


def folder(*parts: str) -> Path:
    assert REFERENCE is not None
    return REFERENCE.joinpath(*parts)


def arrays(*parts: str) -> dict[str, Tensor]:
    """The arrays of an .npz file as tensors; strings are left out."""
    with np.load(folder(*parts)) as loaded:
        return {name: torch.from_numpy(loaded[name]) for name in loaded.files if loaded[name].dtype.kind in "fiub"}


def pad_as_the_authors_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let padding into the group norm, into the time reduction and, as zeros, into the encoder's input."""
    forward = PositionalConv.forward

    def zero_also_the_residual(self: PositionalConv, x: Tensor, lengths: Tensor) -> Tensor:
        inside = torch.arange(x.shape[1])[None, :] < lengths[:, None]
        return forward(self, x, lengths) - x * ~inside[:, :, None]

    monkeypatch.setattr(MaskedGroupNorm, "forward", lambda self, x, lengths=None: torch.nn.GroupNorm.forward(self, x))
    monkeypatch.setattr("fithubert.models.frontend.nothing_padded", lambda lengths, longest: True)
    monkeypatch.setattr(PositionalConv, "forward", zero_also_the_residual)
