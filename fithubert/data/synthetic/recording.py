"""Recordings of the embedded corpus: synthetic speech in a room, with noise and gain, all drawn by seed.

Also the program that makes the recordings of one job, in a process of its own: the synthesiser has one voice a process.
"""

import errno
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fithubert.data import make_generator
from fithubert.data.audio import encode_flac, place_turns
from fithubert.data.synthetic.espeak import RATE_HZ as SPEECH_RATE_HZ
from fithubert.data.synthetic.espeak import Synthesiser, align_phones
from fithubert.errors import as_user_error
from fithubert.files import digest
from fithubert.frames import SAMPLE_RATE_HZ

Samples = NDArray[np.float64]
#: Above this the band-limit rolls off, to nothing at half the sample rate.
_PASS_HZ = 7_600
_UP, _DOWN = 320, 441


def resample_speech(samples: NDArray[np.int16]) -> Samples:
    """(samples,) at 22,050 Hz as (samples,) float64 at 16 kHz in -1..1; times in seconds do not change."""
    wanted = -(-len(samples) * _UP // _DOWN)
    # The padding keeps the end of the utterance from wrapping round to its start.
    blocks = _fast_length(-(-len(samples) // _DOWN) + 2)
    spectrum = np.fft.rfft(samples / 32768.0, blocks * _DOWN)[: blocks * _UP // 2 + 1]
    frequencies = np.fft.rfftfreq(blocks * _UP, 1 / SAMPLE_RATE_HZ)
    fall = np.clip((frequencies - _PASS_HZ) / (SAMPLE_RATE_HZ / 2 - _PASS_HZ), 0, 1)
    spectrum *= 0.5 + 0.5 * np.cos(np.pi * fall)
    return np.fft.irfft(spectrum, blocks * _UP)[:wanted] * (_UP / _DOWN)


def draw_room(rng: np.random.Generator) -> Samples:
    """The impulse response (samples,) of a small room: direct sound at 0, a few reflections and a decaying tail.

    The direct sound is the first sample, so that a room delays no label. Reverberation times of 0.15 to 0.6 s.
    """
    decay_seconds = rng.uniform(0.15, 0.6)
    length = int(0.7 * decay_seconds * SAMPLE_RATE_HZ)
    times = np.arange(length) / SAMPLE_RATE_HZ
    tail = rng.standard_normal(length) * 10.0 ** (-3 * times / decay_seconds)
    tail[: int(rng.uniform(0.004, 0.02) * SAMPLE_RATE_HZ)] = 0.0
    # Walls absorb high frequencies: a two-tap average damps them in the tail.
    tail[1:] = 0.6 * tail[1:] + 0.4 * tail[:-1]
    taps = rng.integers(int(0.002 * SAMPLE_RATE_HZ), int(0.03 * SAMPLE_RATE_HZ), 6)
    tail_energy = float(np.sum(tail**2))
    response = tail * np.sqrt(10 ** (-rng.uniform(4, 14) / 10) / max(tail_energy, 1e-12))
    response[taps] += rng.uniform(-0.3, 0.3, 6) * np.exp(-taps / (0.015 * SAMPLE_RATE_HZ))
    response[0] = 1.0
    return response


def reverberate(samples: Samples, response: Samples) -> Samples:
    """`samples` with the reverberation of a room, of the same length."""
    size = _fast_length(len(samples) + len(response))
    return np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(response, size), size)[: len(samples)]


def draw_noise(rng: np.random.Generator, length: int) -> Samples:
    """(length,) noise of unit power whose spectrum falls at a drawn slope, at times with a mains hum."""
    size = _fast_length(length)
    spectrum = np.fft.rfft(rng.standard_normal(size))
    frequencies = np.maximum(np.fft.rfftfreq(size, 1 / SAMPLE_RATE_HZ), 60.0)
    noise = np.fft.irfft(spectrum * frequencies ** -rng.uniform(0.0, 0.9), size)[:length]
    noise /= np.sqrt(np.mean(noise**2))
    if rng.random() < 0.25:
        times = np.arange(length) / SAMPLE_RATE_HZ
        hum_hz = rng.choice((50.0, 60.0))
        noise += 0.4 * np.sin(2 * np.pi * hum_hz * times) + 0.2 * np.sin(2 * np.pi * 3 * hum_hz * times)
    return noise


#: Between these frequencies a microphone's response is drawn; below and above it continues level.
_LOWEST_KNOT_HZ, _KNOTS, _RESPONSE_DB = 80.0, 24, 8.0


def draw_microphone(rng: np.random.Generator) -> Samples:
    """(24,) the gains in dB of a microphone and its place, within 8 dB, at frequencies even on a logarithmic scale.

    With 6 gains a mean spectrum still names a synthetic voice better than any model does.
    """
    return rng.uniform(-_RESPONSE_DB, _RESPONSE_DB, _KNOTS)


def colour(samples: Samples, gains_db: Samples) -> Samples:
    """`samples` through a microphone with these gains: a smooth response of zero phase, which delays no label."""
    size = _fast_length(len(samples) + SAMPLE_RATE_HZ // 10)
    frequencies = np.maximum(np.fft.rfftfreq(size, 1 / SAMPLE_RATE_HZ), 1.0)
    knots = np.geomspace(_LOWEST_KNOT_HZ, SAMPLE_RATE_HZ / 2, len(gains_db))
    # A raised cosine between neighbouring knots, so that the response has no corners.
    place = np.interp(np.log(frequencies), np.log(knots), np.arange(len(knots)))
    lower = np.minimum(place.astype(int), len(knots) - 2)
    share = 0.5 - 0.5 * np.cos(np.pi * (place - lower))
    response_db = gains_db[lower] * (1 - share) + gains_db[lower + 1] * share
    return np.fft.irfft(np.fft.rfft(samples, size) * 10 ** (response_db / 20), size)[: len(samples)]


def record(rng: np.random.Generator, speech: Samples, level_db: float, signal_to_noise_db: float) -> NDArray[np.int16]:
    """`speech` through a drawn microphone, at an RMS level over full scale with noise under it, in 16 bits.

    It is lowered if it would clip. Speech of pure silence becomes noise at `level_db` less `signal_to_noise_db`.
    """
    speech = colour(speech, draw_microphone(rng))
    power = float(np.mean(speech**2))
    scale = 10 ** (level_db / 20) / np.sqrt(power) if power > 0 else 0.0
    mixed = speech * scale + draw_noise(rng, len(speech)) * 10 ** ((level_db - signal_to_noise_db) / 20)
    mixed *= min(1.0, 0.98 / max(float(np.max(np.abs(mixed))), 1e-9))
    return np.round(mixed * 32767).astype(np.int16)


def _fast_length(length: int) -> int:
    """The smallest length from `length` up with no prime factor above 5, for a quick Fourier transform."""
    while True:
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 1


@dataclass(frozen=True)
class Style:
    """A prosody style by rule: how pitch, its range, rate and level differ from the voice's own. Not human emotion."""

    pitch: int
    pitch_range: int
    rate: float
    level_db: float


STYLES = {
    "neutral": Style(50, 50, 1.0, 0.0),
    "excited": Style(64, 84, 1.12, 2.0),
    "calm": Style(42, 24, 0.84, -3.0),
    "tense": Style(50, 72, 1.24, 5.0),
}


#: The exit status for an error of the user (a full disk); the last line of stderr is the message.
USER_ERROR_STATUS = 3
_LEVEL_DB = (-32.0, -18.0)
#: Bounds of the silence before and after a clip of a word, and around other speech.
_CLIP_MARGINS = ((0.05, 0.15), (0.1, 0.2))
_MARGINS = ((0.08, 0.3), (0.15, 0.4))


#: Of recordings other than mixtures, which always have a room.
_ROOM_SHARE = 0.4
#: By world, the signal-to-noise ratios of recordings, and of mixtures, whose overlapping turns are hard enough. A model
#: is pre-trained on more noise than it is judged on.
RATIOS_DB = {"default": ((15.0, 40.0), (18.0, 40.0)), "pretraining": ((10.0, 30.0), (15.0, 35.0))}


def audio_path(split: str, kind: str, name: str) -> str:
    """The file of an utterance, relative to the folder of all audio."""
    return f"{split}/{kind}/{name}.flac"


class Recorder:
    """The items of one job, recorded one by one.

    `job`: the seed, the world, the folders of the audio, of parts and of voices, the voice, and
    the items. An answer has the number of samples and the digest of the file, and its phones or turns.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        self._job = job
        self._ratio_db, self._mixture_ratio_db = RATIOS_DB[job["world"]]
        speaks = job["task"] == "speak"
        self._voice = Synthesiser(Path(job["voice_data"]), job["accent"], job["name"]) if speaks else None

    def speak(self, item: dict[str, Any]) -> dict[str, Any]:
        """Speak a text; a part of a mixture is kept as clean speech."""
        assert self._voice is not None
        rng = make_generator(self._job["seed"], item["id"])
        style = STYLES[item["style"]]
        raw, events = self._voice.speak(
            item["text"],
            seed=int(rng.integers(1, 2**31)),
            words_per_minute=round(self._job["words_per_minute"] * style.rate * rng.uniform(0.94, 1.06)),
            pitch=style.pitch + int(rng.integers(-4, 5)),
            pitch_range=style.pitch_range + int(rng.integers(-6, 7)),
            volume=100,
        )
        phones = align_phones(events, raw, SPEECH_RATE_HZ)
        # The synthesiser ends with a long pause; the silence around the speech is drawn here instead.
        speech = resample_speech(raw[: round(phones[-1][2] * SPEECH_RATE_HZ)])
        if item["part_of"]:
            np.save(self._part(item["id"]), speech)
            return {"phones": phones}
        clip = item["kind"] in ("keyword", "query")
        lead, tail = (int(rng.uniform(*bounds) * SAMPLE_RATE_HZ) for bounds in (_CLIP_MARGINS if clip else _MARGINS))
        if clip:
            spare = max(0, SAMPLE_RATE_HZ - lead - len(speech) - tail)
            before = int(rng.integers(0, spare + 1))
            lead, tail = lead + before, tail + spare - before
        placed = np.pad(speech, (lead, tail))
        if rng.random() < _ROOM_SHARE:
            placed = reverberate(placed, draw_room(rng))
        level_db = rng.uniform(*_LEVEL_DB) + style.level_db
        answer = self._record(rng, item, placed, level_db, rng.uniform(*self._ratio_db))
        return answer | {"phones": [(p, lead / SAMPLE_RATE_HZ + a, lead / SAMPLE_RATE_HZ + b) for p, a, b in phones]}

    def mix(self, item: dict[str, Any]) -> dict[str, Any]:
        """Lay the parts of a mixture one after the other, often overlapping, and record them together."""
        rng = make_generator(self._job["seed"], item["id"])
        parts = [np.load(self._part(part["id"])) for part in item["parts"]]
        speakers = [part["speaker"] for part in item["parts"]]
        starts = place_turns(rng, speakers, [len(speech) for speech in parts])
        tail = int(rng.uniform(0.2, 0.5) * SAMPLE_RATE_HZ)
        length = max(start + len(speech) for start, speech in zip(starts, parts, strict=True)) + tail
        total = np.zeros(length)
        for speaker in sorted(set(speakers)):
            # All speech of one speaker, each part at unit power.
            track = np.zeros(length)
            for own, speech, start in zip(speakers, parts, starts, strict=True):
                if own == speaker:
                    track[start : start + len(speech)] += speech / np.sqrt(np.mean(speech**2))
            track *= 10 ** (rng.uniform(-2.5, 2.5) / 20)
            total += reverberate(track, draw_room(rng))
        level_db, ratio_db = rng.uniform(*_LEVEL_DB), rng.uniform(*self._mixture_ratio_db)
        turns = [
            (part["speaker"], start / SAMPLE_RATE_HZ + part["start"], start / SAMPLE_RATE_HZ + part["end"])
            for part, start in zip(item["parts"], starts, strict=True)
        ]
        answer = self._record(rng, item, total, level_db, ratio_db)
        return answer | {"turns": sorted(turns, key=lambda turn: turn[1:])}

    def silence(self, item: dict[str, Any]) -> dict[str, Any]:
        """One second of noise, as long as a keyword."""
        rng = make_generator(self._job["seed"], item["id"])
        level_db, ratio_db = rng.uniform(*_LEVEL_DB), rng.uniform(*self._ratio_db)
        return self._record(rng, item, np.zeros(SAMPLE_RATE_HZ), level_db, ratio_db)

    def _part(self, name: str) -> Path:
        return Path(self._job["parts"], f"{name}.npy")

    def _record(
        self, rng: np.random.Generator, item: dict[str, Any], speech: Samples, level_db: float, ratio_db: float
    ) -> dict[str, Any]:
        samples = record(rng, speech, level_db, ratio_db)
        encoded = encode_flac(samples)
        Path(self._job["folder"], audio_path(item["split"], item["kind"], item["id"])).write_bytes(encoded)
        return {"num_samples": len(samples), "digest": digest(encoded)}


def main() -> int:
    """Run the job on stdin; the answers go to stdout."""
    job = json.load(sys.stdin)
    try:
        record_item = getattr(Recorder(job), job["task"])
        answers = [record_item(item) for item in job["items"]]
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print(as_user_error(error, Path(job["folder"]).parent), file=sys.stderr)
        return USER_ERROR_STATUS
    json.dump(answers, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
