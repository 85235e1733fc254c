"""Audio SNIPS: `SNIPS/{train,valid,test}/VOICE-snips-SPLIT-N.wav` with `all.iob.snips.txt` and `slots.txt`, for SF.

Own reader: `torchaudio.datasets.Snips` takes every voice in every split and leaves slots unparsed.
"""

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter

from fithubert.config.data import PlainCorpus
from fithubert.data.corpora.layout import Corpus, Layout, Progress, draft, find_layout
from fithubert.data.listing import list_visible
from fithubert.data.manifest import Slot
from fithubert.data.utterance import CHARACTERS, END, UNKNOWN

_HOME = "https://github.com/aws-samples/aws-lex-noisy-spoken-language-understanding, laid out by s3prl's preprocess"
#: Folder -> the split it is, and its voices: no voice is in two splits.
VOICES = {
    "train": ("train", ("Ivy", "Joanna", "Joey", "Justin", "Kendra", "Kimberly", "Matthew", "Salli")),
    "valid": ("dev", ("Aditi", "Amy", "Geraint", "Nicole")),
    "test": ("test", ("Brian", "Emma", "Raveena", "Russell")),
}
_OUTSIDE, _PUNCTUATION = "O", frozenset("?!.,;-")


def read_snips(config: PlainCorpus, on_progress: Progress | None = None) -> Corpus:
    """Commands with their slots, each split with voices of its own.

    SUPERB's label space: 28 characters, two tags for every slot type of `slots.txt` and the special symbols besides
    the blank, 109 outputs for its 39 types. Raises UserError if a file or a transcript is missing or broken.
    """
    layout = find_layout(config.path, "SNIPS", "Audio SNIPS", _HOME)
    types = [line for line in layout.lines("slots.txt") if line != _OUTSIDE]
    transcripts = dict(_split_line(layout, line) for line in layout.lines("all.iob.snips.txt"))
    utterances = []
    for folder, (split, voices) in VOICES.items():
        names = {path.stem for path in list_visible(layout.folder(folder), "*.wav")}
        chosen = sorted(name for name in names if name.partition("-")[0] in voices)
        if not chosen:
            raise layout.broken(folder, f"holds no wav files of {', '.join(voices)}")
        for name in chosen:
            if name not in transcripts:
                raise layout.broken("all.iob.snips.txt", f"has no line for {name}")
            words, slots = _parse(layout, name, *transcripts[name], types)
            utterances.append(
                draft(
                    name,
                    f"{folder}/{name}.wav",
                    split,
                    "command",
                    speaker=name.partition("-")[0],
                    text=" ".join(words),
                    words=words,
                    slots=slots,
                )
            )
    tags = [f"{edge}-{slot}" for slot in types for edge in "BE"]
    inventories = {"slots": (*CHARACTERS, *tags, END, UNKNOWN)}
    return Corpus(layout.finish(utterances, on_progress, inventories))


def _split_line(layout: Layout, line: str) -> tuple[str, tuple[list[str], list[str]]]:
    """Utterance -> its words and their slots, without the marks of begin and end (and the intent at the end)."""
    spoken, tab, labels = line.partition("\t")
    name, *words = spoken.split()
    slots = labels.split()
    if not tab or len(words) != len(slots) or len(words) < 2:
        raise layout.broken("all.iob.snips.txt", f"the line of {name} is not `NAME BOS WORDS EOS<TAB>O SLOTS INTENT`")
    return name, (words[1:-1], slots[1:-1])


def _parse(
    layout: Layout, name: str, raw: Sequence[str], labels: Sequence[str], types: Sequence[str]
) -> tuple[tuple[str, ...], tuple[Slot, ...]]:
    """Lower-case words without punctuation, and a slot for each longest run of one label."""
    foreign = set(labels) - {_OUTSIDE, *types}
    if foreign:
        raise layout.broken("slots.txt", f"lacks the slot {min(foreign)!r} of {name}")
    words: list[str] = []
    slots: list[Slot] = []
    for label, run in groupby(zip(raw, labels, strict=True), key=itemgetter(1)):
        kept = ["and" if word == "&" else word.lower() for word, _ in run if word not in _PUNCTUATION]
        if kept and label != _OUTSIDE:
            slots.append(Slot(label, " ".join(kept), len(words), len(kept)))
        words += kept
    return tuple(words), tuple(slots)
