"""Fakes that several packages need: noise in files and in a manifest, a model that ignores padding, a small HuBERT."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from fithubert.config.teacher import HubertConfig
from fithubert.files import digest
from fithubert.frames import HUBERT_CONVOLUTIONS, count_conv_frames
from fithubert.models.hubert import HubertModel, HubertTeacher
from fithubert.models.speech_model import Locality, SpeechOutput


@dataclass(frozen=True)
class FakeUtterance:
    """Noise that depends only on `seed`."""

    id: str
    num_samples: int
    seed: int


@dataclass(frozen=True)
class FakeManifest:
    """Noise of known lengths, without files. The utterance `broken` has only samples that are not numbers."""

    utterances: tuple[FakeUtterance, ...]
    broken: str | None = None
    root: Path = Path()
    reads: list[str] = field(default_factory=list)

    @property
    def fingerprint(self) -> str:
        return digest(*(f"{u.id} {u.num_samples} {u.seed}" for u in self.utterances))

    def read(self, utterance: FakeUtterance) -> Tensor:
        self.reads.append(utterance.id)
        generator = torch.Generator().manual_seed(utterance.seed)
        noise = torch.randn(utterance.num_samples, generator=generator) * 0.1
        if utterance.id == self.broken:
            noise[:] = torch.nan
        return (noise.clamp(-1, 1) * 32767).round() / 32768


def draw_utterances(count: int, shortest: int, longest: int, seed: int = 0) -> list[FakeUtterance]:
    """`count` utterances of `shortest` to `longest` samples."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(shortest, longest, (count,), generator=generator).tolist()
    return [FakeUtterance(f"utt-{i:02d}", n, seed * 1000 + i) for i, n in enumerate(lengths)]


class FakeModel:
    """Three layers of different widths: random projections of each frame's 400 samples, the last with an outlier."""

    name = "fake"
    convolutions, frame_multiple, locality = HUBERT_CONVOLUTIONS, 1, Locality()
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
        # In float64, so that the rounding of the matrix product does not depend on the batch.
        states = [(frames.double() @ weight.double()).float() for weight in self.weights[:depth]]
        if depth == len(self.widths):
            states[-1][..., 0] = 100.0
        return SpeechOutput(tuple(states), count_conv_frames(lengths, self.convolutions))


def tiny_hubert(**changes: int) -> HubertTeacher:
    """A HuBERT of two layers, 16 wide, with HuBERT's own strides and always the same random weights."""
    torch.manual_seed(0)
    sizes = {"width": 16, "depth": 2, "ffn_width": 16, "attention_heads": 2, "pos_conv_kernel": 8, "pos_conv_groups": 2}
    convolutions = tuple((8, kernel, stride) for kernel, stride in HUBERT_CONVOLUTIONS)
    return HubertTeacher(HubertModel(HubertConfig(conv_layers=convolutions, **{**sizes, **changes})), "tiny")


def write_noise(
    path: Path, seconds: float, rate_hz: int = 16_000, channels: int = 1, subtype: str | None = None
) -> Path:
    """Noise that depends on the file's name alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(list(path.name.encode()))
    samples = 0.1 * generator.standard_normal((round(seconds * rate_hz), channels))
    soundfile.write(path, samples, rate_hz, subtype=subtype)
    return path


def write_folder(root: Path, count: int = 12) -> Path:
    """Recordings of 0.1 to 4 s, some nested, of several rates."""
    for index in range(count):
        name = f"{'nested/deeper/' if index % 3 == 0 else ''}r{index:02d}.{'flac' if index % 2 else 'wav'}"
        write_noise(root / name, 0.1 + 3.9 * (index * 7 % count) / count, (16_000, 8_000, 44_100)[index % 3])
    return root
