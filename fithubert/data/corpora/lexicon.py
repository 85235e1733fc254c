"""Phones of words by the two lexicon files that SUPERB's phone recognition looks them up in."""

from pathlib import Path

from fithubert.data.labels import STRESSED_PHONES
from fithubert.download import download
from fithubert.errors import UserError

#: In order of precedence; the first pronunciation of a word is the one that counts.
FILES = ("librispeech-lexicon-200k-g2p.txt", "librispeech-lexicon-allothers-g2p.txt")
OBTAINED = "the folder `lexicon` of the data set s3prl/g2p on Hugging Face"
_ADDRESS = "https://huggingface.co/datasets/s3prl/g2p/raw/main/lexicon"


def fetch_lexicon(folder: Path) -> None:
    """Download the lexicon files that `folder` lacks, resumed where an earlier call was interrupted.

    Nobody publishes a checksum of them; a file that is no lexicon is refused when it is read. Raises UserError saying
    how to go on where they cannot be had.
    """
    for name in FILES:
        if not (folder / name).is_file():
            try:
                download(f"{_ADDRESS}/{name}", folder / name)
            except UserError as error:
                raise UserError(
                    f"{error}; put {name} from {OBTAINED} into {folder}, or go on without --download: then there are "
                    "no phones for pr"
                ) from None


class Lexicon:
    """Words -> phones with stress, no silence between words."""

    def __init__(self, folder: Path) -> None:
        """Read both files of `folder`; raises UserError where one is missing or has a phone that is none."""
        self._folder = folder
        self._phones: dict[str, tuple[str, ...]] = {}
        for name in FILES:
            path = folder / name
            if not path.is_file():
                raise UserError(f"{path}: no such lexicon file; it comes from {OBTAINED}")
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                word, *phones = line.split() or [""]
                if word and not set(phones) <= _KNOWN:
                    raise UserError(f"{path}: line {number}: {min(set(phones) - _KNOWN)!r} is none of the 71 phones")
                self._phones.setdefault(word, tuple(phones))

    def pronounce(self, text: str, utterance: str) -> tuple[str, ...]:
        """The phones of a text, word after word; raises UserError for a word that neither file has."""
        missing = [word for word in text.upper().split() if word not in self._phones]
        if missing:
            raise UserError(
                f"{self._folder}: neither lexicon file has {missing[0]!r} of {utterance}; get them anew from {OBTAINED}"
            )
        return tuple(phone for word in text.upper().split() for phone in self._phones[word])


_KNOWN = frozenset(STRESSED_PHONES)
