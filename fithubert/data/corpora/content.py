"""Corpora of content: LibriSpeech and its lexicon (PR, ASR), Speech Commands (KS) and QUESST 2014 (QbE)."""

import hashlib
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from torchaudio.datasets import QUESST14, librispeech, quesst14, speechcommands

from fithubert.config.data import LibriSpeechData, PlainCorpus
from fithubert.data import (
    CHARACTERS,
    END,
    KEYWORDS,
    OTHER_WORD,
    PAD,
    SILENCE,
    STRESSED_PHONES,
    UNKNOWN,
    Utterance,
    normalise,
)
from fithubert.data.corpora import Archive, Layout, draft, find_layout
from fithubert.data.listing import Corpus, Progress, Skipped, list_visible
from fithubert.downloads import download
from fithubert.errors import UserError
from fithubert.files import split_lines
from fithubert.frames import SAMPLE_RATE_HZ

#: In order of precedence; the first pronunciation of a word is the one that counts.
LEXICON_FILES = ("librispeech-lexicon-200k-g2p.txt", "librispeech-lexicon-allothers-g2p.txt")
_PHONES_HOME = "the folder `lexicon` of the data set s3prl/g2p on Hugging Face"
_LEXICON_ADDRESS = "https://huggingface.co/datasets/s3prl/g2p/raw/main/lexicon"


class Lexicon:
    """Words -> phones with stress, no silence between words."""

    def __init__(self, folder: Path) -> None:
        """Read both files of `folder`; raises UserError if one is missing or has an unknown phone."""
        self._folder = folder
        self._phones: dict[str, tuple[str, ...]] = {}
        for name in LEXICON_FILES:
            path = folder / name
            if not path.is_file():
                raise UserError(f"{path}: no such lexicon file; it comes from {_PHONES_HOME}")
            for number, line in enumerate(split_lines(path.read_text(encoding="utf-8")), 1):
                word, *phones = line.split() or [""]
                unknown = set(phones) - set(STRESSED_PHONES)
                if unknown:
                    raise UserError(f"{path}: line {number}: {min(unknown)!r} is not one of the 71 phones")
                self._phones.setdefault(word, tuple(phones))

    def pronounce(self, text: str, utterance: str) -> tuple[str, ...]:
        """The phones of a text, word after word; raises UserError for a word that neither file has."""
        missing = [word for word in text.upper().split() if word not in self._phones]
        if missing:
            raise UserError(
                f"{self._folder}: neither lexicon has {missing[0]!r} of {utterance}; get them again from {_PHONES_HOME}"
            )
        return tuple(phone for word in text.upper().split() for phone in self._phones[word])


_BOOKS_HOME = "https://www.openslr.org/12 (`fithubert prepare --source librispeech --download` fetches it)"
_BOOKS_ADDRESS = "http://www.openslr.org/resources/12"
_BOOKS = "LibriSpeech"
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
    layout = find_layout(config.path, _BOOKS, "LibriSpeech", _BOOKS_HOME)
    lexicon, skipped = _find_lexicon(config, layout)
    subsets = {split: getattr(config, split) for split in ("train", "dev", "test")}
    utterances = [u for split, names in subsets.items() for n in names for u in _read_subset(layout, n, split, lexicon)]
    inventories = {"phones": (*STRESSED_PHONES, END, UNKNOWN), "characters": (*CHARACTERS, PAD, END, UNKNOWN)}
    return Corpus(layout.finish(utterances, on_progress, inventories), skipped)


def list_librispeech_archives(config: LibriSpeechData) -> list[Archive]:
    """The archives of the subsets of `config`, with the digests that torchaudio holds for them."""
    digests = getattr(librispeech, "_CHECKSUMS", {})
    subsets = (*config.train, *config.dev, *config.test)
    urls = {subset: f"{_BOOKS_ADDRESS}/{subset}.tar.gz" for subset in subsets}
    return [Archive(u, digests.get(u), f"{_BOOKS}/{s}", f"{_BOOKS}/{s}", (SPEAKERS,)) for s, u in urls.items()]


def fetch_lexicon(config: LibriSpeechData) -> None:
    """Download missing lexicon files to `config.lexicon`, by default the folder `lexicon` in or next to the corpus.

    An interrupted download resumes. Nobody publishes a checksum; a file that is no lexicon is refused when it is read.
    Raises UserError with another way if a download fails.
    """
    root = config.path if config.path.name == _BOOKS else config.path / _BOOKS
    inside, outside = root / "lexicon", root.parent / "lexicon"
    folder = config.lexicon or (inside if inside.is_dir() else outside)
    for name in LEXICON_FILES:
        if not (folder / name).is_file():
            try:
                download(f"{_LEXICON_ADDRESS}/{name}", folder / name)
            except UserError as error:
                raise UserError(
                    f"{error}; put {name} from {_PHONES_HOME} into {folder}, or run without --download: then there are "
                    "no phones for pr"
                ) from None


