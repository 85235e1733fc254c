"""Speech Commands v0.01 and its separate test set: twelve classes for KS.

Own reader: `torchaudio.datasets.SPEECHCOMMANDS` splits by the same rule, but knows neither the test archive, nor the
twelve classes, nor silence.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from torchaudio.datasets import speechcommands as published

from fithubert.config.data import PlainCorpus
from fithubert.data.corpora.layout import Archive, Corpus, Layout, Progress, draft, find_layout
from fithubert.data.listing import list_visible
from fithubert.data.manifest import Utterance
from fithubert.data.utterance import KEYWORDS, OTHER_WORD, SILENCE
from fithubert.frames import SAMPLE_RATE_HZ

_TRAINING, _TEST, _NOISE = "speech_commands_v0.01", "speech_commands_test_set_v0.01", "_background_noise_"
_ARCHIVES = "http://download.tensorflow.org/data"
_HOME = f"{_ARCHIVES} (`fithubert prepare --source speech_commands --download` fetches it)"
#: Of the published rule that assigns a speaker to a split.
_MOST_FILES = 2**27 - 1


def read_speech_commands(config: PlainCorpus, on_progress: Progress | None = None) -> Corpus:
    """Keyword clips of train, dev (by the published hash of the speaker) and test (the test set's own folders).

    Silence in train and dev is every whole second of the background noises, those of dev half a second later; the
    official loader has each noise once and cuts a random second at every access. With draws balanced over classes,
    which the task makes, both draw seconds of the same noises equally often. Raises UserError if a folder is
    missing.
    """
    layout = find_layout(config.path, "SpeechCommands", "Speech Commands v0.01", _HOME)
    utterances = [*_read_training(layout), *_read_silence(layout), *_read_test(layout)]
    return Corpus(layout.finish(utterances, on_progress))


def list_archives(config: PlainCorpus) -> list[Archive]:
    """Both archives; a digest is published for the first only."""
    digests = getattr(published, "_CHECKSUMS", {})
    urls = {folder: f"{_ARCHIVES}/{folder}.tar.gz" for folder in (_TRAINING, _TEST)}
    return [Archive(url, digests.get(url), "", folder) for folder, url in urls.items()]


def split_of_speaker(name: str) -> str | None:
    """`train`, `dev`, or None if it is left out, by the file's name up to `_nohash_`."""
    number = int(hashlib.sha1(name.split("_nohash_")[0].encode(), usedforsecurity=False).hexdigest(), 16)
    percent = number % (_MOST_FILES + 1) * 100 / _MOST_FILES
    return "dev" if percent < 10 else None if percent < 20 else "train"


def _read_training(layout: Layout) -> Iterator[Utterance]:
    words = [folder for folder in list_visible(layout.folder(_TRAINING)) if folder.is_dir()]
    missing = set(KEYWORDS) - {folder.name for folder in words}
    if missing:
        layout.folder(_TRAINING, min(missing))
    for folder in words:
        if folder.name == _NOISE:
            continue
        for path in list_visible(folder, "*.wav"):
            split = split_of_speaker(path.name)
            if split is not None:
                yield _clip(layout, path, split, folder.name if folder.name in KEYWORDS else OTHER_WORD)


def _read_silence(layout: Layout) -> Iterator[Utterance]:
    noises = list_visible(layout.folder(_TRAINING, _NOISE), "*.wav")
    if not noises:
        raise layout.broken(Path(_TRAINING, _NOISE), "holds no wav files")
    for path in noises:
        audio = layout.relative(path)
        length, _ = layout.measure(audio)
        for split, offset in (("train", 0), ("dev", SAMPLE_RATE_HZ // 2)):
            for first in range(offset, length - SAMPLE_RATE_HZ + 1, SAMPLE_RATE_HZ):
                yield Utterance(
                    f"{audio.removesuffix('.wav')}/{first}", audio, "", split, "keyword", SAMPLE_RATE_HZ,
                    keyword=SILENCE, first_sample=first,
                )  # fmt: skip


def _read_test(layout: Layout) -> Iterator[Utterance]:
    for keyword in (*KEYWORDS, OTHER_WORD, SILENCE):
        folder = layout.folder(_TEST, keyword)
        paths = list_visible(folder, "*.wav")
        if not paths:
            raise layout.broken(folder, "holds no wav files")
        yield from (_clip(layout, path, "test", keyword) for path in paths)


def _clip(layout: Layout, path: Path, split: str, keyword: str) -> Utterance:
    audio = layout.relative(path)
    speaker = None if keyword == SILENCE else path.name.split("_nohash_")[0]
    return draft(audio.removesuffix(".wav"), audio, split, "keyword", speaker=speaker, keyword=keyword)
