"""One recording with every label it has, as a frozen row."""

from dataclasses import dataclass

from fithubert.frames import SAMPLE_RATE_HZ

SPLITS = ("train", "dev", "test", "verification")
KINDS = ("sentence", "keyword", "command", "query", "document", "mixture")


@dataclass(frozen=True)
class Phone:
    """One phone of `phones.PHONES` and its time span; between two phones there is silence."""

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

    @property
    def seconds(self) -> float:
        """The length in seconds."""
        return self.num_samples / SAMPLE_RATE_HZ