def _find_lexicon(config: LibriSpeechData, layout: Layout) -> tuple[Lexicon | None, tuple[Skipped, ...]]:
    if config.lexicon is not None:
        return Lexicon(config.lexicon), ()
    for folder in (layout.root / "lexicon", layout.root.parent / "lexicon"):
        if any((folder / name).is_file() for name in LEXICON_FILES):
            return Lexicon(folder), ()
    missing = f"no phones: {LEXICON_FILES[0]} and {LEXICON_FILES[1]} are missing; they come from {_PHONES_HOME}"
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


_TRAINING, _TEST, _NOISE = "speech_commands_v0.01", "speech_commands_test_set_v0.01", "_background_noise_"
_COMMANDS_ADDRESS = "http://download.tensorflow.org/data"
_COMMANDS_HOME = f"{_COMMANDS_ADDRESS} (`fithubert prepare --source speech_commands --download` fetches it)"
#: Of the published rule that assigns a speaker to a split.
_MOST_FILES = 2**27 - 1


def read_speech_commands(config: PlainCorpus, on_progress: Progress | None = None) -> Corpus:
    """Twelve classes of keyword clips: train, dev (by the published hash of the speaker) and test (its own archive).

    Silence in train and dev is every whole second of the background noises, those of dev half a second later; the
    official loader has each noise once and cuts a random second at every access. With draws balanced over classes,
    which the task makes, both draw seconds of the same noises equally often. Own reader:
    `torchaudio.datasets.SPEECHCOMMANDS` knows neither the test archive, nor the twelve classes, nor silence. Raises
    UserError if a folder is missing.
    """
    layout = find_layout(config.path, "SpeechCommands", "Speech Commands v0.01", _COMMANDS_HOME)
    utterances = [*_read_training(layout), *_read_silence(layout), *_read_test(layout)]
    return Corpus(layout.finish(utterances, on_progress))


def list_speech_commands_archives(config: PlainCorpus) -> list[Archive]:
    """Both archives; a digest is published for the first only."""
    digests = getattr(speechcommands, "_CHECKSUMS", {})
    urls = {folder: f"{_COMMANDS_ADDRESS}/{folder}.tar.gz" for folder in (_TRAINING, _TEST)}
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
    for path in layout.files("*.wav", _TRAINING, _NOISE):
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
        yield from (_clip(layout, path, "test", keyword) for path in layout.files("*.wav", _TEST, keyword))


def _clip(layout: Layout, path: Path, split: str, keyword: str) -> Utterance:
    audio = layout.relative(path)
    speaker = None if keyword == SILENCE else path.name.split("_nohash_")[0]
    return draft(audio.removesuffix(".wav"), audio, split, "keyword", speaker=speaker, keyword=keyword)


_QUESST = "quesst14Database"
_QUESST_HOME = f"{quesst14.URL} (`fithubert prepare --source quesst14 --download` fetches it)"
_QUERY_SPLITS = {"dev": "dev", "eval": "test"}
_QUERY_NAME = re.compile(r"quesst14_(dev|eval)_\d+")


def read_quesst14(config: PlainCorpus, on_progress: Progress | None = None) -> Corpus:
    """Queries of dev and test (eval) with the documents that hold them; documents serve both and are in test.

    Audio by `torchaudio.datasets.QUESST14` with the language `nnenglish`, as SUPERB has it; matches by the ground truth
    of the scoring tool. Differs: false alarms count over the English documents that are searched, not over those of
    all languages. Raises UserError if a list is missing or broken.
    """
    layout = find_layout(config.path, _QUESST, "QUESST 2014", _QUESST_HOME)
    parent = layout.parent_of(_QUESST)
    utterances = []
    for subset, listed in (("docs", "utterances"), ("dev", "dev"), ("eval", "eval")):
        name = f"language_key_{listed}.lst"
        layout.file("scoring", name)
        matches = _read_matches(layout, subset) if subset in _QUERY_SPLITS else {}
        try:
            rows = QUESST14(parent, subset, language="nnenglish")
        except ValueError as error:
            raise layout.broken(f"scoring/{name}", f"not lines of `FILE LANGUAGE` ({error})") from None
        for audio, _, stem in (rows.get_metadata(index) for index in range(len(rows))):
            kind, split = ("query", _QUERY_SPLITS[subset]) if subset in _QUERY_SPLITS else ("document", "test")
            utterances.append(draft(stem, audio, split, kind, matches=matches.get(stem)))
    return Corpus(layout.finish(utterances, on_progress))


def list_quesst14_archives(config: PlainCorpus) -> list[Archive]:
    """The one archive, with the digest that torchaudio holds for it."""
    return [Archive(quesst14.URL, getattr(quesst14, "_CHECKSUM", None), _QUESST, _QUESST)]


def _read_matches(layout: Layout, subset: str) -> dict[str, tuple[str, ...]]:
    """Query -> the documents that hold it, from the LEXEME lines of the ground truth."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in layout.lines("scoring", f"groundtruth_quesst14_{subset}", f"quesst14_{subset}.rttm"):
        fields = line.split()
        query = next((field for field in fields if _QUERY_NAME.fullmatch(field)), None)
        if fields[0] == "LEXEME" and query is not None:
            found[query].append(fields[1])
    return {query: tuple(sorted(set(documents))) for query, documents in found.items()}
