"""Recordings in any place: which files are found, which can be used, and why any other is left out."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from fithubert.data import Utterance
from fithubert.data.audio import SUFFIXES, TO_CONVERT, UnusableError, check_recording, read_blocks
from fithubert.data.manifest import Manifest
from fithubert.errors import UserError
from fithubert.files import digest_file
from fithubert.frames import SAMPLE_RATE_HZ
from fithubert.workers import torch_threads

Item = TypeVar("Item")
Result = TypeVar("Result")
#: Called with the number of items that are done, and of all.
Progress = Callable[[int, int], None]


def count_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_in_threads(
    function: Callable[[Item], Result], items: Sequence[Item], jobs: int, on_progress: Progress | None
) -> list[Result]:
    """The results of `function` for `items` in order, from `jobs` threads; after an error no more items are begun.

    At most `4 * jobs` items are begun before their turn, since a future takes 2 kB. Each thread computes on one core.
    """
    results: list[Result] = []
    waiting = iter(items)
    with torch_threads(1), ThreadPoolExecutor(jobs) as pool:
        try:
            begun = deque(pool.submit(function, item) for item in islice(waiting, 4 * jobs))
            while begun:
                results.append(begun.popleft().result())
                if on_progress is not None:
                    on_progress(len(results), len(items))
                begun.extend(pool.submit(function, item) for item in islice(waiting, 1))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return results


@dataclass(frozen=True)
class Skipped:
    """A file, a part of one, or a transcript that is not in the corpus; `path` is relative to the folder."""

    path: str
    reason: str


@dataclass(frozen=True)
class Corpus:
    """A corpus, the parts that were left out of it, and notes on the others.

    `write`: writes audio that is made of the corpus to a folder; the utterances, whose `audio` is relative to it.
    """

    manifest: Manifest
    skipped: tuple[Skipped, ...] = ()
    write: Callable[[Path], Sequence[Utterance]] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """Recordings below a folder, relative and sorted. `hidden`: recordings and folders with hidden names."""

    paths: list[Path]
    skipped: list[Skipped]
    hidden: int


class ListedRecordings(Manifest):
    """A manifest of files that may change at any time: one utterance for each file, with its path as `id`."""

    def read(self, utterance: Utterance) -> Tensor:
        """(samples,) float32 at 16 kHz mono; raises UserError if the file has changed since it was listed."""
        return torch.cat(list(self.read_blocks(utterance)))

    def read_blocks(self, utterance: Utterance) -> Iterator[Tensor]:
        """The samples of `read` in parts of at most about 30 s: memory holds one. Raises the same error."""
        count = 0
        with suppress(UserError):
            for block in read_blocks(self.root / utterance.audio):
                count += len(block)
                if count > utterance.num_samples:
                    break
                yield block
        if count != utterance.num_samples:
            raise UserError(f"{utterance.id}: the file has changed since it was checked; run the same command again")


@dataclass(frozen=True)
class Listing:
    """`recordings`, sorted by path, the files and folders that cannot be used, and the number of hidden ones."""

    recordings: ListedRecordings
    skipped: tuple[Skipped, ...]
    hidden: int = 0


def list_recordings(places: Sequence[Path], *, jobs: int | None = None, on_progress: Progress | None = None) -> Listing:
    """The recordings among `places`: files, and folders with all that is below them. Every file is read to its end.

    A file that cannot be read, is empty, not finite, truncated or shorter than one frame (25 ms) is left out and
    listed; silent files are kept. A file that is named twice, also in two ways, counts once. Raises UserError if a
    place does not exist, or no place holds a recording.
    """
    found = _find(places)
    if not found.paths and not found.skipped:
        raise UserError(f"{', '.join(map(str, places))}: no recordings here ({name_formats()})")
    checked = map_in_threads(_check, found.paths, jobs or count_cores(), on_progress)
    recordings = ListedRecordings(tuple(entry for entry in checked if isinstance(entry, Utterance)), Path())
    skipped = [*found.skipped, *(entry for entry in checked if isinstance(entry, Skipped))]
    return Listing(recordings, tuple(sorted(skipped, key=lambda entry: entry.path)), found.hidden)


def find_recordings(root: Path) -> Found:
    """The recordings under `root`, also links to files, and the links and folders that cannot be read.

    Hidden folders and files, which the system and its tools made, are passed over and counted.
    """
    found = Found([], [], 0)
    hidden = 0

    def note(path: Path, reason: str) -> None:
        found.skipped.append(Skipped(as_text(path.relative_to(root)), reason))

    errors: list[OSError] = []
    for parent, folders, names in os.walk(root, onerror=errors.append):
        hidden += sum(map(is_hidden, folders))
        folders[:] = [name for name in folders if not is_hidden(name)]
        for path in (Path(parent, name) for name in folders):
            if path.is_symlink():
                note(path, "a link to a folder; links to folders are not followed")
        for path in (Path(parent, name) for name in names):
            if path.suffix.lower() not in (*SUFFIXES, *TO_CONVERT):
                continue
            if is_hidden(path.name):
                hidden += 1
            elif path.is_symlink() and not path.is_file():
                note(path, "a link to a file that does not exist")
            else:
                found.paths.append(path.relative_to(root))
    for error in errors:
        note(Path(error.filename), f"folder: {error.strerror}")
    return Found(sorted(found.paths, key=os.fsencode), found.skipped, hidden)


def is_hidden(name: str) -> bool:
    """Whether the system or a tool made an entry of this name: `.git`, `.Trash-1000`, `._one.wav` or `__MACOSX`."""
    return name.startswith(".") or name == "__MACOSX"


def list_visible(folder: Path, pattern: str = "*") -> list[Path]:
    """What `pattern` matches below `folder`, sorted, without hidden names: macOS leaves `._` files, Git `.git`."""
    return [path for path in sorted(folder.glob(pattern)) if not any(map(is_hidden, path.relative_to(folder).parts))]


def note_low_rates(rates_hz: Iterable[int]) -> tuple[str, ...]:
    """A note on the recordings below 16 kHz, if there are any: resampling cannot add what they do not hold."""
    low = [rate for rate in rates_hz if rate < SAMPLE_RATE_HZ]
    if not low:
        return ()
    return (
        f"{len(low)} recordings have a rate below 16 kHz (the lowest {min(low)} Hz); they are resampled, but hold no "
        "sound above half their rate, which a teacher of 16 kHz speech expects",
    )


def name_formats() -> str:
    """The formats that can be read, for messages."""
    return ", ".join(suffix[1:] for suffix in SUFFIXES)


def as_text(path: Path | str) -> str:
    """`path` as text; bytes that are not UTF-8 are written as escapes, so that two names stay two."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _find(places: Sequence[Path]) -> Found:
    paths: list[Path] = []
    skipped: dict[str, Skipped] = {}
    hidden = 0
    for place in places:
        if place.is_dir():
            below = find_recordings(place)
            paths += [place / path for path in below.paths]
            entries = (Skipped(as_text(place / entry.path), entry.reason) for entry in below.skipped)
            skipped |= {entry.path: entry for entry in entries}
            hidden += below.hidden
        elif place.is_file():
            paths.append(place)
        else:
            raise UserError(f"{place}: no such file or folder")
    # Links are not resolved: two names of one file in a cache are two recordings.
    folders = {folder: folder.resolve() for folder in {path.parent for path in paths}}
    ordered = sorted(paths, key=lambda path: (len(path.parts), os.fsencode(path)), reverse=True)
    named = {folders[path.parent] / path.name: path for path in ordered}
    return Found(sorted(named.values(), key=os.fsencode), list(skipped.values()), hidden)


def _check(path: Path) -> Utterance | Skipped:
    name = as_text(path)
    try:
        checked = check_recording(path, allow_silence=True)
        content = digest_file(path)
    except UnusableError as error:
        return Skipped(name, str(error))
    except OSError as error:
        return Skipped(name, error.strerror or "cannot be read")
    return Utterance(name, str(path), content, "test", "sentence", checked.num_samples)
