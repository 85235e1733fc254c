"""A folder of recordings as a corpus: every usable file, and the reason why any other is left out."""

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from fithubert.config.data import FolderData
from fithubert.data.audio import SEGMENT_SECONDS, UnusableError, check_recording, encode_flac, is_silent, read_segments
from fithubert.data.listing import Skipped, as_text, find_recordings, name_formats
from fithubert.data.manifest import Manifest, manifest_path, new_audio
from fithubert.data.transcripts import find_transcripts
from fithubert.data.utterance import SPLITS, Utterance, normalise
from fithubert.errors import UserError
from fithubert.files import digest
from fithubert.frames import HUBERT_MIN_SAMPLES, SAMPLE_RATE_HZ

#: A recording with a transcript is kept whole up to here; cutting a longer one loses the transcript.
MAX_TRANSCRIBED_SECONDS = 40.0


@dataclass(frozen=True)
class FolderImport:
    """The corpus of a folder, the files that were left out, and the number of files that were used."""

    manifest: Manifest
    skipped: tuple[Skipped, ...]
    kept_files: int


@dataclass(frozen=True)
class _Imported:
    utterances: tuple[Utterance, ...]
    skipped: tuple[Skipped, ...]


def import_folder(
    config: FolderData,
    out_root: Path,
    *,
    jobs: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> FolderImport:
    """The corpus of `config.path`, converted to 16 kHz mono FLAC in `out_root/audio`, and its manifest.

    A file that cannot be read, is empty, silent, not finite, truncated or shorter than one frame, and a second copy of
    the same audio are left out and listed, as are lines of the table of transcripts that name no recording. Recordings
    over 20 s are cut at quiet places. Speakers are the folders of the first level below what all recordings share (or
    LibriSpeech's). The bytes depend on the folder and on `config` alone. Raises UserError if the folder is missing,
    holds nothing usable or overlaps `out_root`.
    """
    root = config.path
    _check_places(root, out_root)
    found = find_recordings(root)
    paths, skipped = found.paths, found.skipped
    if not paths and not skipped:
        raise UserError(f"{root}: data.path holds no recordings ({name_formats()})")
    transcripts = find_transcripts(root, paths, config.transcripts)
    if transcripts.note is not None:
        skipped.append(Skipped(as_text(config.transcripts or ""), transcripts.note))
    texts, speakers = transcripts.texts, _name_speakers(paths)
    with new_audio(out_root) as folder:
        with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as pool:
            parts = pool.map(lambda p: _import_file(root, p, folder, texts.get(p), speakers[p]), paths)
            imported: list[_Imported] = []
            for part in parts:
                imported.append(part)
                if on_progress:
                    on_progress(len(imported), len(paths))
        kept, copies = _drop_copies(paths, imported, folder)
        skipped = sorted([*skipped, *(s for part in imported for s in part.skipped), *copies], key=lambda s: s.path)
        if not kept:
            raise UserError(
                f"{root}: data.path holds no usable recording; {len(skipped)} skipped, the first: "
                f"{skipped[0].path}: {skipped[0].reason}"
            )
    if found.hidden:
        skipped.append(Skipped(".", f"{found.hidden} hidden recordings or folders are passed over"))
    manifest = Manifest(_split(kept, config), out_root)
    manifest.save(manifest_path(out_root))
    return FolderImport(manifest, tuple(skipped), len(kept))


def _check_places(root: Path, out_root: Path) -> None:
    if not root.is_dir():
        raise UserError(f"{root}: data.path is not a folder")
    source, audio = root.resolve(), (out_root / "audio").resolve()
    if audio.is_relative_to(source) or source.is_relative_to(audio):
        raise UserError(f"{root}: data.path and the output {audio} contain one another; use another workspace")


def _import_file(root: Path, path: Path, folder: Path, text: str | None, speaker: str | None) -> _Imported:
    spoken = normalise(text) if text else ""
    try:
        checked = check_recording(root / path)
    except UnusableError as error:
        return _Imported((), (Skipped(as_text(path), str(error)),))
    whole = bool(spoken) and checked.seconds <= MAX_TRANSCRIBED_SECONDS
    skipped = []
    if spoken and not whole:
        skipped.append(Skipped(as_text(path), f"transcript left out: {checked.seconds:.1f} s are cut into segments"))
    # Just below the limit, so that rounding in the resampling cannot give two segments one name.
    single = whole or checked.seconds < SEGMENT_SECONDS[1] - 0.1
    utterances = []
    for number, (position, samples) in enumerate(read_segments(root / path, checked.peak, whole)):
        if len(samples) < HUBERT_MIN_SAMPLES or is_silent(samples):
            begin, end = position / SAMPLE_RATE_HZ, (position + len(samples)) / SAMPLE_RATE_HZ
            skipped.append(Skipped(as_text(path), f"silent from {begin:.1f} s to {end:.1f} s"))
            continue
        name = _name(path) if single else f"{_name(path)}-{number:04d}"
        encoded = encode_flac(samples)
        (folder / f"{name}.flac").write_bytes(encoded)
        row = Utterance(name, f"audio/{name}.flac", digest(encoded), "train", "sentence", len(samples), speaker)
        utterances.append(replace(row, text=spoken, words=tuple(spoken.split())) if whole else row)
    return _Imported(tuple(utterances), tuple(skipped))


def _drop_copies(
    paths: Sequence[Path], imported: Sequence[_Imported], folder: Path
) -> tuple[list[tuple[Utterance, ...]], list[Skipped]]:
    """The recordings without copies, and the copies: the same audio in two splits would invalidate the test."""
    first: dict[tuple[str, ...], Path] = {}
    kept, copies = [], []
    for path, part in zip(paths, imported, strict=True):
        if not part.utterances:
            continue
        original = first.setdefault(tuple(u.digest for u in part.utterances), path)
        if original == path:
            kept.append(part.utterances)
        else:
            copies.append(Skipped(as_text(path), f"the same audio as {as_text(original)}"))
            for utterance in part.utterances:
                (folder / Path(utterance.audio).name).unlink()
    return kept, copies


def _split(recordings: Sequence[tuple[Utterance, ...]], config: FolderData) -> tuple[Utterance, ...]:
    """All utterances with their splits: whole recordings, or single segments if there are fewer than three."""
    units = list(recordings) if len(recordings) >= 3 else [(u,) for part in recordings for u in part]
    drawn = sorted(units, key=lambda unit: hashlib.sha256(f"{config.seed}/{unit[0].id}".encode()).digest())
    dev = max(1, round(config.dev_share * len(units))) if len(units) > 1 else 0
    test = max(1, round(config.test_share * len(units))) if len(units) > 2 else 0
    named = [*(["dev"] * dev), *(["test"] * test), *(["train"] * (len(units) - dev - test))]
    rows = [replace(u, split=split) for unit, split in zip(drawn, named, strict=True) for u in unit]
    return tuple(sorted(rows, key=lambda u: (SPLITS.index(u.split), u.id)))


def _name_speakers(paths: Sequence[Path]) -> dict[Path, str | None]:
    """The speaker of each recording: its first folder below the folder that all share; None in the shared folder."""
    shared = Path(os.path.commonpath([p.parent for p in paths])) if paths else Path()
    depth = len(shared.parts)
    return {
        p: _librispeech_speaker(p) or (as_text(p.parts[depth]) if len(p.parts) > depth + 1 else None) for p in paths
    }


def _librispeech_speaker(path: Path) -> str | None:
    """SPEAKER of `SPEAKER/CHAPTER/SPEAKER-CHAPTER-NUMBER.flac`."""
    if len(path.parts) < 3 or not path.stem.startswith(f"{path.parts[-3]}-{path.parts[-2]}-"):
        return None
    return path.parts[-3]


def _name(path: Path) -> str:
    """A file name for the corpus: the readable part of `path` and a digest, so that no two are equal."""
    readable = re.sub("[^A-Za-z0-9]+", "-", path.with_suffix("").as_posix()).strip("-")[-60:]
    return f"{readable}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:10]}".lstrip("-")
