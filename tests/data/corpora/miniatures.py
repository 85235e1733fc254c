"""Miniature copies of published corpora: their folders, lists and file names, a few seconds of synthetic audio."""

from pathlib import Path

import numpy as np
import soundfile

from fithubert.data.corpora.lexicon import FILES

WORDS = ("ONE", "TWO", "THREE", "FOUR")
PHONES = {"ONE": "W AH1 N", "TWO": "T UW1", "THREE": "TH R IY1", "FOUR": "F AO1 R"}


def write_audio(path: Path, seconds: float = 0.6, hz: float = 300.0, rate_hz: int = 16_000, seed: int = 0) -> Path:
    """A tone in noise, as wav or flac by the name of `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    noise = np.random.default_rng([seed, int(hz)]).normal(size=len(time))
    samples = 0.4 * np.sin(2 * np.pi * hz * time) + 0.02 * noise
    soundfile.write(path, samples, rate_hz, subtype="PCM_16")
    return path


def write_text(path: Path, *lines: str) -> Path:
    """A text file with these lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def write_librispeech(
    root: Path, subsets: tuple[str, ...] = ("train-clean-100", "dev-clean", "test-clean"), utterances: int = 4
) -> Path:
    """`LibriSpeech/` with two speakers a subset, and the lexicon files beside it."""
    for number, subset in enumerate(subsets):
        for speaker in (str(10 + 2 * number), str(11 + 2 * number)):
            folder = root / "LibriSpeech" / subset / speaker / "7"
            stems = [f"{speaker}-7-{index:04d}" for index in range(utterances)]
            texts = [" ".join(WORDS[(i + k) % 4] for k in range(2 + i % 2)) for i in range(utterances)]
            write_text(folder / f"{speaker}-7.trans.txt", *(f"{s} {t}" for s, t in zip(stems, texts, strict=True)))
            for index, stem in enumerate(stems):
                write_audio(folder / f"{stem}.flac", 0.6 + 0.1 * index, 200 + 40 * int(speaker), seed=index)
    write_lexicon(root / "lexicon")
    return root


def write_lexicon(folder: Path) -> Path:
    """Both lexicon files: the first pronunciation of a word counts, and the first file's."""
    write_text(folder / FILES[0], "ONE\tW AH1 N", "ONE\tHH W AH1 N", f"TWO\t{PHONES['TWO']}")
    write_text(folder / FILES[1], "TWO\tSPN", *(f"{w} {PHONES[w]}" for w in ("THREE", "FOUR")))
    return folder
