"""Audio that is made of real speech: mixtures of two speakers for SD, and read lists of words that QbE searches."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fithubert.data import Turn, Utterance, make_generator
from fithubert.data.audio import encode_flac, place_turns
from fithubert.data.manifest import Manifest
from fithubert.files import digest
from fithubert.frames import SAMPLE_RATE_HZ

Samples = NDArray[np.float64]
#: Clips of each keyword that dev and test search for.
QUERIES_EACH = 2
_MIXTURES = {"train": 120, "dev": 24, "test": 48}
#: Each of two speakers speaks this many sentences of such a length.
_TURNS_EACH, _TURN_SECONDS = 2, (1.5, 7.0)
_LISTS_EACH, _LIST_WORDS = 8, 6
_WINDOW = SAMPLE_RATE_HZ // 50
#: A window is speech if it is at most so much quieter than the loud ones; a shorter pause is a part of the turn.
_QUIET_DB, _PAUSE_SECONDS = 30.0, 0.3
_LEVEL_DB, _BALANCE_DB = -26.0, 2.5
#: Left around the speech of a recording.
_MARGIN = SAMPLE_RATE_HZ // 20


def write_real_audio(manifest: Manifest, seed: int, folder: Path) -> list[Utterance]:
    """Write the mixtures and the lists to `folder`; the utterances, whose `audio` is relative to it.

    Every split has its own speakers. The bytes depend on the corpus and the seed alone. A split whose speakers have too
    few sentences or words has none.
    """
    made = []
    for split, count in _MIXTURES.items():
        pool = _group([u for u in manifest.select(split, "sentence") if u.text and _fits(u)])
        pool = {name: rows for name, rows in pool.items() if len(rows) >= _TURNS_EACH}
        for number in range(count if len(pool) > 1 else 0):
            made.append(_mix(manifest, pool, f"mixture-{split}-{number:03d}", seed, folder))
    for split in ("dev", "test"):
        asked = {u.audio for u in manifest.select(split, "query")}
        words = _group([u for u in manifest.select(split, "keyword") if u.audio not in asked])
        for speaker, clips in words.items():
            for number in range(_LISTS_EACH if asked and len(clips) >= _LIST_WORDS else 0):
                made.append(_list_words(manifest, clips, f"list-{split}-{speaker}-{number}", seed, folder))
    return made


def find_speech(samples: Samples) -> list[tuple[int, int]]:
    """(first, last) sample of each stretch of speech, by the level of 20 ms; pauses below 0.3 s are bridged.

    Empty for a recording without a single window.
    """
    count = len(samples) // _WINDOW
    if not count:
        return []
    power = np.square(samples[: count * _WINDOW]).reshape(count, _WINDOW).mean(axis=1)
    active = np.flatnonzero(power > np.percentile(power, 95) * 10 ** (-_QUIET_DB / 10))
    if not len(active):
        return []
    breaks = np.flatnonzero(np.diff(active) * _WINDOW > _PAUSE_SECONDS * SAMPLE_RATE_HZ)
    firsts = active[np.concatenate([[0], breaks + 1])] * _WINDOW
    lasts = (active[np.concatenate([breaks, [len(active) - 1]])] + 1) * _WINDOW
    return list(zip(firsts.tolist(), lasts.tolist(), strict=True))


def _fits(utterance: Utterance) -> bool:
    return _TURN_SECONDS[0] <= utterance.seconds <= _TURN_SECONDS[1]


def _group(utterances: Sequence[Utterance]) -> dict[str, list[Utterance]]:
    grouped: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        grouped[utterance.speaker or ""].append(utterance)
    return dict(sorted(grouped.items()))


def _mix(manifest: Manifest, pool: dict[str, list[Utterance]], name: str, seed: int, folder: Path) -> Utterance:
    """Two speakers in turns, each at a level of their own; the turns are what is loud enough."""
    rng = make_generator(seed, name)
    pair = [list(pool)[i] for i in rng.choice(len(pool), 2, replace=False)]
    chosen = {s: [pool[s][i] for i in rng.choice(len(pool[s]), _TURNS_EACH, replace=False)] for s in pair}
    speakers = pair * _TURNS_EACH
    parts = [_cut(_read(manifest, chosen[s][turn // 2])) for turn, s in enumerate(speakers)]
    starts = place_turns(rng, speakers, [len(part) for part in parts])
    total = np.zeros(max(start + len(part) for start, part in zip(starts, parts, strict=True)))
    levels = {s: 10 ** (rng.uniform(-_BALANCE_DB, _BALANCE_DB) / 20) for s in pair}
    turns = []
    for speaker, start, part in zip(speakers, starts, parts, strict=True):
        total[start : start + len(part)] += levels[speaker] * part / np.sqrt(np.mean(part**2))
        spans = ((start + first, start + last) for first, last in find_speech(part))
        turns += [Turn(speaker, first / SAMPLE_RATE_HZ, last / SAMPLE_RATE_HZ) for first, last in spans]
    turns.sort(key=lambda turn: (turn.start_seconds, turn.speaker))
    split = name.split("-")[1]
    return _write(total, folder, Utterance(name, "", "", split, "mixture", 0, turns=tuple(turns)))


def _list_words(manifest: Manifest, clips: Sequence[Utterance], name: str, seed: int, folder: Path) -> Utterance:
    """Some words of one speaker, one after another; not a part of the tasks that read sentences."""
    rng = make_generator(seed, name)
    chosen = [clips[i] for i in rng.choice(len(clips), _LIST_WORDS, replace=False)]
    joined = np.concatenate([_cut(_read(manifest, clip)) for clip in chosen])
    text = " ".join(clip.keyword or "" for clip in chosen)
    row = Utterance(
        name, "", "", name.split("-")[1], "sentence", 0, text=text, words=tuple(text.split()), task_splits=("asr:none",)
    )
    return _write(joined, folder, row)


def _cut(samples: Samples) -> Samples:
    """The recording from its first to its last speech."""
    spans = find_speech(samples) or [(0, len(samples))]
    return samples[max(0, spans[0][0] - _MARGIN) : spans[-1][1] + _MARGIN]


def _read(manifest: Manifest, utterance: Utterance) -> Samples:
    return manifest.read(utterance).double().numpy()


def _write(samples: Samples, folder: Path, utterance: Utterance) -> Utterance:
    """`utterance` with its file, at one level, lowered if it would clip."""
    scaled = samples * (10 ** (_LEVEL_DB / 20) / max(float(np.sqrt(np.mean(samples**2))), 1e-9))
    scaled *= min(1.0, 0.98 / max(float(np.max(np.abs(scaled))), 1e-9))
    encoded = encode_flac(np.round(scaled * 32767).astype(np.int16))
    audio = f"{utterance.split}/{utterance.kind}/{utterance.id}.flac"
    (folder / audio).parent.mkdir(parents=True, exist_ok=True)
    (folder / audio).write_bytes(encoded)
    return replace(utterance, audio=audio, digest=digest(encoded), num_samples=len(samples))
