"""Transcripts of a folder of recordings: one table, LibriSpeech's lists, or a text file next to each recording."""

import posixpath
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fithubert.data.listing import list_visible
from fithubert.data.utterance import normalise
from fithubert.errors import UserError
from fithubert.files import check_regular, split_lines

#: Names of the column of texts; Common Voice has `sentence`.
_TEXT_COLUMNS = ("text", "sentence", "transcript", "transcription")


@dataclass(frozen=True)
class Transcripts:
    """The raw text of every recording that has one. `note`: why some lines of the table are not used, or None."""

    texts: dict[Path, str]
    note: str | None


def find_transcripts(root: Path, recordings: Iterable[Path], table: Path | None) -> Transcripts:
    """The texts of the recordings (relative to `root`).

    In order of precedence: the lines `path<TAB>text` of `table`; the lines `STEM TEXT` of `*.trans.txt` in the
    recording's folder; a `.txt` file of its name. A text file that is not UTF-8 is ignored. Paths in the table are
    relative to `root` or absolute, in any spelling; a name without folder or suffix is enough if one recording alone
    has it. The first line may name the columns, as in Common Voice. Raises UserError if `table` is missing or broken,
    gives one recording two texts, or names no recording.
    """
    recordings = list(recordings)
    listed = {folder: _read_lists(root / folder) for folder in {path.parent for path in recordings}}
    texts: dict[Path, str] = {}
    for path in recordings:
        text = listed[path.parent].get(path.stem) or _read_own((root / path).with_suffix(".txt"))
        if text is not None:
            texts[path] = text
    if table is None:
        return Transcripts(texts, None)
    tabled, note = _match_table(root, recordings, table)
    return Transcripts(texts | tabled, note)


def _match_table(root: Path, recordings: list[Path], table: Path) -> tuple[dict[Path, str], str | None]:
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


def _name_recordings(recordings: list[Path]) -> dict[str, Path]:
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
