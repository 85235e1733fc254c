"""The corpus of any source, and a report of its content and of the files that were left out."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fithubert.config.data import DataParams, FolderData, PublishedCorpus, SyntheticData
from fithubert.data.folder import import_folder
from fithubert.data.listing import Skipped
from fithubert.data.manifest import Manifest
from fithubert.data.synthetic.corpus import synthesise_corpus

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class PrepareReport:
    """The content of a corpus. `splits`: for each split its utterances, hours, speakers and utterances of each kind.

    `labelled`: the number of utterances with each label. `kept`: the number of source files (of utterances, if they
    are synthesised). `skipped`: what was left out and why. `seconds`: the time it took.
    """

    source: str
    fingerprint: str
    utterances: int
    hours: float
    speakers: int
    splits: dict[str, dict[str, float]]
    labelled: dict[str, int]
    kept: int
    skipped: tuple[Skipped, ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return asdict(self)


def prepare_corpus(
    config: DataParams, out_root: Path, *, jobs: int | None = None, on_progress: Progress | None = None
) -> PrepareReport:
    """Write the corpus of `config` to `out_root` (audio, then the manifest); the report of its content.

    Of a published corpus only the manifest is written. A killed and repeated call writes the same bytes. Raises
    UserError if the source has no usable audio.
    """
    begun = time.monotonic()
    make = _SOURCES.get(config.source, _read_published)
    manifest, skipped, kept = make(config, out_root, jobs, on_progress)
    return describe_corpus(manifest, config.source, kept, skipped, time.monotonic() - begun)


def describe_corpus(
    manifest: Manifest, source: str, kept: int, skipped: tuple[Skipped, ...], seconds: float
) -> PrepareReport:
    """The report of a corpus that has been written."""
    splits: dict[str, dict[str, float]] = {}
    for split in dict.fromkeys(u.split for u in manifest):
        part = manifest.select(split=split)
        totals = {"utterances": len(part), "hours": part.hours, "speakers": len(part.speakers)}
        splits[split] = totals | part.count_by("kind")
    return PrepareReport(
        source=source,
        fingerprint=manifest.fingerprint,
        utterances=len(manifest),
        hours=manifest.hours,
        speakers=len(manifest.speakers),
        splits=splits,
        labelled={label: sum(getattr(u, label) is not None for u in manifest) for label in _LABELS},
        kept=kept,
        skipped=skipped,
        seconds=seconds,
    )


def _synthesise(config: SyntheticData, out_root: Path, jobs: int | None, on_progress: Progress | None) -> Any:
    manifest = synthesise_corpus(config, out_root, jobs=jobs, on_progress=on_progress)
    return manifest, (), len(manifest)


def _import(config: FolderData, out_root: Path, jobs: int | None, on_progress: Progress | None) -> Any:
    imported = import_folder(config, out_root, jobs=jobs, on_progress=on_progress)
    return imported.manifest, imported.skipped, imported.kept_files


def _read_published(config: PublishedCorpus, out_root: Path, _: int | None, on_progress: Progress | None) -> Any:
    # torchaudio's data sets take a while to import.
    from fithubert.data.corpora.registry import import_corpus

    corpus = import_corpus(config, out_root, on_progress)
    return corpus.manifest, corpus.skipped, len(corpus.manifest)


_LABELS = ("speaker", "text", "phones", "keyword", "intent", "slots", "style", "turns", "query")
#: Sources that are written; all others are published corpora.
_SOURCES: dict[str, Callable[..., tuple[Manifest, tuple[Skipped, ...], int]]] = {
    "synthetic": _synthesise,
    "folder": _import,
}
