"""Corpora of meaning and emotion: Fluent Speech Commands (IC), Audio SNIPS (SF) and IEMOCAP (ER)."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import torch
from torchaudio.datasets import FluentSpeechCommands

from fithubert.config.data import IemocapData, PlainCorpus
from fithubert.data import CHARACTERS, END, UNKNOWN, Intent, Slot, Utterance, normalise
from fithubert.data.corpora import Layout, draft, find_layout
from fithubert.data.listing import Corpus, Progress, Skipped, list_visible
from fithubert.files import read_json

_FLUENT = "fluent_speech_commands_dataset"
_FLUENT_HOME = "https://fluent.ai/fluent-speech-commands-a-dataset-for-spoken-language-understanding-research/"
_FLUENT_SPLITS = {"train": "train", "valid": "dev", "test": "test"}


def read_fluent_speech_commands(config: PlainCorpus, on_progress: Progress | None = None) -> Corpus:
    """Commands with action, object and location of `fluent_speech_commands_dataset/{wavs,data}`, split as published.

    Metadata by `torchaudio.datasets.FluentSpeechCommands`. Raises UserError if a list is missing.
    """
    layout = find_layout(config.path, _FLUENT, "Fluent Speech Commands", _FLUENT_HOME)
    parent = layout.parent_of(_FLUENT)
    utterances = []
    for subset, split in _FLUENT_SPLITS.items():
        listed = layout.file("data", f"{subset}_data.csv")
        try:
            rows = FluentSpeechCommands(parent, subset)
            metadata = [rows.get_metadata(index) for index in range(len(rows))]
        except (ValueError, IndexError) as error:
            raise layout.broken(listed, f"not the list that was published ({error})") from None
        for audio, _, name, speaker, transcript, *intent in metadata:
            text = normalise(transcript)
            labels = {"text": text, "words": tuple(text.split()), "intent": Intent(*intent)}
            utterances.append(draft(name, audio, split, "command", speaker=str(speaker), **labels))
    return Corpus(layout.finish(utterances, on_progress))


_SNIPS = "https://github.com/aws-samples/aws-lex-noisy-spoken-language-understanding, laid out by s3prl's preprocess"
#: Folder -> the split it is, and its voices: no voice is in two splits.
VOICES = {
    "train": ("train", ("Ivy", "Joanna", "Joey", "Justin", "Kendra", "Kimberly", "Matthew", "Salli")),
    "valid": ("dev", ("Aditi", "Amy", "Geraint", "Nicole")),
    "test": ("test", ("Brian", "Emma", "Raveena", "Russell")),
}
_LINES, _OUTSIDE, _PUNCTUATION = "all.iob.snips.txt", "O", frozenset("?!.,;-")


def read_snips(config: PlainCorpus, on_progress: Progress | None = None) -> Corpus:
    """Commands with their slots: `SNIPS/{train,valid,test}/VOICE-snips-SPLIT-N.wav`, each split with its own voices.

    SUPERB's label space: 28 characters, two tags for every slot type of `slots.txt` and the special symbols besides
    the blank, 109 outputs for its 39 types. Own reader: `torchaudio.datasets.Snips` takes every voice in every split
    and leaves slots unparsed. Raises UserError if a file or a transcript is missing or broken.
    """
    layout = find_layout(config.path, "SNIPS", "Audio SNIPS", _SNIPS)
    types = [line for line in layout.lines("slots.txt") if line != _OUTSIDE]
    transcripts = dict(_split_line(layout, line) for line in layout.lines(_LINES))
    utterances = []
    for folder, (split, voices) in VOICES.items():
        names = {path.stem for path in list_visible(layout.folder(folder), "*.wav")}
        chosen = sorted(name for name in names if name.partition("-")[0] in voices)
        if not chosen:
            raise layout.broken(folder, f"holds no wav files of {', '.join(voices)}")
        for name in chosen:
            if name not in transcripts:
                raise layout.broken(_LINES, f"has no line for {name}")
            raw, labels = transcripts[name]
            foreign = set(labels) - {_OUTSIDE, *types}
            if foreign:
                raise layout.broken("slots.txt", f"lacks the slot {min(foreign)!r} of {name}")
            words, slots = parse_slots(raw, labels)
            spoken = {"text": " ".join(words), "words": words, "slots": slots}
            audio, voice = f"{folder}/{name}.wav", name.partition("-")[0]
            utterances.append(draft(name, audio, split, "command", speaker=voice, **spoken))
    tags = [f"{edge}-{slot}" for slot in types for edge in "BE"]
    return Corpus(layout.finish(utterances, on_progress, {"slots": (*CHARACTERS, *tags, END, UNKNOWN)}))


def _split_line(layout: Layout, line: str) -> tuple[str, tuple[list[str], list[str]]]:
    """Utterance -> its words and their slots, without the marks of begin and end (and the intent at the end)."""
    spoken, tab, labels = line.partition("\t")
    name, *words = spoken.split()
    slots = labels.split()
    if not tab or len(words) != len(slots) or len(words) < 2:
        raise layout.broken(_LINES, f"the line of {name} is not `NAME BOS WORDS EOS<TAB>O SLOTS INTENT`")
    return name, (words[1:-1], slots[1:-1])


def parse_slots(raw: Sequence[str], labels: Sequence[str]) -> tuple[tuple[str, ...], tuple[Slot, ...]]:
    """Lower-case words without punctuation, and a slot for each longest run of one label."""
    words: list[str] = []
    slots: list[Slot] = []
    for label, run in groupby(zip(raw, labels, strict=True), key=itemgetter(1)):
        kept = ["and" if word == "&" else word.lower() for word, _ in run if word not in _PUNCTUATION]
        if kept and label != _OUTSIDE:
            slots.append(Slot(label, " ".join(kept), len(words), len(kept)))
        words += kept
    return tuple(words), tuple(slots)


_IEMOCAP_HOME = "https://sail.usc.edu/iemocap (on request)"
_LISTS_HOME = "https://github.com/s3prl/s3prl (s3prl/downstream/emotion/meta_data)"
#: Annotated category -> class: excitement counts as happiness, all others are left out.
_EMOTIONS = {"neu": "neutral", "hap": "happy", "exc": "happy", "ang": "angry", "sad": "sad"}
_SESSIONS = range(1, 6)
_TRAIN_SHARE = 0.8


def read_iemocap(config: IemocapData, on_progress: Progress | None = None) -> Corpus:
    """Utterances of four emotions of `IEMOCAP/Session1..5/{sentences/wav,dialog/EmoEvaluation}`.

    Session `fold` is test, a fifth of the others is dev. The dev split is drawn by place, so only the order of the
    official lists gives the official one; without `lists` the order is that of the paths, which is listed under
    `skipped`. Own reader: `torchaudio.datasets.IEMOCAP` sorts by path, names the actor who wore the markers and not the
    one who speaks, and fails if a folder above the corpus is called Session. Raises UserError if a folder, a list or a
    file is missing or broken.
    """
    layout = find_layout(config.path, "IEMOCAP", "IEMOCAP", _IEMOCAP_HOME)
    labels = dict(sorted(row for session in _SESSIONS for row in _read_session(layout, session)))
    skipped: tuple[Skipped, ...] = ()
    if config.lists is None:
        tested = [audio for audio in labels if audio.startswith(f"Session{config.fold}/")]
        others = [audio for audio in labels if not audio.startswith(f"Session{config.fold}/")]
        note = f"data.lists is not given, so dev is not the official split; its order comes from {_LISTS_HOME}"
        skipped = (Skipped("dev", note),)
    else:
        lists = Layout(config.lists, "the order of the official split", _LISTS_HOME)
        others, tested = (_read_order(lists, config.fold, split, labels) for split in ("train", "test"))
    # As s3prl draws them: torch's `random_split` after seed 0.
    order = torch.randperm(len(others), generator=torch.Generator().manual_seed(0)).tolist()
    edge = int(_TRAIN_SHARE * len(others))
    splits = {"train": [others[i] for i in order[:edge]], "dev": [others[i] for i in order[edge:]], "test": tested}
    utterances = [_emotion(audio, labels[audio], split) for split, audios in splits.items() for audio in audios]
    return Corpus(layout.finish(utterances, on_progress), skipped)


def _read_session(layout: Layout, session: int) -> Iterator[tuple[str, str]]:
    """(audio, class) of the utterances of one session that have one of the four emotions."""
    lists = layout.files("*.txt", f"Session{session}", "dialog", "EmoEvaluation")
    layout.folder(f"Session{session}", "sentences", "wav")
    for path in lists:
        for line in layout.lines(layout.relative(path)):
            # [start - end], utterance, category, [valence, activation, dominance]; other lines are single raters'.
            fields = line.split("\t")
            if line.startswith("[") and len(fields) > 2 and fields[2] in _EMOTIONS:
                dialogue = fields[1].rpartition("_")[0]
                audio = Path(f"Session{session}", "sentences", "wav", dialogue, f"{fields[1]}.wav")
                yield audio.as_posix(), _EMOTIONS[fields[2]]


def _read_order(lists: Layout, fold: int, split: str, labels: Mapping[str, str]) -> list[str]:
    """The audio that an official list names, in its order."""
    path = lists.file(f"Session{fold}", f"{split}_meta_data.json")
    try:
        audios = [row["path"] for row in read_json(path)["meta_data"]]
    except (KeyError, TypeError):
        raise lists.broken(path, "has no `meta_data` with a `path` each") from None
    foreign = [audio for audio in audios if audio not in labels]
    if foreign:
        raise lists.broken(path, f"names {foreign[0]}, which has none of the four emotions in the corpus")
    return audios


def _emotion(audio: str, label: str, split: str) -> Utterance:
    name = Path(audio).stem
    # Ses01F_impro01_M003: session 1, and the man speaks.
    speaker = f"{name[:5]}{name.rpartition('_')[2][:1]}"
    return draft(name, audio, split, "sentence", speaker=speaker, style=label)
