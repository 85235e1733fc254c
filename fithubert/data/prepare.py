"""The corpus of any source: written or read where it lies, its manifest, and the metrics of its content."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from fithubert.config.data import DataParams, FolderData, LibriSpeechData, PublishedCorpus, SyntheticData
from fithubert.data import place_of
from fithubert.data.corpora import Archive, content, fetch_archive, semantics, speaker
from fithubert.data.corpora.real import read_real
from fithubert.data.folder import import_folder
from fithubert.data.listing import Corpus, Progress
from fithubert.data.manifest import MADE, Manifest, manifest_path, new_audio
from fithubert.data.synthetic.corpus import synthesise_corpus
from fithubert.errors import UserError
from fithubert.records import PrepareMetrics, SkippedRecording

_READERS: dict[str, Callable[[Any, Progress | None], Corpus]] = {
    "fluent_speech_commands": semantics.read_fluent_speech_commands,
    "iemocap": semantics.read_iemocap,
    "libri2mix": speaker.read_libri2mix,
    "librispeech": content.read_librispeech,
    "quesst14": content.read_quesst14,
    "real": read_real,
    "snips": semantics.read_snips,
    "speech_commands": content.read_speech_commands,
    "voxceleb1": speaker.read_voxceleb1,
}
_ARCHIVES: dict[str, Callable[[Any], list[Archive]]] = {
    "librispeech": content.list_librispeech_archives,
    "quesst14": content.list_quesst14_archives,
    "speech_commands": content.list_speech_commands_archives,
}


def prepare_corpus(
    config: DataParams, out_root: Path, *, jobs: int | None = None, on_progress: Progress | None = None
) -> PrepareMetrics:
    """Write the corpus of `config` to `out_root` (audio, then the manifest); the metrics of its content.

    Of a published corpus only the manifest is written. A killed and repeated call writes the same bytes. Raises
    UserError if the source has no usable audio.
    """
    begun = time.monotonic()
    if isinstance(config, SyntheticData):
        corpus = Corpus(synthesise_corpus(config, out_root, jobs=jobs, on_progress=on_progress))
    elif isinstance(config, FolderData):
        corpus = import_folder(config, out_root, jobs=jobs, on_progress=on_progress)
    else:
        corpus = import_corpus(config, out_root, on_progress)
    manifest = corpus.manifest
    return PrepareMetrics(
        source=config.source,
        fingerprint=manifest.fingerprint,
        utterances=len(manifest),
        hours=manifest.hours,
        speakers=len(manifest.speakers),
        splits={split: _summarise(manifest.select(split)) for split in dict.fromkeys(u.split for u in manifest)},
        skipped=tuple(SkippedRecording(entry.path, entry.reason) for entry in corpus.skipped),
        seconds=time.monotonic() - begun,
        notes=corpus.notes or None,
    )


def _summarise(part: Manifest) -> dict[str, float]:
    return {"utterances": len(part), "hours": part.hours, "speakers": len(part.speakers), **part.count_by("kind")}


def read_corpus(config: PublishedCorpus, on_progress: Progress | None = None) -> Corpus:
    """The corpus of `config`, whose audio is not copied; raises UserError with the missing or broken part."""
    corpus = _READERS[config.source](config, on_progress)
    if not config.gain_db:
        return corpus
    louder = tuple(replace(u, gain_db=config.gain_db) for u in corpus.manifest)
    return replace(corpus, manifest=replace(corpus.manifest, utterances=louder))


def import_corpus(config: PublishedCorpus, out_root: Path, on_progress: Progress | None = None) -> Corpus:
    """The corpus of `config`; its manifest is written to `out_root`, and audio that is made of it; none is copied.

    Raises UserError if a part is missing or broken, or the corpus is in the folder that `prepare` empties.
    """
    audio = (out_root / "audio").resolve()
    if config.path.resolve().is_relative_to(audio):
        raise UserError(f"{config.path}: data.path is in {audio}, which prepare empties; use another workspace")
    corpus = read_corpus(config, on_progress)
    manifest = corpus.manifest
    with new_audio(out_root) as folder:  # Deletes the audio of another source.
        made = corpus.write(folder) if corpus.write else ()
    if made:
        rows = [*manifest, *(replace(u, audio=f"{MADE}audio/{u.audio}") for u in made)]
        manifest = replace(manifest, utterances=tuple(sorted(rows, key=place_of)), made=out_root)
    manifest.save(manifest_path(out_root))
    return replace(corpus, manifest=manifest)


def download_corpus(config: PublishedCorpus) -> None:
    """Download the missing archives of `config`, and the missing files of LibriSpeech's lexicon.

    Raises UserError if a corpus has no archives or a download fails.
    """
    if config.source not in _ARCHIVES:
        raise UserError(f"--download: {config.source} has no download; only {', '.join(_ARCHIVES)} have one")
    for archive in _ARCHIVES[config.source](config):
        # If data.path is LibriSpeech/ itself, there must not be another one inside it.
        inside = config.path.name == Path(archive.folder).parts[0]
        fetch_archive(archive, config.path.parent if inside else config.path)
    if isinstance(config, LibriSpeechData):
        content.fetch_lexicon(config)
