"""espeak-ng, which speaks the embedded corpus: one voice in a process of its own, and the times of its phones.

Also a program that writes how words sound (`sound_out`), in a process of its own, since the library keeps one state.
"""

import ctypes
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fithubert.data import VOWELS
from fithubert.errors import UserError

# ruff: noqa: RUF001

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
        (folder / "voices" / "!v" / name).write_text(definition, encoding="utf-8")


def _open_library(data: Path, voice: str) -> Any:
    """The library with `voice`, which reads its data from the folder `data`. Once per process."""
    library: Any = ctypes.CDLL(find_espeak().get_library_path())
    options = _PHONE_EVENTS | _IPA | _DONT_EXIT
    rate_hz = library.espeak_Initialize(_SYNCHRONOUS, 0, str(data).encode(), options)
    if rate_hz != RATE_HZ:
        raise RuntimeError(f"espeak-ng answered {rate_hz} instead of its sample rate; data in {data}")
    if library.espeak_ng_SetVoiceByName(voice.encode()) != 0:
        raise RuntimeError(f"espeak-ng has no voice {voice}")
    return library


class Synthesiser:
    """One voice of espeak-ng, spoken in order. One per process."""

    def __init__(self, data: Path, accent: str, variant: str) -> None:
        self._library = _open_library(data, f"{accent}+{variant}")
        self._library.espeak_GetCurrentVoice.restype = ctypes.POINTER(_Voice)
        self._samples: list[NDArray[np.int16]] = []
        self._events: list[tuple[int, str]] = []
        self._callback = _Callback(self._collect)
        self._library.espeak_SetSynthCallback(self._callback)
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


_SPELLINGS = {
    "P": "p", "B": "b", "T": "t ɾ t̪ ʔ", "D": "d", "K": "k", "G": "ɡ", "F": "f", "V": "v", "TH": "θ", "DH": "ð",
    "S": "s", "Z": "z", "SH": "ʃ", "ZH": "ʒ", "HH": "h", "CH": "tʃ", "JH": "dʒ", "M": "m", "N": "n n̩", "NG": "ŋ",
    "L": "l əl", "R": "ɹ r", "W": "w ʍ", "Y": "j",
    "IY": "iː i iə", "IH": "ɪ ᵻ ɪɹ", "EH": "ɛ eə ɛə ɛɹ", "EY": "eɪ ei eː e", "AE": "æ a", "AA": "ɑː ɑːɹ ɒ aː a: aa ɑə",
    "AO": "ɔː ɔ ɔːɹ oə ɔə", "OW": "oʊ əʊ əu ʌʊ oː o", "UH": "ʊ ʊə ʊɹ", "UW": "uː ʉ ʉː ʉɹ", "AH": "ʌ ʌɹ", "AX": "ə ɐ",
    "ER": "ɜː ɜ ɚ əɹ", "AY": "aɪ aɪə aɪɚ əɪ", "AW": "aʊ æʊ ʌʉ", "OY": "ɔɪ oɪ",
}  # fmt: skip
#: IPA name of the synthesiser -> label.
FOLD = {spelling: label for label, spellings in _SPELLINGS.items() for spelling in spellings.split()}

_STRESS = "ˈˌ"
#: Marks without sound of their own: palatal glide, length, clause ends.
_MARKS = frozenset(["ʲ", ";", "ː", ""])
_STOPS = frozenset(["P", "B", "T", "D", "K", "G", "CH", "JH"])
#: A phone shorter than this carries no sound of its own: an /l/ that the synthesiser speaks within the vowel before it.
_MIN_SECONDS = 0.015
#: Of a vowel that holds such an /l/, the part that is the /l/.
_CODA_SHARE = 1 / 3
#: A silent gap up to this long between two phones belongs to the second; a longer one only as the closure of a stop.
_MAX_GAP_SECONDS, _MAX_CLOSURE_SECONDS = 0.025, 0.15
_SILENT_LEVEL = 4


