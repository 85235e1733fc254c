"""The process that speaks: `python -m fithubert.data.speak` reads one job from stdin and answers on stdout, both JSON.

A job is one speaker with everything that speaker says, or a list of mixtures of what was said. It imports no PyTorch,
so that a process for each speaker costs little.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fithubert.data.espeak import RATE_HZ, Synthesiser
from fithubert.data.phones import align_phones
from fithubert.data.publish import RATE_HZ as FILE_RATE_HZ
from fithubert.data.publish import encode_flac
from fithubert.data.rooms import Samples, draw_room, record, resample_speech, reverberate
from fithubert.files import digest

#: The exit status that says: the last line of stderr is for the user (a full disk).
USER_ERROR_STATUS = 3
_ROOM_SHARE = 0.75
_LEVEL_DB = (-32.0, -18.0)
_SIGNAL_TO_NOISE_DB = (8.0, 32.0)
_KEYWORD_SAMPLES = 16_000
#: How much later than the end of a turn the next one begins, in seconds; less than 0 is overlap.
_GAP_SECONDS = (-1.2, 0.5)

Phones = list[tuple[str, float, float]]


def speak_items(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Speak the items of one speaker in order; one answer each: num_samples, digest and phones."""
    synthesiser = Synthesiser(Path(job["voice_data"]), job["accent"], job["variant"])
    return [_speak_item(synthesiser, job, item) for item in job["items"]]


def _speak_item(synthesiser: Synthesiser, job: dict[str, Any], item: dict[str, Any]) -> dict[str, Any]:
    rng = _generator(job["seed"], item["id"])
    style = item["style"]
    raw, events = synthesiser.speak(
        item["text"],
        seed=int(rng.integers(1, 2**31)),
        words_per_minute=round(job["words_per_minute"] * style["rate"] * rng.uniform(0.94, 1.06)),
        pitch=style["pitch"] + int(rng.integers(-4, 5)),
        pitch_range=style["pitch_range"] + int(rng.integers(-6, 7)),
        volume=100,
    )
    phones = align_phones(events, raw, RATE_HZ)
    # The synthesiser ends with a long pause; what surrounds speech is drawn here instead.
    speech = resample_speech(raw[: round(phones[-1][2] * RATE_HZ)])
    if item["part"]:
        np.save(job["parts"] + "/" + item["path"], speech)
        return {"phones": phones}
    clip = item["kind"] in ("keyword", "query")
    lead = int(rng.uniform(0.05, 0.15) * FILE_RATE_HZ if clip else rng.uniform(0.08, 0.3) * FILE_RATE_HZ)
    tail = int(rng.uniform(0.1, 0.2) * FILE_RATE_HZ if clip else rng.uniform(0.15, 0.4) * FILE_RATE_HZ)
    if clip:
        spare = max(0, _KEYWORD_SAMPLES - lead - len(speech) - tail)
        before = int(rng.integers(0, spare + 1))
        lead, tail = lead + before, tail + spare - before
    placed = np.pad(speech, (lead, tail))
    if rng.random() < _ROOM_SHARE:
        placed = reverberate(placed, draw_room(rng))
    level_db = rng.uniform(*_LEVEL_DB) + style["level_db"]
    samples = record(rng, placed, level_db, rng.uniform(*_SIGNAL_TO_NOISE_DB))
    answer = _write(samples, job["folder"], item["path"])
    return answer | {"phones": [(p, lead / FILE_RATE_HZ + a, lead / FILE_RATE_HZ + b) for p, a, b in phones]}


def mix_items(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Lay the parts of each mixture one after the other, often overlapping, and record them together."""
    return [_mix(job, item) for item in job["items"]]


def _mix(job: dict[str, Any], item: dict[str, Any]) -> dict[str, Any]:
    rng = _generator(job["seed"], item["id"])
    parts = [np.load(job["parts"] + "/" + part["path"]) for part in item["parts"]]
    starts: list[int] = []
    free: dict[str, int] = {}
    cursor = int(rng.uniform(0.1, 0.4) * FILE_RATE_HZ)
    for part, speech in zip(item["parts"], parts, strict=True):
        # A speaker never talks over himself.
        starts.append(max(cursor, free.get(part["speaker"], 0)))
        free[part["speaker"]] = starts[-1] + len(speech) + FILE_RATE_HZ // 10
        gap = int(rng.uniform(*_GAP_SECONDS) * FILE_RATE_HZ)
        cursor = max(starts[-1] + FILE_RATE_HZ // 4, starts[-1] + len(speech) + gap)
    length = max(s + len(p) for s, p in zip(starts, parts, strict=True)) + int(rng.uniform(0.2, 0.5) * FILE_RATE_HZ)
    total = np.zeros(length)
    for speaker in sorted(free):
        track = _track(item["parts"], parts, starts, speaker, length)
        track *= 10 ** (rng.uniform(-2.5, 2.5) / 20)
        total += reverberate(track, draw_room(rng))
    samples = record(rng, total, rng.uniform(*_LEVEL_DB), rng.uniform(12.0, _SIGNAL_TO_NOISE_DB[1]))
    turns = [
        (part["speaker"], start / FILE_RATE_HZ + part["start"], start / FILE_RATE_HZ + part["end"])
        for part, start in zip(item["parts"], starts, strict=True)
    ]
    return _write(samples, job["folder"], item["path"]) | {"turns": sorted(turns, key=lambda turn: turn[1:])}


def _track(parts: list[dict[str, Any]], audio: list[Samples], starts: list[int], speaker: str, length: int) -> Samples:
    """(length,) all that one speaker of a mixture says, each part at unit power."""
    track = np.zeros(length)
    for part, speech, start in zip(parts, audio, starts, strict=True):
        if part["speaker"] == speaker:
            track[start : start + len(speech)] += speech / np.sqrt(np.mean(speech**2))
    return track


def record_silences(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Clips of one second of noise, as long as a keyword."""
    answers = []
    for item in job["items"]:
        rng = _generator(job["seed"], item["id"])
        level_db, ratio_db = rng.uniform(*_LEVEL_DB), rng.uniform(*_SIGNAL_TO_NOISE_DB)
        samples = record(rng, np.zeros(_KEYWORD_SAMPLES), level_db, ratio_db)
        answers.append(_write(samples, job["folder"], item["path"]))
    return answers


def _generator(seed: str, name: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:16], "big"))


def _write(samples: NDArray[np.int16], folder: str, path: str) -> dict[str, Any]:
    encoded = encode_flac(samples)
    Path(folder, path).write_bytes(encoded)
    return {"num_samples": len(samples), "digest": digest(encoded)}


TASKS = {"speak": speak_items, "mix": mix_items, "silence": record_silences}


def main() -> int:
    """Run the job on stdin."""
    job = json.load(sys.stdin)
    try:
        answers = TASKS[job["task"]](job)
    except OSError as error:
        if error.errno != 28:
            raise
        print(
            f"{Path(job['folder']).parent}: the disk is full; free some space and run the command again",
            file=sys.stderr,
        )
        return USER_ERROR_STATUS
    json.dump(answers, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
