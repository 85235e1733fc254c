"""A tiny corpus and a tiny model whose output does not depend on padding."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from fithubert.files import digest
from fithubert.frames import HUBERT_CONVOLUTIONS, count_conv_frames
from fithubert.models.speech_model import SpeechOutput
from fithubert.store.format import StoreInfo


@dataclass(frozen=True)
class FakeUtterance:
    id: str
    num_samples: int
    seed: int


@dataclass(frozen=True)
class FakeManifest:
    """Noise of known lengths, read from nowhere."""

    utterances: tuple[FakeUtterance, ...]
    root: Path = Path()
    reads: list[str] = field(default_factory=list)

    @property
    def fingerprint(self) -> str:
        return digest(*(f"{u.id} {u.num_samples} {u.seed}" for u in self.utterances))

    def read(self, utterance: FakeUtterance) -> Tensor:
        self.reads.append(utterance.id)
        generator = torch.Generator().manual_seed(utterance.seed)
        noise = torch.randn(utterance.num_samples, generator=generator) * 0.1
        return (noise.clamp(-1, 1) * 32767).round() / 32768


class FakeModel:
    """Three layers of different widths: random projections of each frame's 400 samples, the last with an outlier."""

    name = "fake"
    convolutions = HUBERT_CONVOLUTIONS
    widths = (6, 8, 5)

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.weights = [torch.randn(400, width, generator=generator) for width in self.widths]
        self.fingerprint = digest("fake", str(seed))
        self.batches: list[tuple[int, int]] = []

    def __call__(self, waveforms: Tensor, lengths: Tensor, last_layer: int | None = None) -> SpeechOutput:
        self.batches.append(tuple(waveforms.shape))
        frames = waveforms.unfold(1, 400, 320)
        depth = len(self.widths) if last_layer is None else last_layer + 1
        # float64 inside, so that the rounding of the matrix product does not depend on the batch.
        states = [(frames.double() @ weight.double()).float() for weight in self.weights[:depth]]
        if depth == len(self.widths):
            states[-1][..., 0] = 100.0
        return SpeechOutput(tuple(states), count_conv_frames(lengths, self.convolutions))


def fake_manifest(count: int = 12, seed: int = 0) -> FakeManifest:
    """`count` utterances of 0.1 to 1.5 s, and one of exactly one frame."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1_600, 24_000, (count,), generator=generator).tolist()
    lengths[0] = 400
    return FakeManifest(tuple(FakeUtterance(f"utt-{i:02d}", n, seed * 1000 + i) for i, n in enumerate(lengths)))


def fake_info(codec: str, widths: tuple[int, ...], variance_share: float | None = None) -> StoreInfo:
    """A store of as many layers as there are widths."""
    layers = tuple(range(len(widths)))
    return StoreInfo("fake", "f" * 32, "c" * 32, codec, layers, widths, HUBERT_CONVOLUTIONS, True, variance_share)