def align_phones(
    events: Sequence[tuple[int, str]], audio: NDArray[np.int16], rate_hz: int
) -> list[tuple[str, float, float]]:
    """(label, start seconds, end seconds) in order and without overlap, from the synthesiser's events.

    `events`: (sample, IPA name) in order, an empty name for a pause; `audio`: (samples,) the speech they belong to,
    before noise. The audio, which is digital silence in pauses and closures, decides the rest:
    a phone ends where its sound ends, the silence before a stop is its closure, and an /l/ without sound of its own
    takes the last third of the vowel that holds it. Raises KeyError for an unknown phone.
    """
    sounding = np.flatnonzero(np.abs(audio.astype(np.int32)) > _SILENT_LEVEL)
    phones: list[tuple[str, int, int]] = []
    joined = False
    for (sample, name), (following, _) in pairwise([*events, (len(audio), "")]):
        bare = name.strip(_STRESS)
        if name == "":
            joined = False
        elif bare not in _MARKS:
            end = _last_sound(sounding, sample, following)
            _append_phone(phones, FOLD[bare], sample, end, rate_hz, joined)
            joined = True
        elif phones:
            phones[-1] = (*phones[-1][:2], _last_sound(sounding, phones[-1][1], following))
    return [(label, start / rate_hz, end / rate_hz) for label, start, end in phones if end > start]


def _append_phone(
    phones: list[tuple[str, int, int]], label: str, start: int, end: int, rate_hz: int, joined: bool
) -> None:
    """Add a phone and, if the audio requires it, move its start. `joined`: there is no pause before it."""
    if joined and phones:
        before, before_start, before_end = phones[-1]
        if label == "L" and end - start < _MIN_SECONDS * rate_hz and before in VOWELS:
            start, end = before_end - round((before_end - before_start) * _CODA_SHARE), before_end
            phones[-1] = (before, before_start, start)
        elif start - before_end <= (_MAX_CLOSURE_SECONDS if label in _STOPS else _MAX_GAP_SECONDS) * rate_hz:
            start = before_end
    phones.append((label, start, end))


def _last_sound(sounding: NDArray[np.int64], start: int, end: int) -> int:
    """The sample after the last sound in start..end; `start` if there is none."""
    at = int(np.searchsorted(sounding, end)) - 1
    return max(start, int(sounding[at]) + 1) if at >= 0 else start


#: American sounds that are two phones of the CMU dictionary; all others are one, as in the embedded corpus.
_TWO_PHONES = {
    "ɑːɹ": "AA R", "ɔːɹ": "AO R", "ɪɹ": "IH R", "ɛɹ": "EH R", "ʊɹ": "UH R", "ʌɹ": "AH R", "ʉɹ": "UW R", "əl": "AH L",
    "n̩": "AH N", "iə": "IY AH", "aɪɚ": "AY ER", "aɪə": "AY AH", "oə": "AO R", "eə": "EH R", "ɛə": "EH R", "ʊə": "UH R",
}  # fmt: skip
_CMU_FOLD = {sound: "AH" if phone == "AX" else phone for sound, phone in FOLD.items()} | _TWO_PHONES
_EDGE = "_"


def to_cmu_phones(spoken: str) -> tuple[str, ...] | None:
    """The phones of the CMU dictionary, without stress, of an answer of `sound_out`; None if it has another sound."""
    sounds = [sound.strip(_STRESS) for sound in spoken.replace(" ", _EDGE).split(_EDGE)]
    phones = [_CMU_FOLD.get(sound, "") for sound in sounds if sound]
    return tuple(" ".join(phones).split()) if phones and all(phones) else None


def sound_out(words: Sequence[str]) -> list[str]:
    """The sounds of each word in the American accent, as IPA with `_` between them."""
    with tempfile.TemporaryDirectory(prefix="fithubert") as scratch:
        voices = Path(scratch) / "voices"
        write_voice_data(voices, {})
        library = _open_library(voices, "en-us")
        library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        mode = _IPA | ord(_EDGE) << 8
        texts = [ctypes.c_char_p(word.encode()) for word in words]
        return [library.espeak_TextToPhonemes(ctypes.byref(text), _UTF8, mode).decode() for text in texts]


if __name__ == "__main__":
    json.dump(sound_out(json.load(sys.stdin)["words"]), sys.stdout)
