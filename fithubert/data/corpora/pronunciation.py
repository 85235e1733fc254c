"""The CMU Pronouncing Dictionary without stress; espeak-ng, in a process of its own, for the words that it lacks."""

import ctypes
import json
import sys
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

from fithubert.data.corpora.layout import Layout
from fithubert.data.synthetic.corpus import run_job
from fithubert.data.synthetic.espeak import FOLD, find_espeak, write_voice_data
from fithubert.data.utterance import PHONES
from fithubert.errors import UserError

# ruff: noqa: RUF001

#: The 39 phones of the dictionary, in which a reduced vowel is AH.
CMU_PHONES = tuple(phone for phone in PHONES if phone != "AX")
#: Sounds of the American voice that are two phones of the dictionary; all others are one, as in the embedded corpus.
_TWO_PHONES = {
    "ɑːɹ": "AA R", "ɔːɹ": "AO R", "ɪɹ": "IH R", "ɛɹ": "EH R", "ʊɹ": "UH R", "ʌɹ": "AH R", "ʉɹ": "UW R", "əl": "AH L",
    "n̩": "AH N", "iə": "IY AH", "aɪɚ": "AY ER", "aɪə": "AY AH", "oə": "AO R", "eə": "EH R", "ɛə": "EH R", "ʊə": "UH R",
}  # fmt: skip
_STRESS = "ˈˌ"
_VOICE = b"en-us"
_SYNCHRONOUS, _DONT_EXIT, _UTF8, _IPA = 2, 0x8000, 1, 2
_EDGE = "_"


def read_dictionary(layout: Layout, *path: str) -> dict[str, tuple[str, ...]]:
    """Lower-case word -> the phones of its first pronunciation, from lines `word PH0 ON1 ES # comment`.

    Raises UserError if the file is missing or has an unknown phone.
    """
    words: dict[str, tuple[str, ...]] = {}
    for line in layout.lines(*path):
        word, *stressed = line.partition("#")[0].split()
        phones = tuple(phone.rstrip("012") for phone in stressed)
        if not set(phones) <= _KNOWN:
            raise layout.broken(Path(*path), f"{word}: {min(set(phones) - _KNOWN)!r} is not one of the 39 phones")
        # Further pronunciations are `word(2)`; the first comes first.
        words.setdefault(word, phones)
    return words


def pronounce(texts: Mapping[str, str], dictionary: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Id -> the phones of its text, word after word; texts with a word that cannot be pronounced are left out.

    A word that the dictionary lacks is pronounced by espeak-ng, if that is installed.
    """
    unknown = sorted({word for text in texts.values() for word in text.split()} - set(dictionary))
    known = {**dictionary, **_guess(unknown)}
    spoken = {name: text.split() for name, text in texts.items()}
    return {
        name: tuple(phone for word in words for phone in known[word])
        for name, words in spoken.items()
        if all(word in known for word in words)
    }


def _guess(words: Collection[str]) -> dict[str, tuple[str, ...]]:
    """The phones of those words that espeak-ng can say with the phones of the dictionary; none if it is missing."""
    try:
        find_espeak()
    except UserError:
        return {}
    found = {}
    for word, spoken in zip(words, run_job({"words": list(words)}, __name__) if words else (), strict=True):
        sounds = [sound.strip(_STRESS) for sound in spoken.replace(" ", _EDGE).split(_EDGE)]
        phones = [_FOLD.get(sound) for sound in sounds if sound]
        if phones and None not in phones:
            found[word] = tuple(phone for pair in phones if pair for phone in pair.split())
    return found


_KNOWN = frozenset(CMU_PHONES)
_FOLD = {sound: "AH" if phone == "AX" else phone for sound, phone in FOLD.items()} | _TWO_PHONES


def main() -> None:
    """Write the sounds of each of the words on stdin, as IPA with `_` between them."""
    words = json.load(sys.stdin)["words"]
    with tempfile.TemporaryDirectory(prefix="fithubert") as scratch:
        voices = Path(scratch) / "voices"
        write_voice_data(voices, {})
        library = ctypes.CDLL(find_espeak().get_library_path())
        library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        library.espeak_Initialize(_SYNCHRONOUS, 0, str(voices).encode(), _DONT_EXIT)
        if library.espeak_ng_SetVoiceByName(_VOICE) != 0:
            raise RuntimeError(f"espeak-ng has no voice {_VOICE!r}")
        mode = _IPA | ord(_EDGE) << 8
        texts = [ctypes.c_char_p(word.encode()) for word in words]
        spoken = [library.espeak_TextToPhonemes(ctypes.byref(text), _UTF8, mode).decode() for text in texts]
    json.dump(spoken, sys.stdout)


if __name__ == "__main__":
    main()
