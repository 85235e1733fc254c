"""Files that are written whole or not at all, digests, and downloads that resume."""

import errno
import hashlib
import http
import http.client
import json
import os
import secrets
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from fithubert.errors import UserError

try:
    import fcntl
except ImportError:  # On Windows, temporary files of killed processes stay until a person deletes them.
    fcntl = None  # type: ignore[assignment]


@contextmanager
def atomic_file(path: Path, replace: bool = True) -> Iterator[Path]:
    """A temporary path next to `path`; at the end it is synced and renamed to `path`, after an error it is removed.

    Without `replace`, an existing `path` is kept: the first of several writers wins. Raises UserError with the name of
    the file if the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        if replace:
            temporary.replace(path)
        else:
            with suppress(FileExistsError):
                os.link(temporary, path)
    except OSError as error:
        raise _as_user_error(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked_file(path: Path, replace: bool = True) -> Iterator[IO[bytes]]:
    """An open file that `atomic_file` renames to `path`, locked so that `remove_leftovers` does not delete it."""
    file: IO[bytes] | None = None
    try:
        with atomic_file(path, replace) as temporary:
            while True:
                file = temporary.open("wb")
                if not _lock(file, wait=True) or os.fstat(file.fileno()).st_nlink:
                    break
                # Another process deleted it as a leftover before it was locked.
                file.close()
            yield file
            file.flush()
            if fcntl is None:
                file.close()
    finally:
        if file is not None:
            file.close()


def remove_leftovers(directory: Path) -> None:
    """Delete the temporary files of `locked_file` in `directory` whose writers no longer run."""
    for temporary in directory.glob(".*.part"):
        with suppress(OSError), temporary.open("rb+") as file:
            if _lock(file, wait=False):
                temporary.unlink()


def _lock(file: IO[bytes], wait: bool) -> bool:
    """Whether this process now holds the lock on `file`; closing the file releases it."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """An empty directory next to `path` that replaces it at the end; after an error it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        temporary.replace(path)
    except OSError as error:
        raise _as_user_error(error, path) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: Path, values: Any) -> None:
    """Write `values` as indented JSON with sorted keys, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON in `path`; raises UserError if the file is missing or broken."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from None


def digest(*parts: bytes | str) -> str:
    """A short hex digest of the parts in order, each delimited by its length."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.hexdigest()[:32]


def digest_json(values: Any) -> str:
    """`digest` of a value that JSON can hold; the order of its keys does not matter."""
    return digest(json.dumps(values, sort_keys=True))


def _temporary(path: Path) -> Path:
    # Process ids repeat on other machines and in containers that share the disk; the token does not.
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")


def _as_user_error(error: OSError, path: Path) -> Exception:
    if error.errno == errno.ENOSPC:
        return UserError(f"{path}: the disk is full; free some space and run the command again")
    return error


_CHUNK_BYTES = 2**20
_TIMEOUT_SECONDS = 30.0
_REPORT_SECONDS = 1.0


def download(url: str, path: Path, sha256: str | None = None) -> None:
    """Write the file at `url` to `path`; an interrupted download resumes from `path`.partial.

    The file gets its name only when it is as long as the server announced and, if `sha256` is given, has that digest.
    Progress goes to standard error. Raises UserError naming `url`; received bytes are kept for the next call, unless
    the digest is wrong.
    """
    partial = path.with_name(f"{path.name}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        _fetch(url, partial, path.name)
    except (OSError, http.client.HTTPException) as error:
        raise UserError(f"{url}: cannot be downloaded ({str(error).strip('<>')})") from None
    if sha256 is not None and _digest(partial) != sha256:
        partial.unlink()
        raise UserError(f"{url}: the downloaded file has the wrong SHA-256 and was deleted; try again")
    partial.replace(path)


def _fetch(url: str, partial: Path, name: str) -> None:
    """Append to `partial` the bytes of `url` that it lacks; raises OSError if the connection ends too early."""
    begun = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={begun}-"} if begun else {})
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if begun and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # The file is already complete.
        raise
    with answer:
        resumed = answer.status == http.HTTPStatus.PARTIAL_CONTENT
        done = begun if resumed else 0
        length = answer.headers.get("Content-Length")
        total = None if length is None else done + int(length)
        reported = time.monotonic()
        with partial.open("ab" if resumed else "wb") as file:
            while chunk := answer.read(_CHUNK_BYTES):
                file.write(chunk)
                done += len(chunk)
                if time.monotonic() - reported > _REPORT_SECONDS:
                    reported = time.monotonic()
                    share = "" if total is None else f" of {total / 1e6:.0f} MB, {done / total:.0%}"
                    print(f"{name}: {done / 1e6:.0f} MB{share}", file=sys.stderr, flush=True)
    if total is not None and done != total:
        raise OSError(f"the connection ended after {done:,} of {total:,} bytes; the same command resumes there")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
