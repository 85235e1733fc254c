"""Corpora. Here: one recording with every label it has, as a frozen row, and the values that labels can have."""

import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fithubert.frames import SAMPLE_RATE_HZ, receptive_field

SPLITS = ("train", "dev", "test", "verification")
KINDS = ("sentence", "keyword", "command", "query", "document", "mixture")
KEYWORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
#: Classes of the keyword task besides its ten words.
OTHER_WORD, SILENCE = "_unknown_", "_silence_"

CONSONANTS = (
    "P", "B", "T", "D", "K", "G", "F", "V", "TH", "DH", "S", "Z", "SH", "ZH", "HH", "CH", "JH", "M", "N", "NG", "L",
    "R", "W", "Y",
)  # fmt: skip
VOWELS = ("IY", "IH", "EH", "EY", "AE", "AA", "AO", "OW", "UH", "UW", "AH", "AX", "ER", "AY", "AW", "OY")
#: The phones of the embedded corpus.
PHONES = CONSONANTS + VOWELS
#: The 71 phones of SUPERB's phone recognition: silence, spoken noise, consonants, and vowels with their stress.
STRESSED_PHONES = (
    "SIL", "SPN", *sorted([*CONSONANTS, *(f"{v}{stress}" for v in VOWELS if v != "AX" for stress in "012")]),
)  # fmt: skip
#: Ends each word in character sequences.
WORD_EDGE = "|"
#: SUPERB's 28 characters.
CHARACTERS = (WORD_EDGE, "'", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ")
#: Ends a target sequence if the label space has it.
END = "<eos>"
#: Outputs that no target ever has; counted so that heads are as large as the official ones.
UNKNOWN, PAD = "<unk>", "<pad>"
SPECIALS = frozenset([END, UNKNOWN, PAD])


def normalise(text: str) -> str:
    """`text` in lower case: letters, marks and digits of any script and apostrophes, words parted by one space.

    Forms of one letter, such as full-width letters, ligatures and combined marks, are one (Unicode's NFKC).
    """
    # Twice, because some letters have a composed form in lower case only.
    lower = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower())
    plain = lower.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    return " ".join("".join(c if c == "'" or unicodedata.category(c)[0] in "LMN" else " " for c in plain).split())


@dataclass(frozen=True)
class Phone:
    """One phone of `PHONES` and its time span; between two phones there is silence."""

    label: str
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True)
class Turn:
    """One stretch of speech by one speaker of a mixture, from the first phone to the last."""

    speaker: str
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True)
class Intent:
    """The intent of a spoken command; an absent part is the string `none`."""

    action: str
    object: str
    location: str


@dataclass(frozen=True)
class Slot:
    """A named part of a command: `words[first_word : first_word + num_words]`, joined by spaces in `value`."""

    name: str
    value: str
    first_word: int
    num_words: int


@dataclass(frozen=True)
class Utterance:
    """One recording with its labels; an unknown label is None.

    `audio` is relative to the manifest's root and `digest` is that of the file's bytes (of its size and beginning
    if the file is part of a published corpus). `num_samples` are counted at 16 kHz, as it is read. `text` is lower case
    without punctuation and `words` its words. `keyword` is the class of a keyword clip, `query` the word of a search
    query, `style` the prosody style or emotion, `turns` are the speakers' turns in a mixture (whose `speaker` is None).

    Only some corpora have these: `pronunciation` is the phones of the text by a lexicon, without times; `first_sample`
    is the beginning of the utterance in a longer file; `trials` are the ids that it is compared with in verification;
    `matches` are the ids of the documents that contain this query; `gain_db` amplifies it when it is read; `trimmed`
    means that its silences are cut out when it is read (`first_sample` and `num_samples` count the rest).
    `task_splits` are `TASK:SPLIT` for tasks that split the corpus in another way; `TASK:none` is in no split of it.
    """

    id: str
    audio: str
    digest: str
    split: str
    kind: str
    num_samples: int
    speaker: str | None = None
    text: str | None = None
    words: tuple[str, ...] | None = None
    phones: tuple[Phone, ...] | None = None
    keyword: str | None = None
    intent: Intent | None = None
    slots: tuple[Slot, ...] | None = None
    style: str | None = None
    turns: tuple[Turn, ...] | None = None
    query: str | None = None
    pronunciation: tuple[str, ...] | None = None
    first_sample: int | None = None
    trials: tuple[str, ...] | None = None
    matches: tuple[str, ...] | None = None
    gain_db: float | None = None
    trimmed: bool | None = None
    task_splits: tuple[str, ...] | None = None

    @property
    def seconds(self) -> float:
        """The length in seconds."""
        return self.num_samples / SAMPLE_RATE_HZ

    def split_of(self, task: str) -> str:
        """Its split in `task`; `none` if it is not a part of it."""
        own = dict(entry.split(":") for entry in self.task_splits or ())
        return own.get(task, self.split)


def place_of(utterance: Utterance) -> tuple[int, str]:
    """The order of a manifest: by split and id."""
    return SPLITS.index(utterance.split), utterance.id


def draw(seed: object, name: str) -> bytes:
    """A key that sorts names in a random order that `seed` decides, everywhere and whatever the other names are."""
    return hashlib.sha256(f"{seed}/{name}".encode()).digest()


def make_generator(seed: object, name: str) -> np.random.Generator:
    """The random numbers of what is called `name`, which `seed` decides."""
    return np.random.default_rng(int.from_bytes(draw(seed, name)[:16], "big"))


def frame_phones(
    phones: Sequence[Phone], inventory: Mapping[str, int], num_frames: int, convolutions: Sequence[tuple[int, int]]
) -> NDArray[np.int64]:
    """(num_frames,) the number in `inventory` of the phone at each frame's centre; -1 if there is none.

    `convolutions` (kernel, stride) give the samples of a frame; phones are in order and do not overlap.
    """
    field, step = receptive_field(convolutions)
    centres = (np.arange(num_frames) * step + field / 2) / SAMPLE_RATE_HZ
    starts = np.array([p.start_seconds for p in phones])
    ends = np.array([p.end_seconds for p in phones])
    labels = np.array([inventory[p.label] for p in phones], dtype=np.int64)
    at = np.searchsorted(starts, centres, side="right") - 1
    inside = (at >= 0) & (centres < ends[at.clip(min=0)])
    return np.where(inside, labels[at.clip(min=0)], -1)


def spell(words: Sequence[str]) -> tuple[str, ...]:
    """The upper-case characters of the words, each word ended by WORD_EDGE; other characters are dropped."""
    return tuple(c for word in words for c in (*word.upper(), WORD_EDGE) if c in CHARACTERS)


def split_words(characters: Sequence[str]) -> list[str]:
    """The words of a character sequence, split at WORD_EDGE; empty words vanish."""
    return [word for word in "".join(characters).split(WORD_EDGE) if word]
