"""A small labelled corpus without audio, and features made from its labels: a telling model and a blind one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fithubert.data.manifest import Intent, Manifest, Phone, Utterance

PHONES = ("AA", "B", "IY", "K", "M", "S", "T", "UW")
SPEAKERS = ("s000", "s001", "s002", "s003")
STYLES = ("angry", "flat", "lively")
KEYWORDS = ("yes", "no", "_unknown_", "_silence_")
ACTIONS, OBJECTS, LOCATIONS = ("on", "off"), ("lamp", "music"), ("kitchen", "none")
FRAME_SECONDS, FRAMES_PER_PHONE = 0.02, 5
SPLITS = ("train",) * 6 + ("dev", "test")


@dataclass(frozen=True)
class Row:
    """One utterance's features."""

    hidden: Mapping[int, Tensor]


@dataclass
class MemoryStore:
    """Features in memory behind the feature store's reading interface."""

    rows: dict[str, dict[int, Tensor]] = field(default_factory=dict)

    @property
    def ids(self) -> Sequence[str]:
        return list(self.rows)

    @property
    def layers(self) -> Sequence[int]:
        return sorted(next(iter(self.rows.values())))

    @property
    def num_frames(self) -> Sequence[int]:
        return [len(next(iter(hidden.values()))) for hidden in self.rows.values()]

    @property
    def groups(self) -> Sequence[int]:
        return [index % 3 for index in range(len(self.rows))]

    def read(self, row: str, /) -> Row:
        return Row(self.rows[row])


def make_corpus(sentences: int = 80, words: int = 80, commands: int = 80, seed: int = 0) -> Manifest:
    """Utterances with labels of every task that needs no second speaker; the last of each eight are dev and test."""
    rng = np.random.default_rng(seed)
    utterances = [_sentence(i, rng) for i in range(sentences)]
    utterances += [_word(i) for i in range(words)]
    utterances += [_command(i, rng) for i in range(commands)]
    return Manifest(tuple(utterances), Path("data"))


def _sentence(index: int, rng: np.random.Generator) -> Utterance:
    labels = rng.choice(PHONES, size=int(rng.integers(4, 10)))
    span = FRAMES_PER_PHONE * FRAME_SECONDS
    phones = tuple(Phone(str(x), i * span, (i + 1) * span) for i, x in enumerate(labels))
    return _utterance(
        f"sentence{index:04d}", index, "sentence", len(phones), phones=phones,
        speaker=SPEAKERS[index // 8 % len(SPEAKERS)], style=STYLES[index // 8 % len(STYLES)],
    )  # fmt: skip


def _word(index: int) -> Utterance:
    return _utterance(f"word{index:04d}", index, "keyword", 4, keyword=KEYWORDS[index // 8 % len(KEYWORDS)])


def _command(index: int, rng: np.random.Generator) -> Utterance:
    intent = Intent(*(str(rng.choice(values)) for values in (ACTIONS, OBJECTS, LOCATIONS)))
    return _utterance(f"command{index:04d}", index, "command", 6, intent=intent)


def _utterance(row_id: str, index: int, kind: str, num_phones: int, **labels: object) -> Utterance:
    samples = round(num_phones * FRAMES_PER_PHONE * FRAME_SECONDS * 16_000) + 80
    return Utterance(
        id=row_id, audio=f"{row_id}.flac", digest="0", split=SPLITS[index % 8], kind=kind, num_samples=samples, **labels
    )  # type: ignore[arg-type]  # fmt: skip


def count_frames(utterance: Utterance) -> int:
    """Frames of an utterance at 20 ms."""
    return (utterance.num_samples - 400) // 320 + 1


def label_features(
    manifest: Manifest, layers: int = 3, width: int = 24, noise: float = 0.3, seed: int = 0
) -> MemoryStore:
    """Features that carry every label in the last layer and noise alone in the others."""
    rng = torch.Generator().manual_seed(seed)
    codes: dict[str, Tensor] = {}
    store = MemoryStore()
    for utterance in manifest:
        frames = count_frames(utterance)
        hidden = {i: torch.randn(frames, width, generator=rng) for i in range(layers)}
        signal = torch.zeros(frames, width)
        for phone in utterance.phones or ():
            first, last = (round(t / FRAME_SECONDS) for t in (phone.start_seconds, phone.end_seconds))
            signal[first:last] += _code(codes, phone.label, width, rng)
        intent = utterance.intent
        parts = () if intent is None else ("a" + intent.action, "o" + intent.object, "l" + intent.location)
        for label in (utterance.speaker, utterance.style, utterance.keyword, *parts):
            signal += 0 if label is None else _code(codes, label, width, rng)
        hidden[layers - 1] = signal + noise * hidden[layers - 1]
        store.rows[utterance.id] = hidden
    return store


def blind_features(manifest: Manifest, layers: int = 2, width: int = 8) -> MemoryStore:
    """A trivial model: noise that knows nothing of the labels."""
    rng = torch.Generator().manual_seed(1)
    rows = {u.id: {i: torch.randn(count_frames(u), width, generator=rng) for i in range(layers)} for u in manifest}
    return MemoryStore(rows)


def _code(codes: dict[str, Tensor], label: str, width: int, rng: torch.Generator) -> Tensor:
    if label not in codes:
        codes[label] = 2 * torch.randn(width, generator=rng)
    return codes[label]
