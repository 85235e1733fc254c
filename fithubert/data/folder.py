"""A folder of recordings as a corpus: every usable file with its transcript, and why any other is left out."""

import hashlib
import os
import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from fithubert.config.data import FolderData
from fithubert.data import Utterance, draw, normalise, place_of
from fithubert.data.audio import SEGMENT_SECONDS, UnusableError, check_recording, encode_flac, is_silent, read_segments
from fithubert.data.listing import (
    Corpus,
    Progress,
    Skipped,
    as_text,
    count_cores,
    find_recordings,
    list_visible,
    map_in_threads,
    name_formats,
    note_low_rates,
)
from fithubert.data.manifest import Manifest, manifest_path, new_audio
from fithubert.errors import UserError
from fithubert.files import check_regular, digest, split_lines
from fithubert.frames import HUBERT_MIN_SAMPLES, SAMPLE_RATE_HZ

#: A recording with a transcript is kept whole up to here; cutting a longer one loses the transcript.
MAX_TRANSCRIBED_SECONDS = 40.0


#: Of one file: its utterances, what was left out of it, and its sample rate in Hz, 0 if it cannot be used.
_Imported = tuple[tuple[Utterance, ...], tuple[Skipped, ...], int]


def import_folder(
    config: FolderData, out_root: Path, *, jobs: int | None = None, on_progress: Progress | None = None
) -> Corpus:
    """The corpus of `config.path`, converted to 16 kHz mono FLAC in `out_root/audio`, and its manifest.

    A file that cannot be read, is empty, silent, not finite, truncated or shorter than one frame, and a second copy of
    the same audio are left out and listed, as are lines of the table of transcripts that name no recording. Recordings
    over 20 s are cut at quiet places. Speakers are the folders of the first level below what all recordings share (or
    LibriSpeech's). The bytes depend on the folder and on `config` alone. Raises UserError if the folder is missing,
    holds nothing usable or overlaps `out_root`.
    """
    root = config.path
    check_places(root, out_root)
    found = find_recordings(root)
    paths, skipped = found.paths, found.skipped
    if not paths and not skipped:
        raise UserError(f"{root}: data.path holds no recordings ({name_formats()})")
    texts, note = find_transcripts(root, paths, config.transcripts)
    if note is not None:
        skipped.append(Skipped(as_text(config.transcripts or ""), note))
    with new_audio(out_root) as folder:
        convert = partial(_import_file, root, folder, texts, _name_speakers(paths))
        imported = map_in_threads(convert, paths, jobs or count_cores(), on_progress)
        kept, copies = _drop_copies(paths, [utterances for utterances, _, _ in imported], folder)
        skipped += [*(s for _, left_out, _ in imported for s in left_out), *copies]
        skipped.sort(key=lambda s: s.path)
        if not kept:
            raise UserError(
                f"{root}: data.path holds no usable recording; {len(skipped)} skipped, the first: "
                f"{skipped[0].path}: {skipped[0].reason}"
            )
    if found.hidden:
        skipped.append(Skipped(".", f"{found.hidden} hidden recordings or folders are passed over"))
    manifest = Manifest(_split(kept, config), out_root)
    manifest.save(manifest_path(out_root))
    notes = note_low_rates(rate_hz for utterances, _, rate_hz in imported if utterances)
    return Corpus(manifest, tuple(skipped), notes=notes)


def check_places(root: Path, out_root: Path) -> None:
    """Raise UserError unless `root` is a folder that does not overlap with the audio of a corpus in `out_root`."""
    if not root.is_dir():
        raise UserError(f"{root}: data.path is not a folder")
    source, audio = root.resolve(), (out_root / "audio").resolve()
    if audio.is_relative_to(source) or source.is_relative_to(audio):
        raise UserError(f"{root}: data.path and the output {audio} contain one another; use another workspace")


def _import_file(
    root: Path, folder: Path, texts: dict[Path, str], speakers: dict[Path, str | None], path: Path
) -> _Imported:
    spoken = normalise(texts.get(path, ""))
    try:
        checked = check_recording(root / path)
    except UnusableError as error:
        return (), (Skipped(as_text(path), str(error)),), 0
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
        row = Utterance(name, f"audio/{name}.flac", digest(encoded), "train", "sentence", len(samples), speakers[path])
        utterances.append(replace(row, text=spoken, words=tuple(spoken.split())) if whole else row)
    return tuple(utterances), tuple(skipped), checked.rate_hz


def _drop_copies(
    paths: Sequence[Path], imported: Sequence[tuple[Utterance, ...]], folder: Path
) -> tuple[list[tuple[Utterance, ...]], list[Skipped]]:
    """The recordings without copies, and the copies: the same audio in two splits would invalidate the test."""
    first: dict[tuple[str, ...], Path] = {}
    kept, copies = [], []
    for path, utterances in zip(paths, imported, strict=True):
        original = first.setdefault(tuple(u.digest for u in utterances), path) if utterances else None
        if original == path:
            kept.append(utterances)
        elif original is not None:
            copies.append(Skipped(as_text(path), f"the same audio as {as_text(original)}"))
            for utterance in utterances:
                (folder / Path(utterance.audio).name).unlink()
    return kept, copies


def _split(recordings: Sequence[tuple[Utterance, ...]], config: FolderData) -> tuple[Utterance, ...]:
    """All utterances with their splits: whole recordings, or single segments if there are fewer than three."""
    units = list(recordings) if len(recordings) >= 3 else [(u,) for part in recordings for u in part]
    drawn = sorted(units, key=lambda unit: draw(config.seed, unit[0].id))
    dev = max(1, round(config.dev_share * len(units))) if len(units) > 1 else 0
    test = max(1, round(config.test_share * len(units))) if len(units) > 2 else 0
    named = [*(["dev"] * dev), *(["test"] * test), *(["train"] * (len(units) - dev - test))]
    rows = [replace(u, split=split) for unit, split in zip(drawn, named, strict=True) for u in unit]
    return tuple(sorted(rows, key=place_of))


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


