"""espeak-ng, which speaks the embedded corpus, run in a process of its own."""

import ctypes
import hashlib
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fithubert.data.manifest import RATE_HZ as FILE_RATE_HZ
from fithubert.data.manifest import encode_flac
from fithubert.data.synthetic.acoustics import Samples, draw_room, record, resample_speech, reverberate
from fithubert.data.synthetic.phones import align_phones
from fithubert.errors import UserError
from fithubert.files import digest

RATE_HZ = 22_050
#: Accents of English that the synthesiser has by these names (`en` is British; `en-gb` is not a name it knows).
ACCENTS = (
    "en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029", "en-us-nyc",
)  # fmt: skip

_SYNCHRONOUS = 2
_PHONE_EVENTS, _IPA, _DONT_EXIT = 0x1, 0x2, 0x8000
_UTF8, _END_PAUSE = 0x1, 0x1000
_EVENT_PHONE = 7
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
#: The library keeps its data path in a buffer of this many characters.
_MAX_PATH = 150


class _Id(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int), ("unique_identifier", ctypes.c_uint), ("text_position", ctypes.c_int),
        ("length", ctypes.c_int), ("audio_position", ctypes.c_int), ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p), ("id", _Id),
    )  # fmt: skip


class _Voice(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p), ("languages", ctypes.c_char_p), ("identifier", ctypes.c_char_p),
        ("gender", ctypes.c_ubyte), ("age", ctypes.c_ubyte), ("variant", ctypes.c_ubyte), ("xx1", ctypes.c_ubyte),
        ("score", ctypes.c_int), ("spare", ctypes.c_void_p),
    )  # fmt: skip


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


def find_espeak() -> ModuleType:
    """The package that ships the library and its data; raises UserError if it is not installed."""
    try:
        import espeakng_loader
    except ImportError:
        raise UserError("data.source synthetic needs espeak-ng: pip install fithubert[synthesis]") from None
    return espeakng_loader


def write_voice_data(folder: Path, variants: dict[str, str]) -> None:
    """A copy of the English data of espeak-ng in `folder`, with our own voice variants (name -> definition).

    Raises UserError if the path is too long for the library.
    """
    if len(str(folder)) > _MAX_PATH:
        raise UserError(f"{folder}: path too long for the synthesiser; set TMPDIR to a shorter one")
    source = Path(find_espeak().get_data_path())
    (folder / "voices" / "!v").mkdir(parents=True)
    for name in ("phontab", "phonindex", "phondata", "intonations", "en_dict"):
        shutil.copyfile(source / name, folder / name)
    shutil.copytree(source / "lang" / "gmw", folder / "lang" / "gmw")
    for name, definition in variants.items():
        (folder / "voices" / "!v" / name).write_text(definition)


class Synthesiser:
    """One voice of espeak-ng, spoken in order. One per process."""

    def __init__(self, data: Path, accent: str, variant: str) -> None:
        self._library: Any = ctypes.CDLL(find_espeak().get_library_path())
        self._library.espeak_GetCurrentVoice.restype = ctypes.POINTER(_Voice)
        options = _PHONE_EVENTS | _IPA | _DONT_EXIT
        rate_hz = self._library.espeak_Initialize(_SYNCHRONOUS, 0, str(data).encode(), options)
        if rate_hz != RATE_HZ:
            raise RuntimeError(f"espeak-ng answered {rate_hz} instead of its sample rate; data in {data}")
        self._samples: list[NDArray[np.int16]] = []
        self._events: list[tuple[int, str]] = []
        self._callback = _Callback(self._collect)
        self._library.espeak_SetSynthCallback(self._callback)
        if self._library.espeak_ng_SetVoiceByName(f"{accent}+{variant}".encode()) != 0:
            raise RuntimeError(f"espeak-ng has no voice {accent}")
        # A variant that does not exist is ignored without an error; only the voice's identifier shows it.
        identifier = self._library.espeak_GetCurrentVoice().contents.identifier
        if not identifier.endswith(f"+{variant}".encode()):
            raise RuntimeError(f"espeak-ng did not load the variant {variant} (voice {identifier!r})")

    def speak(
        self, text: str, *, seed: int, words_per_minute: int, pitch: int, pitch_range: int, volume: int
    ) -> tuple[NDArray[np.int16], list[tuple[int, str]]]:
        """(samples,) at 22,050 Hz and the (sample, IPA name) of every phone; an empty name is a pause.

        `pitch` and `pitch_range` are 0..100 with 50 as the voice's own; `volume` 100 is normal.
        """
        self._samples.clear()
        self._events.clear()
        for parameter, value in ((_RATE, words_per_minute), (_PITCH, pitch), (_RANGE, pitch_range), (_VOLUME, volume)):
            self._library.espeak_SetParameter(parameter, value, 0)
        # The seed of the aspiration noise comes from the clock unless it is set, after the voice.
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(seed))
        encoded = text.encode()
        size = ctypes.c_size_t(len(encoded) + 1)
        self._library.espeak_Synth(encoded, size, 0, 0, 0, _UTF8 | _END_PAUSE, None, None)
        return np.concatenate(self._samples), list(self._events)

    def _collect(self, samples: Any, count: int, events: Any) -> int:
        index = 0
        while events[index].type:
            if events[index].type == _EVENT_PHONE:
                raw = ctypes.string_at(ctypes.addressof(events[index].id), 8)
                self._events.append((events[index].sample, raw.split(b"\0")[0].decode()))
            index += 1
        if samples:
            self._samples.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0


