"""Phones of the embedded corpus and their alignment."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

# ruff: noqa: RUF001


CONSONANTS = (
    "P", "B", "T", "D", "K", "G", "F", "V", "TH", "DH", "S", "Z", "SH", "ZH", "HH", "CH", "JH", "M", "N", "NG", "L",
    "R", "W", "Y",
)  # fmt: skip
VOWELS = ("IY", "IH", "EH", "EY", "AE", "AA", "AO", "OW", "UH", "UW", "AH", "AX", "ER", "AY", "AW", "OY")
PHONES = CONSONANTS + VOWELS

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


def fold_phone(name: str) -> str | None:
    """The label of the synthesiser's IPA `name`; None for pauses and marks. Raises KeyError for an unknown phone."""
    bare = name.strip(_STRESS)
    return None if bare in _MARKS else FOLD[bare]


def align_phones(
    events: Sequence[tuple[int, str]], audio: NDArray[np.int16], rate_hz: int
) -> list[tuple[str, float, float]]:
    """(label, start seconds, end seconds) in order and without overlap, from the synthesiser's events.

    `events`: (sample, IPA name) in order, an empty name for a pause; `audio`: (samples,) the speech they belong to,
    before noise. The audio, which is digital silence in pauses and closures, decides the rest:
    a phone ends where its sound ends, the silence before a stop is its closure, and an /l/ without sound of its own
    takes the last third of the vowel that holds it.
    """
    sounding = np.flatnonzero(np.abs(audio.astype(np.int32)) > _SILENT_LEVEL)
    phones: list[tuple[str, int, int]] = []
    pause_since = True
    for (sample, name), (following, _) in pairwise([*events, (len(audio), "")]):
        bare = name.strip(_STRESS)
        if bare in _MARKS and name != "":
            if phones:
                phones[-1] = (*phones[-1][:2], _last_sound(sounding, phones[-1][1], following))
            continue
        label = fold_phone(name)
        if label is None:
            pause_since = True
            continue
        end = _last_sound(sounding, sample, following)
        _append_phone(phones, label, sample, end, rate_hz, joined=not pause_since)
        pause_since = False
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


#: Ends each word in character sequences.
WORD_EDGE = "|"
#: SUPERB's 28 characters.
CHARACTERS = (WORD_EDGE, "'", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ")
#: Ends a target sequence if the label space has it.
END = "<eos>"
#: Outputs that no target ever has; counted so that heads are as large as the official ones.
UNKNOWN, PAD = "<unk>", "<pad>"
SPECIALS = frozenset([END, UNKNOWN, PAD])

#: The 71 phones of SUPERB's phone recognition: silence, spoken noise, consonants, and vowels with their stress.
STRESSED_PHONES = (
    "SIL", "SPN", *sorted([*CONSONANTS, *(f"{v}{stress}" for v in VOWELS if v != "AX" for stress in "012")]),
)  # fmt: skip
