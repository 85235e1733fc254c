"""Recordings in any place as a corpus without labels: every usable file, and why any other is left out."""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from fithubert.data.audio import SUFFIXES, UnusableError, check_recording, read_recording
from fithubert.data.folder import Skipped, find_recordings, printable
from fithubert.data.manifest import Manifest, Utterance
from fithubert.errors import UserError

#: The time and, for some models, the memory of attention grow with the square of the length.
MAX_SECONDS = 300.0


class ListedRecordings(Manifest):
    """A manifest of files that may change at any time: one utterance for each file, with its path as `id`."""

    def read(self, utterance: Utterance) -> Tensor:
        """(samples,) float32 at 16 kHz mono; raises UserError if the file has changed since it was listed."""
        path = self.root / utterance.audio
        try:
            waveform = read_recording(path)
        except UserError:
            waveform = None
        if waveform is None or len(waveform) != utterance.num_samples:
            raise UserError(f"{utterance.id}: the file has changed since it was checked; run the same command again")
        return waveform


@dataclass(frozen=True)
class Listing:
    """`recordings`, sorted by path, and the files and folders that cannot be used."""

    recordings: ListedRecordings
    skipped: tuple[Skipped, ...]


def list_recordings(
    places: Sequence[Path],
    max_seconds: float = MAX_SECONDS,
    *,
    jobs: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Listing:
    """The recordings among `places`: files, and folders with all that is below them. Every file is read to its end.

    A file that cannot be read, is empty, not finite, truncated, shorter than one frame (25 ms) or longer than
    `max_seconds` is left out and listed; silent files are kept. A file that is named twice counts once. Raises
    UserError if a place does not exist, or no place holds a recording.
    """
    paths, skipped = _find(places)
    if not paths and not skipped:
        raise UserError(f"{', '.join(map(str, places))}: no recordings here ({', '.join(s[1:] for s in SUFFIXES)})")
    utterances = []
    with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as pool:
        checked = pool.map(lambda path: _check(path, max_seconds), paths)
        for place, found in enumerate(checked):
            if isinstance(found, Utterance):
                utterances.append(found)
            else:
                skipped.append(found)
            if on_progress is not None:
                on_progress(place + 1, len(paths))
    return Listing(ListedRecordings(tuple(utterances), Path()), tuple(sorted(skipped, key=lambda s: s.path)))


def _find(places: Sequence[Path]) -> tuple[list[Path], list[Skipped]]:
    paths: set[Path] = set()
    skipped: list[Skipped] = []
    for place in places:
        if place.is_dir():
            below, unusable = find_recordings(place)
            paths |= {place / path for path in below}
            skipped += [Skipped(printable(place / entry.path), entry.reason) for entry in unusable]
        elif place.is_file():
            paths.add(place)
        else:
            raise UserError(f"{place}: no such file or folder")
    return sorted(paths, key=os.fsencode), skipped


def _check(path: Path, max_seconds: float) -> Utterance | Skipped:
    name = printable(path)
    try:
        checked = check_recording(path, allow_silence=True)
        if checked.seconds > max_seconds:
            raise UnusableError(f"{checked.seconds:.0f} s long, and --max-seconds is {max_seconds:g}; cut it")
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    except UnusableError as error:
        return Skipped(name, str(error))
    except OSError as error:
        return Skipped(name, error.strerror or "cannot be read")
    return Utterance(name, str(path), content, "test", "sentence", checked.num_samples)
