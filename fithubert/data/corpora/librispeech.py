"""LibriSpeech: `LibriSpeech/SUBSET/SPEAKER/CHAPTER/*.flac` with `*.trans.txt`, for PR, ASR and distillation.

Metadata by `torchaudio.datasets.LIBRISPEECH`, which covers audio, text and speakers. Phones are those of the lexicon.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from torchaudio.datasets import LIBRISPEECH
from torchaudio.datasets import librispeech as published

from fithubert.config.corpora import LibriSpeechData
from fithubert.data.corpora.archives import Archive
from fithubert.data.corpora.layout import Corpus, Layout, Progress, draft, find_layout
from fithubert.data.corpora.lexicon import FILES, OBTAINED, Lexicon, fetch_lexicon
from fithubert.data.folder import Skipped
from fithubert.data.grammar import normalise
from fithubert.data.labels import CHARACTERS, END, PAD, STRESSED_PHONES, UNKNOWN
from fithubert.data.manifest import Utterance

_HOME = "https://www.openslr.org/12 (`fithubert prepare --source librispeech --download` fetches it)"
_ARCHIVES = "http://www.openslr.org/resources/12"
_FOLDER = "LibriSpeech"


def read_librispeech(config: LibriSpeechData, on_progress: Progress | None = None) -> Corpus:
    """The subsets of `config` as train, dev and test.

    With SUPERB's label spaces: 71 phones and 28 characters, and the special symbols beside the blank that make up 74
    outputs of PR and 32 of ASR. Without the lexicon there are no phones, which is listed. Raises UserError where a
    folder, transcript, lexicon file or word is missing.
    """
    layout = find_layout(config.path, _FOLDER, "LibriSpeech", _HOME)
    lexicon, skipped = _find_lexicon(config, layout)
    subsets = {split: getattr(config, split) for split in ("train", "dev", "test")}
    utterances = [u for split, names in subsets.items() for n in names for u in _read_subset(layout, n, split, lexicon)]
    inventories = {"phones": (*STRESSED_PHONES, END, UNKNOWN), "characters": (*CHARACTERS, PAD, END, UNKNOWN)}
    return Corpus(layout.finish(utterances, on_progress, inventories), skipped)


def list_archives(config: LibriSpeechData) -> list[Archive]:
    """The archives of the subsets of `config`, with the digests that torchaudio holds for them."""
    digests = getattr(published, "_CHECKSUMS", {})
    subsets = (*config.train, *config.dev, *config.test)
    urls = {subset: f"{_ARCHIVES}/{subset}.tar.gz" for subset in subsets}
    return [Archive(u, digests.get(u), f"{_FOLDER}/{s}", f"{_FOLDER}/{s}") for s, u in urls.items()]


def fetch_missing_lexicon(config: LibriSpeechData) -> None:
    """Download what `config.lexicon`, or else the folder `lexicon` in or beside the corpus, lacks of the lexicon."""
    root = config.path if config.path.name == _FOLDER else config.path / _FOLDER
    inside, beside = _lexicon_folders(root)
    fetch_lexicon(config.lexicon or (inside if inside.is_dir() else beside))


def _lexicon_folders(root: Path) -> tuple[Path, Path]:
    """Where the lexicon may be when nothing names its folder: in the corpus, or beside it."""
    return root / "lexicon", root.parent / "lexicon"


def _find_lexicon(config: LibriSpeechData, layout: Layout) -> tuple[Lexicon | None, tuple[Skipped, ...]]:
    if config.lexicon is not None:
        return Lexicon(config.lexicon), ()
    for folder in _lexicon_folders(layout.root):
        if any((folder / name).is_file() for name in FILES):
            return Lexicon(folder), ()
    missing = f"no phones: {FILES[0]} and {FILES[1]} are not there; they come from {OBTAINED}"
    return None, (Skipped("lexicon", missing),)


def _read_subset(layout: Layout, subset: str, split: str, lexicon: Lexicon | None) -> Iterator[Utterance]:
    folder = layout.folder(subset)
    rows = LIBRISPEECH(layout.root, subset, folder_in_archive="")
    if not len(rows):
        raise layout.broken(folder, "holds no SPEAKER/CHAPTER/*.flac")
    for index in range(len(rows)):
        try:
            audio, _, transcript, speaker, _, _ = rows.get_metadata(index)
        except (FileNotFoundError, ValueError) as error:
            raise layout.broken(folder, f"a transcript is missing or broken ({error})") from None
        name, text = Path(audio).stem, normalise(transcript)
        pronunciation = None if lexicon is None else lexicon.pronounce(text, name)
        # Interned: nine million words of 960 hours are 90 thousand.
        words = tuple(map(sys.intern, text.split()))
        yield draft(
            name, layout.relative(audio), split, "sentence",
            speaker=str(speaker), text=text, words=words, pronunciation=pronunciation,
        )  # fmt: skip