#: Names of the column of texts; Common Voice has `sentence`.
_TEXT_COLUMNS = ("text", "sentence", "transcript", "transcription")


def find_transcripts(root: Path, recordings: Sequence[Path], table: Path | None) -> tuple[dict[Path, str], str | None]:
    """The raw texts of those of the recordings (relative to `root`) that have one, and why lines of `table` are unused.

    In order of precedence: the lines `path<TAB>text` of `table`; the lines `STEM TEXT` of `*.trans.txt` in the
    recording's folder; a `.txt` file of its name. A text file that is not UTF-8 is ignored. Paths in the table are
    relative to `root` or absolute, in any spelling; a name without folder or suffix is enough if one recording alone
    has it. The first line may name the columns, as in Common Voice. Raises UserError if `table` is missing or broken,
    gives one recording two texts, or names no recording.
    """
    listed = {folder: _read_lists(root / folder) for folder in {path.parent for path in recordings}}
    texts: dict[Path, str] = {}
    for path in recordings:
        text = listed[path.parent].get(path.stem) or _read_own((root / path).with_suffix(".txt"))
        if text is not None:
            texts[path] = text
    if table is None:
        return texts, None
    tabled, note = _match_table(root, recordings, table)
    return texts | tabled, note


def _match_table(root: Path, recordings: Sequence[Path], table: Path) -> tuple[dict[Path, str], str | None]:
    known = _name_recordings(recordings)
    found: dict[Path, tuple[int, str]] = {}
    unmatched: list[str] = []
    rows = list(_read_rows(table))
    for number, name, text in rows:
        path = known.get(_plain_name(name, root))
        if path is None:
            unmatched.append(f"line {number} {name!r}")
            continue
        first, other = found.setdefault(path, (number, text))
        if normalise(other) != normalise(text):
            raise UserError(f"{table}: lines {first} and {number} give {name} different texts; keep one of them")
    note = None
    if unmatched:
        note = f"{len(rows) - len(unmatched)} of {len(rows)} lines matched; first unmatched: {unmatched[0]}"
    if not found:
        reason = note or "it is empty"
        raise UserError(f"{table}: data.transcripts names none of the recordings under {root} ({reason})")
    return {path: text for path, (_, text) in found.items()}, note


def _read_rows(table: Path) -> Iterator[tuple[int, str, str]]:
    """(line, path, text) of every line that is neither empty nor the names of the columns."""
    check_regular(table)
    try:
        lines = split_lines(table.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise UserError(f"{table}: data.transcripts cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{table}: data.transcripts is not UTF-8 text") from None
    columns = [name.strip().lower() for name in lines[0].split("\t")]
    width, path_at, text_at = 2, 0, 1
    if "path" in columns:
        text = next((name for name in _TEXT_COLUMNS if name in columns), None)
        if text is None:
            raise UserError(f"{table}: line 1 names no column of texts ({' or '.join(_TEXT_COLUMNS)})")
        width, path_at, text_at = len(columns), columns.index("path"), columns.index(text)
    for number, line in enumerate(lines, 1):
        if not line.strip() or (number == 1 and "path" in columns):
            continue
        cells = line.split("\t")
        if len(cells) == 1:
            raise UserError(f"{table}: line {number} has no tab; each line is path<TAB>text")
        if len(cells) > width:
            raise UserError(
                f"{table}: line {number} has a column {width + 1} ({cells[width]!r}); each line is path<TAB>text, "
                "or line 1 names the columns"
            )
        if len(cells) > max(path_at, text_at):
            yield number, cells[path_at].strip(), cells[text_at].strip()


def _name_recordings(recordings: Sequence[Path]) -> dict[str, Path]:
    """Every name that means one recording: its path, also without suffix; its file name, also without suffix."""
    forms = [
        {_normalise_name(form) for form in (p.as_posix(), p.with_suffix("").as_posix(), p.name, p.stem)}
        for p in recordings
    ]
    counts = Counter(name for names in forms for name in names)
    named = {name: path for path, names in zip(recordings, forms, strict=True) for name in names if counts[name] == 1}
    # A whole path means its recording even if another one has a part of it as its name.
    return named | {_normalise_name(path.as_posix()): path for path in recordings}


def _plain_name(name: str, root: Path) -> str:
    """A path of a table as `_name_recordings` has it."""
    plain = _normalise_name(name.strip('"').replace("\\", "/"))
    for folder in (root.absolute(), root.resolve()):
        plain = plain.removeprefix(_normalise_name(folder.as_posix()) + "/")
    return plain


def _normalise_name(name: str) -> str:
    return unicodedata.normalize("NFC", posixpath.normpath(name))


def _read_lists(folder: Path) -> dict[str, str]:
    texts: dict[str, str] = {}
    for path in list_visible(folder, "*.trans.txt"):
        for line in split_lines(_read_own(path) or ""):
            stem, _, text = line.strip().partition(" ")
            if stem and text:
                texts[stem] = text
    return texts


def _read_own(path: Path) -> str | None:
    """The text of a file or of the file that a link names; None if it is missing or not UTF-8."""
    try:
        return path.read_bytes().decode("utf-8-sig") if path.is_file() else None
    except (OSError, UnicodeDecodeError):
        return None
