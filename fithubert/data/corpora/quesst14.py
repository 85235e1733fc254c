"""QUESST 2014: `quesst14Database/`, spoken queries and the documents that they are searched in, for QbE.

Audio by `torchaudio.datasets.QUESST14` with the language `nnenglish`, as SUPERB has it; it has no
matches; these are read from the ground truth of the scoring tool.
"""

import re
from collections import defaultdict

from torchaudio.datasets import QUESST14
from torchaudio.datasets import quesst14 as published

from fithubert.config.data import PlainCorpus
from fithubert.data.corpora.layout import Archive, Corpus, Layout, Progress, draft, find_layout

_FOLDER = "quesst14Database"
_HOME = f"{published.URL} (`fithubert prepare --source quesst14 --download` fetches it)"
_SPLITS = {"dev": "dev", "eval": "test"}
_QUERY = re.compile(r"quesst14_(dev|eval)_\d+")


def read_quesst14(config: PlainCorpus, on_progress: Progress | None = None) -> Corpus:
    """Queries of dev and test (eval) with the documents that hold them; documents serve both and are in test.

    Differs: false alarms count over the English documents that are searched; the scoring tool counts over those of
    all languages. Raises UserError if a list is missing or broken.
    """
    layout = find_layout(config.path, _FOLDER, "QUESST 2014", _HOME)
    parent = layout.parent_of(_FOLDER)
    utterances = []
    for subset, listed in (("docs", "utterances"), ("dev", "dev"), ("eval", "eval")):
        name = f"language_key_{listed}.lst"
        layout.file("scoring", name)
        matches = _read_matches(layout, subset) if subset in _SPLITS else {}
        try:
            rows = QUESST14(parent, subset, language="nnenglish")
        except ValueError as error:
            raise layout.broken(f"scoring/{name}", f"not lines of `FILE LANGUAGE` ({error})") from None
        for audio, _, stem in (rows.get_metadata(index) for index in range(len(rows))):
            kind, split = ("query", _SPLITS[subset]) if subset in _SPLITS else ("document", "test")
            utterances.append(draft(stem, audio, split, kind, matches=matches.get(stem)))
    return Corpus(layout.finish(utterances, on_progress))


def list_archives(config: PlainCorpus) -> list[Archive]:
    """The one archive, with the digest that torchaudio holds for it."""
    return [Archive(published.URL, getattr(published, "_CHECKSUM", None), _FOLDER, _FOLDER)]


def _read_matches(layout: Layout, subset: str) -> dict[str, tuple[str, ...]]:
    """Query -> the documents that hold it, from the LEXEME lines of the ground truth."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in layout.lines("scoring", f"groundtruth_quesst14_{subset}", f"quesst14_{subset}.rttm"):
        fields = line.split()
        query = next((field for field in fields if _QUERY.fullmatch(field)), None)
        if fields[0] == "LEXEME" and query is not None:
            found[query].append(fields[1])
    return {query: tuple(sorted(set(documents))) for query, documents in found.items()}
