"""Archives of corpora from the network: resumed, verified, and unpacked whole or not at all."""

import gzip
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from fithubert.download import download
from fithubert.errors import UserError
from fithubert.files import atomic_directory


@dataclass(frozen=True)
class Archive:
    """A tar.gz archive. Its member folder `member` (empty: all of it) becomes `folder` below the corpora.

    `sha256` is None where nobody publishes one; gzip's own checksum is then all that vouches for it.
    """

    url: str
    sha256: str | None
    member: str
    folder: str


def fetch_archive(archive: Archive, root: Path) -> Path:
    """The folder of `archive` below `root`, downloaded and unpacked unless it is there.

    An interrupted download goes on where it stopped. The archive is deleted once it is unpacked. Raises UserError
    where the download fails, the digest is wrong, or the archive is broken or holds paths that lead out of it.
    """
    target = root / archive.folder
    if target.is_dir():
        return target
    packed = root / archive.url.rsplit("/", 1)[-1]
    if not packed.is_file():
        download(archive.url, packed, archive.sha256)
    with atomic_directory(target) as aside:
        try:
            _unpack(packed, archive.member, aside)
        except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
            packed.unlink()
            raise UserError(f"{packed}: not a sound archive ({error}); deleted, run the command again") from None
        if not any(aside.iterdir()):
            raise UserError(f"{packed}: holds no {archive.member or 'files'}; {archive.url} is not what it was")
    packed.unlink()
    return target


def _unpack(packed: Path, folder: str, aside: Path) -> None:
    with gzip.open(packed) as unzipped, tarfile.open(fileobj=unzipped, mode="r:") as tar:
        for member in tar:
            inside = _path_inside(member.name, folder)
            if inside is not None:
                tar.extract(member.replace(name=inside), aside, filter="data")
        # Tar ends before gzip does: its checksum is compared only where everything is read.
        while unzipped.read(2**20):
            pass


def _path_inside(name: str, member: str) -> str | None:
    """The path of a tar member relative to the folder `member`; None for what is not inside it."""
    path = name.removeprefix("./")
    if not member:
        return path or None
    return path.removeprefix(f"{member}/") if path.startswith(f"{member}/") else None
