"""Files that are written whole or not at all, files that are read with bounds, and digests.

Every writer of this project writes to a temporary file or folder next to its target, `.NAME.PID-TOKEN.part`, and
renames it at the end. The temporary entry is locked while its writer lives. The next writer in the same folder deletes
those whose writers were killed, and no reader takes a hidden name for a result.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from fithubert.errors import UserError, as_user_error

#: The temporary entries that this module makes, and nobody else's.
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.\d+-[0-9a-f]{8}\.(part|old)")
#: The most bytes of a text, JSON or YAML file. The largest real ones are cards and metrics of a few hundred kB.
MAX_TEXT_BYTES = 64 * 2**20
#: A killed process that was starting another one holds its lock until the other runs its own program.
_WRITER_SECONDS = 2.0
#: Errors of a disk that has no locks, such as Lustre without `-o flock`, or NFS without its lock daemon.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)


@contextmanager
def atomic_file(path: Path, replace: bool = True) -> Iterator[Path]:
    """A temporary file next to `path`; at the end it is synced and renamed to `path`, after an error it is removed.

    Without `replace`, an existing `path` is kept: the first of several writers wins. The mode is that of a new file
    under the umask. Raises UserError that names the file and the reason if the system refuses.
    """
    with _refusals(path), _temporary_entry(path, folder=False) as temporary:
        mode = temporary.stat().st_mode
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.chmod(stat.S_IMODE(mode))
        if replace:
            temporary.replace(path)
        else:
            with suppress(FileExistsError):
                os.link(temporary, path)


@contextmanager
def open_atomically(path: Path, replace: bool = True) -> Iterator[IO[bytes]]:
    """The file of `atomic_file`, open for writing."""
    with atomic_file(path, replace) as temporary, temporary.open("wb") as file:
        yield file


@contextmanager
def atomic_directory(path: Path, replaces: Collection[str] = ()) -> Iterator[Path]:
    """An empty directory next to `path` that takes its place at the end; after an error it is removed.

    An existing `path` must be an empty folder, or hold nothing but the names in `replaces`, which say what such a
    folder holds: a folder of somebody else is never replaced. Raises UserError before anything is written.
    """
    check_replaceable(path, replaces)
    with _refusals(path), _temporary_entry(path, folder=True) as temporary:
        mode = stat.S_IMODE(temporary.stat().st_mode) & 0o666
        yield temporary
        for written in temporary.rglob("*"):
            # Some libraries write files that only their owner can read, whatever the umask.
            if written.is_file() and not written.is_symlink():
                written.chmod(mode)
        check_replaceable(path, replaces)
        _swap(temporary, path)


def check_replaceable(path: Path, replaces: Collection[str] = ()) -> None:
    """Raise UserError unless `path` is free, an empty folder, or a folder with no names but those in `replaces`."""
    with _refusals(path):
        if not os.path.lexists(path):
            return
        if not path.is_dir():
            raise UserError(f"{path}: already exists and is not a folder; choose another one")
        known = frozenset(replaces)
        foreign = sorted(entry.name for entry in path.iterdir() if entry.name not in known)
    if foreign:
        reason = f"holds {foreign[0]!r}, which does not belong to the new contents" if replaces else "is not empty"
        raise UserError(f"{path}: {reason}; choose another folder, or empty this one")


def _swap(temporary: Path, path: Path) -> None:
    """Rename `temporary` to `path`; the folder that was there stays until the new one has its name."""
    old = temporary.with_suffix(".old")
    if path.exists():
        path.replace(old)
    temporary.replace(path)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _temporary_entry(path: Path, folder: bool) -> Iterator[Path]:
    """A new file or folder next to `path`, locked while this process lives; it is deleted at the end if it is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    temporary, lock = _make_entry(path, folder)
    try:
        yield temporary
    finally:
        if folder:
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
        if lock is not None:
            os.close(lock)


def _make_entry(path: Path, folder: bool) -> tuple[Path, int | None]:
    """A new temporary entry for `path`, and the descriptor of its lock; None if the system has no locks."""
    while True:
        # Process ids repeat on other machines and in containers that share the disk; the token does not. A name is used
        # once: a process that is about to delete the entry of one name must not meet the next one.
        temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
        temporary.mkdir() if folder else temporary.touch(exist_ok=False)
        # Until it is locked, another process may take it for a leftover and delete it.
        with suppress(FileNotFoundError):
            lock = _lock(temporary, wait=True)
            if lock is None or os.fstat(lock).st_nlink:
                return temporary, lock
            os.close(lock)


