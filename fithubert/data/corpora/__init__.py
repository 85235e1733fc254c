"""Published corpora: their archives, their folders, and the manifests that are made of them."""

import gzip
import os
import shutil
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import soundfile

from fithubert.data import Utterance, place_of
from fithubert.data.audio import count_samples_at_16_khz, name_for_soundfile, why_unreadable
from fithubert.data.listing import Progress, count_cores, list_visible, map_in_threads
from fithubert.data.manifest import Manifest
from fithubert.downloads import download
from fithubert.errors import UserError
from fithubert.files import atomic_directory, digest


@dataclass(frozen=True)
class Archive:
    """A tar.gz archive. Its member folder `member` (empty: all of it) becomes `folder` below the corpora.

    `sha256` is None if nobody publishes one; then only gzip's own checksum is checked. `beside`: files next to `member`
    that are put next to `folder`, if the archive has them.
    """

    url: str
    sha256: str | None
    member: str
    folder: str
    beside: tuple[str, ...] = ()


def fetch_archive(archive: Archive, root: Path) -> Path:
    """The folder of `archive` below `root`, downloaded and unpacked unless it exists.

    An interrupted download resumes. The archive is deleted once it is unpacked. Raises UserError if the
    download fails, the digest is wrong, or the archive is broken or holds paths that lead out of it.
    """
    target = root / archive.folder
    if target.is_dir():
        return target
    packed = root / archive.url.rsplit("/", 1)[-1]
    if not packed.is_file():
        download(archive.url, packed, archive.sha256)
    with atomic_directory(target) as aside:
        try:
            _unpack(packed, archive, aside, target.parent)
        except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
            packed.unlink()
            raise UserError(f"{packed}: not a sound archive ({error}); deleted, run the command again") from None
        if not any(aside.iterdir()):
            raise UserError(f"{packed}: holds no {archive.member or 'files'}; {archive.url} has changed")
    packed.unlink()
    return target


def _unpack(packed: Path, archive: Archive, aside: Path, parent: Path) -> None:
    above = archive.member.rpartition("/")[0]
    with gzip.open(packed) as unzipped, tarfile.open(fileobj=unzipped, mode="r:") as tar:
        for member in tar:
            inside = _path_inside(member.name, archive.member)
            if inside is not None:
                _extract(tar, member, inside, aside)
            elif _path_inside(member.name, above) in archive.beside and member.isfile():
                _extract(tar, member, Path(member.name).name, parent)
        # Tar ends before gzip does, and gzip compares its checksum only at the end.
        while unzipped.read(2**20):
            pass


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, name: str, folder: Path) -> None:
    """Write a file or folder of an archive to `folder`/`name`; raises TarError for anything else, and outside `folder`.

    The filters of tarfile do this too, but only since Python 3.11.4.
    """
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or not (member.isfile() or member.isdir()):
        raise tarfile.ExtractError(f"{member.name!r} is outside the folder, or neither a file nor a folder")
    target = folder / path
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    content = tar.extractfile(member)
    assert content is not None
    with target.open("wb") as file:
        shutil.copyfileobj(content, file)


def _path_inside(name: str, member: str) -> str | None:
    """The path of a tar member relative to the folder `member`; None if it is not inside."""
    path = name.removeprefix("./")
    if not member:
        return path or None
    return path.removeprefix(f"{member}/") if path.startswith(f"{member}/") else None


#: The digest of a file covers its size and these bytes; a FLAC header holds the checksum of all samples.
_HEAD_BYTES = 16_384


