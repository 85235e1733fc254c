"""Transcripts of a folder of recordings: one table, LibriSpeech's lists, or a text file next to each recording."""

from collections.abc import Iterable
from pathlib import Path

from fithubert.errors import UserError


def find_transcripts(root: Path, recordings: Iterable[Path], table: Path | None) -> dict[Path, str]:
    """The raw text of every recording (relative to `root`) that has one.

    In order of precedence: the lines `path<TAB>text` of `table`; the lines `STEM TEXT` of `*.trans.txt` in the
    recording's folder; a `.txt` file of its name. A text file that is not UTF-8 is ignored. Raises UserError if
    `table` is missing or broken, or names no recording.
    """
    recordings = list(recordings)
    listed = {folder: _read_lists(root / folder) for folder in {path.parent for path in recordings}}
    texts: dict[Path, str] = {}
    for path in recordings:
        text = listed[path.parent].get(path.stem) or _read_own((root / path).with_suffix(".txt"))
        if text is not None:
            texts[path] = text
    return texts | (_read_table(root, recordings, table) if table else {})


def _read_table(root: Path, recordings: list[Path], table: Path) -> dict[Path, str]:
    try:
        lines = table.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(f"{table}: data.transcripts cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{table}: data.transcripts is not UTF-8 text") from None
    known = {path.as_posix(): path for path in recordings} | {str(root / path): path for path in recordings}
    texts: dict[Path, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or (number == 1 and line.split("\t")[0].strip().lower() == "path"):
            continue
        name, tab, text = line.partition("\t")
        if not tab:
            raise UserError(f"{table}: line {number} has no tab; each line is path<TAB>text")
        if name.strip() in known:
            texts[known[name.strip()]] = text
    if not texts:
        raise UserError(f"{table}: data.transcripts names none of the recordings; its paths are relative to {root}")
    return texts


def _read_lists(folder: Path) -> dict[str, str]:
    texts: dict[str, str] = {}
    for path in sorted(folder.glob("*.trans.txt")):
        for line in (_read_own(path) or "").splitlines():
            stem, _, text = line.strip().partition(" ")
            if stem and text:
                texts[stem] = text
    return texts


def _read_own(path: Path) -> str | None:
    """The text of a plain file; None if it is missing, a link or not UTF-8."""
    if path.is_symlink() or not path.is_file():
        return None
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return None
