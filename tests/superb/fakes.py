"""A small labelled corpus without audio, features of its labels and of noise, and official learners."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fithubert.config.superb import OfficialQuirks, TaskBudget
from fithubert.data.manifest import Intent, Manifest, Phone, Slot, Turn, Utterance
from fithubert.frames import HUBERT_CONVOLUTIONS
from fithubert.superb.learners import Learner
from fithubert.superb.official import official_learner
from fithubert.superb.run import find_learner

PHONES = ("AA", "B", "IY", "K", "M", "S", "T", "UW")
SPEAKERS = ("s000", "s001", "s002", "s003")
STYLES = ("angry", "flat", "lively")
KEYWORDS = ("yes", "no", "_unknown_", "_silence_")
ACTIONS, OBJECTS, LOCATIONS = ("on", "off"), ("lamp", "music"), ("kitchen", "none")
FRAME_SECONDS, FRAMES_PER_PHONE = 0.02, 5
QUERIES = PHONES[:4]
SPLITS = ("train",) * 6 + ("dev", "test")


@dataclass(frozen=True)
class Row:
    """One utterance's features."""

    hidden_states: Mapping[int, Tensor]


@dataclass(frozen=True)
class Description:
    """20 ms frames."""

    convolutions: Sequence[tuple[int, int]] = HUBERT_CONVOLUTIONS


@dataclass
class MemoryStore:
    """Features in memory behind the feature store's reading interface."""

    rows: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    info: Description = field(default_factory=Description)

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
    def shards(self) -> Sequence[int]:
        return [index % 3 for index in range(len(self.rows))]

    def read(self, row: str, layers: Sequence[int] | None = None, /) -> Row:
        hidden = self.rows[row]
        return Row(hidden if layers is None else {layer: hidden[layer] for layer in layers})


def make_corpus(
    sentences: int = 80, words: int = 80, commands: int = 80, mixtures: int = 40, seed: int = 0
) -> Manifest:
    """Utterances with labels of every task; the last two of each eight are dev and test."""
    rng = np.random.default_rng(seed)
    utterances = [_sentence(i, rng) for i in range(sentences)]
    utterances += [_word(i) for i in range(words)]
    utterances += [_command(i, rng) for i in range(commands)]
    utterances += [_mixture(i, rng) for i in range(mixtures)]
    utterances += [_query(i) for i in range(4 * len(QUERIES))]
    utterances += [replace(_sentence(1000 + i, rng), split="verification") for i in range(4 * len(SPEAKERS))]
    return Manifest(tuple(utterances), Path("data"))


def _sentence(index: int, rng: np.random.Generator) -> Utterance:
    labels = rng.choice(PHONES, size=int(rng.integers(4, 10)))
    span = FRAMES_PER_PHONE * FRAME_SECONDS
    phones = tuple(Phone(str(x), i * span, (i + 1) * span) for i, x in enumerate(labels))
    speaker = SPEAKERS[(index // 8 if index < 1000 else index) % len(SPEAKERS)]
    return _utterance(
        f"sentence{index:04d}", index, "sentence", len(phones), phones=phones, words=tuple(p.label for p in phones),
        speaker=speaker, style=STYLES[index // 8 % len(STYLES)],
    )  # fmt: skip


def _word(index: int) -> Utterance:
    return _utterance(f"word{index:04d}", index, "keyword", 4, keyword=KEYWORDS[index // 8 % len(KEYWORDS)])


def _command(index: int, rng: np.random.Generator) -> Utterance:
    intent = Intent(*(str(rng.choice(values)) for values in (ACTIONS, OBJECTS, LOCATIONS)))
    span = FRAMES_PER_PHONE * FRAME_SECONDS
    phones = tuple(Phone(str(x), i * span, (i + 1) * span) for i, x in enumerate(rng.choice(PHONES, size=6)))
    slots = (Slot("thing", phones[1].label, 1, 1), Slot("place", " ".join(p.label for p in phones[3:5]), 3, 2))
    words = tuple(p.label for p in phones)
    return _utterance(
        f"command{index:04d}",
        index,
        "command",
        6,
        intent=intent,
        phones=phones,
        words=words,
        slots=slots[: 1 + index % 2],
    )


def _mixture(index: int, rng: np.random.Generator) -> Utterance:
    pair = sorted(rng.choice(SPEAKERS, size=2, replace=False))
    edges = np.sort(rng.integers(2, 38, size=2)) * FRAME_SECONDS
    turns = (Turn(str(pair[0]), 0.0, float(edges[1])), Turn(str(pair[1]), float(edges[0]), 0.8))
    return _utterance(f"mixture{index:04d}", index, "mixture", 8, turns=turns)


def _query(index: int) -> Utterance:
    label = QUERIES[index % len(QUERIES)]
    span = 2 * FRAMES_PER_PHONE * FRAME_SECONDS
    return _utterance(f"query{index:04d}", 6 + index % 2, "query", 2, query=label, phones=(Phone(label, 0.0, span),))


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
        for place, turn in enumerate(sorted(utterance.turns or (), key=lambda t: t.speaker)):
            first, last = (round(t / FRAME_SECONDS) for t in (turn.start_seconds, turn.end_seconds))
            signal[first:last] += _code(codes, f"place{place}", width, rng)
        for label in (utterance.speaker, utterance.style, utterance.keyword, *parts):
            signal += 0 if label is None else _code(codes, label, width, rng)
        hidden[layers - 1] = signal + noise * hidden[layers - 1]
        store.rows[utterance.id] = hidden
    return store


def noise_features(manifest: Manifest, layers: int = 2, width: int = 8) -> MemoryStore:
    """A trivial model: noise that knows nothing of the labels."""
    rng = torch.Generator().manual_seed(1)
    rows = {u.id: {i: torch.randn(count_frames(u), width, generator=rng) for i in range(layers)} for u in manifest}
    return MemoryStore(rows)


def _code(codes: dict[str, Tensor], label: str, width: int, rng: torch.Generator) -> Tensor:
    if label not in codes:
        codes[label] = 2 * torch.randn(width, generator=rng)
    return codes[label]


#: The small corpus is made of short sentences with their silences, as loud as they are.
OPEN = OfficialQuirks(asv_silence_trim=False, asv_crops=False, sox_gain=False)


def official(name: str, **off: bool) -> Learner[Any]:
    """The learner of a task by the official protocol with these quirks off."""
    return official_learner(find_learner(name), OfficialQuirks(**off))  # type: ignore[return-value]


def small(name: str, **changes: object) -> TaskBudget:
    """A budget of a few steps."""
    budget = {"steps": 4, "batch": 4, "eval_every": 2, "learning_rates": (1e-2,), "head_width": 16, **changes}
    return TaskBudget(steps=0) if name == "qbe" else TaskBudget.model_validate(budget)
