"""Published corpora by name: how each is read, and which can be downloaded."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from fithubert.config.data import LibriSpeechData, PublishedCorpus
from fithubert.data.corpora import (
    fluent_speech_commands,
    iemocap,
    libri2mix,
    librispeech,
    quesst14,
    real,
    snips,
    speech_commands,
    voxceleb1,
)
from fithubert.data.corpora.layout import Archive, Corpus, Progress, fetch_archive, place_of
from fithubert.data.manifest import MADE, manifest_path, new_audio
from fithubert.errors import UserError

_READERS: dict[str, Callable[[Any, Progress | None], Corpus]] = {
    "fluent_speech_commands": fluent_speech_commands.read_fluent_speech_commands,
    "iemocap": iemocap.read_iemocap,
    "libri2mix": libri2mix.read_libri2mix,
    "librispeech": librispeech.read_librispeech,
    "quesst14": quesst14.read_quesst14,
    "real": real.read_real,
    "snips": snips.read_snips,
    "speech_commands": speech_commands.read_speech_commands,
    "voxceleb1": voxceleb1.read_voxceleb1,
}
_ARCHIVES: dict[str, Callable[[Any], list[Archive]]] = {
    "librispeech": librispeech.list_archives,
    "quesst14": quesst14.list_archives,
    "speech_commands": speech_commands.list_archives,
}


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
        librispeech.fetch_missing_lexicon(config)
