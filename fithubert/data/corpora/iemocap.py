"""IEMOCAP: `IEMOCAP/Session1..5/{sentences/wav,dialog/EmoEvaluation}`, four emotions for ER, one fold at a time.

Own reader: `torchaudio.datasets.IEMOCAP` sorts by path, which gives another dev split than the official lists, names
the actor who wore the markers and not the one who speaks, and fails where a folder above the corpus is called Session.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from fithubert.config.data import IemocapData
from fithubert.data.corpora.layout import Corpus, Layout, Progress, draft, find_layout
from fithubert.data.listing import Skipped, list_visible
from fithubert.data.manifest import Utterance
from fithubert.files import read_json

_HOME = "https://sail.usc.edu/iemocap (on request)"
_LISTS_HOME = "https://github.com/s3prl/s3prl (s3prl/downstream/emotion/meta_data)"
#: Annotated category -> class: excitement counts as happiness, all others are left out.
CLASSES = {"neu": "neutral", "hap": "happy", "exc": "happy", "ang": "angry", "sad": "sad"}
_SESSIONS = range(1, 6)
_TRAIN_SHARE = 0.8


def read_iemocap(config: IemocapData, on_progress: Progress | None = None) -> Corpus:
    """Improvised and scripted utterances of four emotions: session `fold` is test, a fifth of the others is dev.

    The dev split is drawn by place, so only the order of the official lists gives the official one; without `lists` the
    order is that of the paths, which is listed under `skipped`. Raises UserError if a folder, a list or a
    file is missing or broken.
    """
    layout = find_layout(config.path, "IEMOCAP", "IEMOCAP", _HOME)
    labels = dict(sorted(row for session in _SESSIONS for row in _read_session(layout, session)))
    if config.lists is None:
        tested = [audio for audio in labels if audio.startswith(f"Session{config.fold}/")]
        others = [audio for audio in labels if not audio.startswith(f"Session{config.fold}/")]
        note = f"data.lists is not given, so dev is not the official split; its order comes from {_LISTS_HOME}"
        skipped: tuple[Skipped, ...] = (Skipped("dev", note),)
    else:
        lists = Layout(config.lists, "the order of the official split", _LISTS_HOME)
        others, tested = (_read_order(lists, config.fold, split, labels) for split in ("train", "test"))
        skipped = ()
    train, dev = _draw_dev(others)
    splits = {"train": train, "dev": dev, "test": tested}
    utterances = [_utterance(audio, labels[audio], split) for split, audios in splits.items() for audio in audios]
    return Corpus(layout.finish(utterances, on_progress), skipped)


def _read_session(layout: Layout, session: int) -> Iterator[tuple[str, str]]:
    """(audio, class) of the utterances of one session that have one of the four emotions."""
    folder = layout.folder(f"Session{session}", "dialog", "EmoEvaluation")
    layout.folder(f"Session{session}", "sentences", "wav")
    lists = list_visible(folder, "*.txt")
    if not lists:
        raise layout.broken(folder, "holds no txt files")
    for path in lists:
        for line in layout.lines(layout.relative(path)):
            # [start - end], utterance, category, [valence, activation, dominance]; other lines are single raters'.
            fields = line.split("\t")
            if line.startswith("[") and len(fields) > 2 and fields[2] in CLASSES:
                dialogue = fields[1].rpartition("_")[0]
                audio = Path(f"Session{session}", "sentences", "wav", dialogue, f"{fields[1]}.wav")
                yield audio.as_posix(), CLASSES[fields[2]]


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


def _draw_dev(audios: list[str]) -> tuple[list[str], list[str]]:
    """Train and dev as s3prl draws them: torch's `random_split` after seed 0."""
    order = torch.randperm(len(audios), generator=torch.Generator().manual_seed(0)).tolist()
    edge = int(_TRAIN_SHARE * len(audios))
    return [audios[i] for i in order[:edge]], [audios[i] for i in order[edge:]]


def _utterance(audio: str, label: str, split: str) -> Utterance:
    name = Path(audio).stem
    # Ses01F_impro01_M003: session 1, and the man speaks.
    speaker = f"{name[:5]}{name.rpartition('_')[2][:1]}"
    return draft(name, audio, split, "sentence", speaker=speaker, style=label)