def remove_leftovers(directory: Path) -> None:
    """Delete the temporary entries in `directory` whose writers no longer run.

    A folder that a killed writer had already moved aside gets its name back if the new one did not take it.
    """
    for entry in sorted(directory.iterdir()) if directory.is_dir() else []:
        found = _TEMPORARY.fullmatch(entry.name)
        if found is None:
            continue
        # The lock of both entries of a writer is on its new one.
        locked, target = entry.with_suffix(".part"), entry.with_name(found["name"])
        with suppress(OSError):
            lock = _lock(locked, wait=False) if locked.exists() else None
            if lock is None and locked.exists():
                continue
            if entry.suffix == ".old" and not os.path.lexists(target):
                entry.replace(target)
            elif entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
            if lock is not None:
                os.close(lock)


def _lock(path: Path, wait: bool) -> int | None:
    """The descriptor of `path`, locked until it is closed; None if another process holds the lock or none can."""
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


@contextmanager
def only_writer(folder: Path, what: str) -> Iterator[None]:
    """A block in which no other process is inside the same block for `folder`; the folder is made if needed.

    Raises UserError with its process id; `what` names its work. The lock ends with it. A disk without locks has none.
    """
    with _refusals(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / ".writer", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        until = time.monotonic() + _WRITER_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno in _NO_LOCKS:
                    break
                pid = os.pread(descriptor, 20, 0).decode(errors="replace") or "unknown"
                if time.monotonic() > until:
                    raise UserError(f"{folder}: process {pid} is at work on {what}; wait for it, or stop it") from None
            time.sleep(0.02)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def write_json(path: Path, values: Any) -> None:
    """Write `values` as indented JSON with sorted keys, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")


def require_regular(path: Path) -> Path:
    """`path`; raises ValueError if it is not a regular file. A missing file is left to the reader."""
    if path.exists() and not path.is_file():
        raise ValueError("not a regular file")
    return path


def check_regular(path: Path) -> None:
    """Raise UserError unless `path` is a regular file or a link to one: a library would wait for a pipe for ever."""
    if not path.exists():
        raise UserError(f"{path}: no such file")
    if not path.is_file():
        raise UserError(f"{path}: not a regular file")


def read_text(path: Path) -> str:
    """The UTF-8 text in `path`, at most `MAX_TEXT_BYTES`.

    Raises UserError in one line if there is no such file, it is not a regular file, too large or not text.
    """
    with _refusals(path):
        try:
            # A named pipe without a writer must not block.
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        except FileNotFoundError:
            raise UserError(f"{path}: no such file") from None
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise UserError(f"{path}: not a regular file")
            data = file.read(MAX_TEXT_BYTES + 1)
    if len(data) > MAX_TEXT_BYTES:
        raise UserError(f"{path}: larger than {MAX_TEXT_BYTES // 2**20} MB, which no file of this kind is")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None


def split_lines(text: str) -> list[str]:
    """The lines of `text`, ended by \\n or \\r\\n. `str.splitlines` also cuts at characters inside a text."""
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n")


def read_json(path: Path) -> Any:
    """The JSON in `path`; raises UserError if the file is missing or broken."""
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from None


def digest(*parts: bytes | str) -> str:
    """A short hex digest of the parts in order, each delimited by its length."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little") + data)
    return state.hexdigest()[:32]


def digest_json(values: Any) -> str:
    """`digest` of a value that JSON can hold; the order of its keys does not matter."""
    return digest(json.dumps(values, sort_keys=True))


def digest_file(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_digest(path: Path, sha256: str | None) -> None:
    """Raise UserError if the file has another SHA-256; None, of files from before digests were kept, is any."""
    check_regular(path)
    if sha256 is not None and digest_file(path) != sha256:
        raise UserError(f"{path}: damaged (its contents do not match its digest); make or copy it again")


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """A block in which a refusal of the system becomes a UserError that names `path`."""
    try:
        yield
    except Exception as error:
        refused = as_user_error(error, path)
        if refused is None:
            raise
        raise refused from error


def format_bytes(count: float) -> str:
    """Decimal units, three digits: 1.23 TB."""
    unit, size = ("TB", 1e12) if count >= 1e12 else ("GB", 1e9) if count >= 1e9 else ("MB", 1e6)
    return f"{count / size:.3g} {unit}"
