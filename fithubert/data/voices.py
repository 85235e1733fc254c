"""Speakers of the embedded corpus: an accent, and a voice variant of our own drawn from a seed."""

import random
from dataclasses import dataclass

from fithubert.data.espeak import ACCENTS


@dataclass(frozen=True)
class Speaker:
    """One synthetic voice. `definition` is its voice variant in the synthesiser's own language."""

    name: str
    accent: str
    words_per_minute: int
    definition: str


def draw_speakers(world: str, seed: int, count: int) -> list[Speaker]:
    """`count` speakers, spread evenly over accents, vocal tract lengths and pitches; another world has other voices.

    The first speakers do not depend on `count` except through the spread, which is stratified over it.
    """
    rng = random.Random(f"speakers/{world}/{seed}")
    # Strata keep any two voices apart: independent draws would cluster.
    tracts, pitches, tempos = (_stratified(rng, count) for _ in range(3))
    names = [f"{'p' if world == 'pretraining' else 's'}{index:03d}" for index in range(count)]
    offset = rng.randrange(len(ACCENTS))
    return [
        _draw_speaker(rng, name, ACCENTS[(index + offset) % len(ACCENTS)], tracts[index], pitches[index], tempos[index])
        for index, name in enumerate(names)
    ]


def _stratified(rng: random.Random, count: int) -> list[float]:
    values = [(index + rng.random()) / count for index in range(count)]
    rng.shuffle(values)
    return values


def _draw_speaker(rng: random.Random, name: str, accent: str, tract: float, pitch: float, tempo: float) -> Speaker:
    # A short vocal tract goes with a high pitch, loosely: 0.84..1.24 of the formants, 70..240 Hz.
    scale = 0.84 + 0.40 * tract
    base_hz = round(70 * (240 / 70) ** min(1.0, max(0.0, 0.6 * tract + 0.4 * pitch)))
    top_hz = round(base_hz * rng.uniform(1.25, 1.9))
    lines = ["language variant", f"name {name}", f"pitch {base_hz} {top_hz}"]
    for formant in range(9):
        spread = 0.04 if formant in (1, 2) else 0.08
        frequency = round(100 * scale * rng.uniform(1 - spread, 1 + spread)) if formant else 100
        height = round(rng.uniform(70, 130)) if formant > 2 else round(rng.uniform(88, 112))
        lines.append(f"formant {formant} {frequency} {height} {round(rng.uniform(80, 150))}")
    tilt = rng.uniform(0.55, 1.25)
    lines.append(f"tone 600 170 1200 {round(135 * tilt)} 2000 {round(110 * tilt)} 3000 {round(110 * tilt)}")
    lines.append(f"flutter {rng.randrange(0, 8)}")
    lines.append(f"roughness {rng.choice((0, 0, 1, 1, 2, 3, 4))}")
    lines.append(f"voicing {round(rng.uniform(75, 125))}")
    lines.append(f"consonants {round(rng.uniform(75, 130))} {round(rng.uniform(75, 130))}")
    if rng.random() < 0.5:
        breath = rng.uniform(2, 14)
        lines.append("breath 0 " + " ".join(str(round(breath * rng.uniform(0.5, 1.2))) for _ in range(7)))
    lines.append("stressAdd " + " ".join(str(rng.randrange(-20, 21, 5)) for _ in range(8)))
    return Speaker(name, accent, round(145 + 65 * tempo), "\n".join(lines) + "\n")