#: The exit status for an error of the user (a full disk); the last line of stderr is the message.
USER_ERROR_STATUS = 3
_LEVEL_DB = (-32.0, -18.0)
_KEYWORD_SAMPLES = 16_000
#: How much later than the end of a turn the next one begins, in seconds; less than 0 is overlap.
_GAP_SECONDS = (-1.2, 0.5)

Phones = list[tuple[str, float, float]]


@dataclass(frozen=True)
class Conditions:
    """How recordings are made: whether through microphones of their own, the share in rooms, and the noise."""

    microphones: bool
    room_share: float
    signal_to_noise_db: tuple[float, float]
    #: Of mixtures, whose overlapping turns are hard enough.
    mixture_signal_to_noise_db: tuple[float, float]


#: By `microphones` of the parameters.
CONDITIONS = {
    False: Conditions(False, 0.75, (8.0, 32.0), (12.0, 32.0)),
    True: Conditions(True, 0.4, (10.0, 30.0), (15.0, 35.0)),
}


def speak_items(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Speak the items of one speaker in order; one answer each: num_samples, digest and phones."""
    synthesiser = Synthesiser(Path(job["voice_data"]), job["accent"], job["variant"])
    return [_speak_item(synthesiser, job, item) for item in job["items"]]


def _speak_item(synthesiser: Synthesiser, job: dict[str, Any], item: dict[str, Any]) -> dict[str, Any]:
    rng, conditions = _generator(job["seed"], item["id"]), CONDITIONS[job["microphones"]]
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
    # The synthesiser ends with a long pause; the silence around the speech is drawn here instead.
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
    if rng.random() < conditions.room_share:
        placed = reverberate(placed, draw_room(rng))
    level_db = rng.uniform(*_LEVEL_DB) + style["level_db"]
    samples = record(rng, placed, level_db, rng.uniform(*conditions.signal_to_noise_db), conditions.microphones)
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
    conditions = CONDITIONS[job["microphones"]]
    level_db, ratio_db = rng.uniform(*_LEVEL_DB), rng.uniform(*conditions.mixture_signal_to_noise_db)
    samples = record(rng, total, level_db, ratio_db, conditions.microphones)
    turns = [
        (part["speaker"], start / FILE_RATE_HZ + part["start"], start / FILE_RATE_HZ + part["end"])
        for part, start in zip(item["parts"], starts, strict=True)
    ]
    return _write(samples, job["folder"], item["path"]) | {"turns": sorted(turns, key=lambda turn: turn[1:])}


def _track(parts: list[dict[str, Any]], audio: list[Samples], starts: list[int], speaker: str, length: int) -> Samples:
    """(length,) all speech of one speaker of a mixture, each part at unit power."""
    track = np.zeros(length)
    for part, speech, start in zip(parts, audio, starts, strict=True):
        if part["speaker"] == speaker:
            track[start : start + len(speech)] += speech / np.sqrt(np.mean(speech**2))
    return track


def record_silences(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Clips of one second of noise, as long as a keyword."""
    answers, conditions = [], CONDITIONS[job["microphones"]]
    for item in job["items"]:
        rng = _generator(job["seed"], item["id"])
        level_db, ratio_db = rng.uniform(*_LEVEL_DB), rng.uniform(*conditions.signal_to_noise_db)
        samples = record(rng, np.zeros(_KEYWORD_SAMPLES), level_db, ratio_db, conditions.microphones)
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
