"""LibriSpeech, and the lexicon that its phones come from."""

import sys
from collections.abc import Iterator
from pathlib import Path

from torchaudio.datasets import librispeech as published

from fithubert.config.data import LibriSpeechData
from fithubert.data.corpora.layout import Archive, Corpus, Layout, Progress, draft, find_layout
from fithubert.data.listing import Skipped, list_visible
from fithubert.data.manifest import Utterance
from fithubert.data.utterance import CHARACTERS, END, PAD, STRESSED_PHONES, UNKNOWN, normalise
from fithubert.downloads import download
from fithubert.errors import UserError
from fithubert.files import split_lines

#: In order of precedence; the first pronunciation of a word is the one that counts.
FILES = ("librispeech-lexicon-200k-g2p.txt", "librispeech-lexicon-allothers-g2p.txt")
OBTAINED = "the folder `lexicon` of the data set s3prl/g2p on Hugging Face"
_ADDRESS = "https://huggingface.co/datasets/s3prl/g2p/raw/main/lexicon"


def fetch_lexicon(folder: Path) -> None:
    """Download the lexicon files that `folder` lacks, resuming interrupted downloads.

    Nobody publishes a checksum of them; a file that is no lexicon is refused when it is read. If a download fails,
    raises UserError with another way.
    """
    for name in FILES:
        if not (folder / name).is_file():
            try:
                download(f"{_ADDRESS}/{name}", folder / name)
            except UserError as error:
                raise UserError(
                    f"{error}; put {name} from {OBTAINED} into {folder}, or run without --download: then there are "
                    "no phones for pr"
                ) from None


class Lexicon:
    """Words -> phones with stress, no silence between words."""

    def __init__(self, folder: Path) -> None:
        """Read both files of `folder`; raises UserError if one is missing or has an unknown phone."""
        self._folder = folder
        self._phones: dict[str, tuple[str, ...]] = {}
        for name in FILES:
            path = folder / name
            if not path.is_file():
                raise UserError(f"{path}: no such lexicon file; it comes from {OBTAINED}")
            for number, line in enumerate(split_lines(path.read_text(encoding="utf-8")), 1):
                word, *phones = line.split() or [""]
                if word and not set(phones) <= _KNOWN:
                    raise UserError(f"{path}: line {number}: {min(set(phones) - _KNOWN)!r} is not one of the 71 phones")
                self._phones.setdefault(word, tuple(phones))

    def pronounce(self, text: str, utterance: str) -> tuple[str, ...]:
        """The phones of a text, word after word; raises UserError for a word that neither file has."""
        missing = [word for word in text.upper().split() if word not in self._phones]
        if missing:
            raise UserError(
                f"{self._folder}: neither lexicon has {missing[0]!r} of {utterance}; get them again from {OBTAINED}"
            )
        return tuple(phone for word in text.upper().split() for phone in self._phones[word])


_KNOWN = frozenset(STRESSED_PHONES)


_HOME = "https://www.openslr.org/12 (`fithubert prepare --source librispeech --download` fetches it)"
_ARCHIVES = "http://www.openslr.org/resources/12"
_FOLDER = "LibriSpeech"
#: The list of all speakers with their sexes; every archive has it.
SPEAKERS = "SPEAKERS.TXT"
#: The published format first: of one recording in two formats the first counts.
_SUFFIXES = (".flac", ".wav", ".ogg", ".opus")


def read_librispeech(config: LibriSpeechData, on_progress: Progress | None = None) -> Corpus:
    """The subsets of `config` as train, dev and test.

    With SUPERB's label spaces: 71 phones and 28 characters, and the special symbols besides the blank, which give 74
    outputs of PR and 32 of ASR. Without the lexicon there are no phones, which is listed. Raises UserError if a
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
    return [Archive(u, digests.get(u), f"{_FOLDER}/{s}", f"{_FOLDER}/{s}", (SPEAKERS,)) for s, u in urls.items()]


def fetch_missing_lexicon(config: LibriSpeechData) -> None:
    """Download missing lexicon files to `config.lexicon`, by default the folder `lexicon` in or next to the corpus."""
    root = config.path if config.path.name == _FOLDER else config.path / _FOLDER
    inside, outside = _lexicon_folders(root)
    fetch_lexicon(config.lexicon or (inside if inside.is_dir() else outside))


def _lexicon_folders(root: Path) -> tuple[Path, Path]:
    """The default folders of the lexicon: in the corpus, or next to it."""
    return root / "lexicon", root.parent / "lexicon"


def _find_lexicon(config: LibriSpeechData, layout: Layout) -> tuple[Lexicon | None, tuple[Skipped, ...]]:
    if config.lexicon is not None:
        return Lexicon(config.lexicon), ()
    for folder in _lexicon_folders(layout.root):
        if any((folder / name).is_file() for name in FILES):
            return Lexicon(folder), ()
    missing = f"no phones: {FILES[0]} and {FILES[1]} are missing; they come from {OBTAINED}"
    return None, (Skipped("lexicon", missing),)


def find_audio(layout: Layout, *subset: str) -> list[Path]:
    """The recordings `SPEAKER/CHAPTER/SPEAKER-CHAPTER-NUMBER` of a subset, sorted by name, as flac, wav, ogg or opus.

    Raises UserError if the folder is missing or holds none.
    """
    folder = layout.folder(*subset)
    found = [path for suffix in reversed(_SUFFIXES) for path in list_visible(folder, f"*/*/*{suffix}")]
    if not found:
        raise layout.broken(folder, "holds no SPEAKER/CHAPTER/*.flac (or wav, ogg, opus)")
    return sorted({path.stem: path for path in found}.values(), key=lambda path: path.stem)


def read_transcripts(layout: Layout, *subset: str) -> Iterator[tuple[Path, str]]:
    """Each recording of a subset with its text, lower case without punctuation; raises UserError if one has none."""
    texts: dict[str, str] = {}
    for path in find_audio(layout, *subset):
        listed = path.with_name(f"{path.stem.rpartition('-')[0]}.trans.txt")
        if path.stem not in texts:
            texts |= dict(line.split(" ", 1) for line in layout.lines(layout.relative(listed)) if " " in line)
        if path.stem not in texts:
            raise layout.broken(listed, f"has no line for {path.stem}")
        yield path, normalise(texts[path.stem])


def speaker_of(path: Path) -> str:
    """SPEAKER of `SPEAKER-CHAPTER-NUMBER`."""
    return path.stem.partition("-")[0]


def _read_subset(layout: Layout, subset: str, split: str, lexicon: Lexicon | None) -> Iterator[Utterance]:
    for path, text in read_transcripts(layout, subset):
        pronunciation = None if lexicon is None else lexicon.pronounce(text, path.stem)
        # Interned, because the nine million words of 960 hours are 90,000 different ones.
        words = tuple(map(sys.intern, text.split()))
        yield draft(
            path.stem, layout.relative(path), split, "sentence",
            speaker=speaker_of(path), text=text, words=words, pronunciation=pronunciation,
        )  # fmt: skip