@dataclass(frozen=True)
class Layout:
    """The folder of a corpus. `obtained`: the origin of the corpus, for messages about missing parts."""

    root: Path
    name: str
    obtained: str

    def folder(self, *parts: str) -> Path:
        """A folder of the corpus; raises UserError if it is missing."""
        return self._require(self.root.joinpath(*parts), Path.is_dir, "folder")

    def file(self, *parts: str) -> Path:
        """A file of the corpus; raises UserError if it is missing."""
        return self._require(self.root.joinpath(*parts), Path.is_file, "file")

    def files(self, pattern: str, *parts: str) -> list[Path]:
        """The visible files of a folder that match `pattern` (`*.wav`), sorted; raises UserError if there is none."""
        folder = self.folder(*parts)
        found = list_visible(folder, pattern)
        if not found:
            raise self.broken(folder, f"holds no {pattern.rpartition('.')[2]} files")
        return found

    def lines(self, *parts: str) -> list[str]:
        """The lines of a text file that are not empty, stripped; raises UserError if it is missing or not text."""
        path = self.file(*parts)
        try:
            return [line for line in (raw.strip() for raw in path.read_text(encoding="utf-8-sig").split("\n")) if line]
        except UnicodeDecodeError:
            raise UserError(f"{path}: not UTF-8 text; get it again from {self.obtained}") from None

    def parent_of(self, folder: str) -> Path:
        """The parent of `folder`, the corpus, which torchaudio's classes want; raises UserError under another name."""
        if self.root.name != folder:
            self.folder(folder)
        return self.root.parent

    def relative(self, path: Path | str) -> str:
        """`path` as the manifest writes it: relative to the corpus, or absolute if it is outside."""
        found = self.root / path
        return found.relative_to(self.root).as_posix() if found.is_relative_to(self.root) else str(found)

    def broken(self, path: Path | str, what: str) -> UserError:
        """The error for a file that is not as the corpus has it."""
        return UserError(f"{self.root / path}: {what}; get it again from {self.obtained}")

    def finish(
        self,
        utterances: Sequence[Utterance],
        on_progress: Progress | None,
        inventories: dict[str, tuple[str, ...]] | None = None,
        count_samples: Callable[[Path], int] | None = None,
    ) -> Manifest:
        """The manifest, in order of split and id, with the length and digest that each file's header gives.

        `count_samples` gives the length if it is not the header's. `first_sample` and `num_samples` of a part of a
        file are kept. Raises UserError if a file is missing or broken, or two utterances have one id.
        """
        twice = [name for name, count in Counter(u.id for u in utterances).items() if count > 1]
        if twice:
            raise UserError(f"{self.root}: {self.name} names {twice[0]} twice; {self._origin()}")

        def measure(path: str) -> tuple[int, str]:
            samples, of_file = self.measure(path)
            return samples if count_samples is None else count_samples(self.root / path), of_file

        paths = list(dict.fromkeys(u.audio for u in utterances))
        # Opening files mostly waits for the disk, so more threads than cores.
        measured = dict(zip(paths, map_in_threads(measure, paths, 4 * count_cores(), on_progress), strict=True))
        rows = []
        for utterance in utterances:
            samples, of_file = measured[utterance.audio]
            length = samples if utterance.first_sample is None else utterance.num_samples
            rows.append(replace(utterance, num_samples=length, digest=of_file))
        return Manifest(tuple(sorted(rows, key=place_of)), self.root, inventories or {})

    def measure(self, path: str) -> tuple[int, str]:
        """Samples at 16 kHz by the header, and a digest of size and beginning."""
        full = self.root / path
        if ".." in Path(path).parts:
            raise self.broken(path, "leads out of its folder")
        if not full.is_file():
            raise UserError(f"{full}: no such audio file; {self._origin()}")
        try:
            with full.open("rb") as file:
                head = file.read(_HEAD_BYTES)
                size = os.fstat(file.fileno()).st_size
            info = soundfile.info(name_for_soundfile(full))
        except (soundfile.SoundFileError, RuntimeError) as error:
            raise self.broken(full, f"not readable as audio ({why_unreadable(error)})") from None
        except OSError as error:
            raise UserError(f"{full}: cannot be read ({error.strerror})") from None
        return count_samples_at_16_khz(info.frames, info.samplerate), digest(str(size), head)

    def _require(self, path: Path, there: Callable[[Path], bool], what: str) -> Path:
        if not there(path):
            raise UserError(f"{path}: no such {what}; {self._origin()}")
        return path

    def _origin(self) -> str:
        return f"{self.name} comes from {self.obtained}"


def draft(name: str, audio: str, split: str, kind: str, **labels: Any) -> Utterance:
    """An utterance whose length and digest `Layout.finish` fills in."""
    return Utterance(name, audio, "", split, kind, 0, **labels)


def find_layout(path: Path, folder: str, name: str, obtained: str) -> Layout:
    """The layout of the corpus in `path`, or in its subfolder `folder`; raises UserError if neither exists."""
    if not path.is_dir():
        raise UserError(f"{path}: data.path is not a folder; it should hold {folder} ({name}, from {obtained})")
    inner = path / folder
    # Links are not resolved: the folder may have another name there, and torchaudio needs this name.
    return Layout((inner if inner.is_dir() else path).absolute(), name, obtained)
