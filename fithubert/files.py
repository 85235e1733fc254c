"""Files that are written whole or not at all, digests, and downloads that resume."""

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
from typing import Any

from fithubert.errors import UserError


@contextmanager
def atomic_file(path: Path, replace: bool = True) -> Iterator[Path]:
    """A temporary path beside `path`, synced and renamed to it at the end; removed where the body raises.

    Without `replace` a `path` that is there by then stays: of several writers the first one decides. Raises UserError
    where the disk is full, so that the message names the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(path)
    try:
        yield aside
        with aside.open("rb+") as written:
            os.fsync(written.fileno())
        if replace:
            aside.replace(path)
        else:
            with suppress(FileExistsError):
                os.link(aside, path)
    except OSError as error:
        raise _as_user_error(error, path) from error
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """An empty directory beside `path` that replaces it at the end; removed where the body raises."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(path)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        yield aside
        if path.exists():
            shutil.rmtree(path)
        aside.replace(path)
    except OSError as error:
        raise _as_user_error(error, path) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_json(path: Path, values: Any) -> None:
    """`values` as indented JSON with sorted keys, atomically."""
    with atomic_file(path) as aside:
        aside.write_text(json.dumps(values, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON in `path`; raises UserError where it is missing or broken."""
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
    """`digest` of a JSON-able value, independent of the order of its keys."""
    return digest(json.dumps(values, sort_keys=True))


def _aside(path: Path) -> Path:
    # Process ids repeat over the machines and containers that share a disk; the token does not.
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")


def _as_user_error(error: OSError, path: Path) -> Exception:
    if error.errno == 28:
        return UserError(f"{path}: the disk is full; free some space and run the command again")
    return error


_CHUNK_BYTES, _TIMEOUT_SECONDS, _REPORT_SECONDS = 2**20, 30.0, 1.0


def download(url: str, path: Path, sha256: str | None = None) -> None:
    """Write what is at `url` to `path`, going on from `path`.partial where an earlier call was interrupted.

    The file gets its name only when it is as long as the server says and, where `sha256` is given, of that digest.
    Progress goes to standard error. Raises UserError naming `url`; what arrived is kept for the next call, unless the
    digest is wrong.
    """
    partial = path.with_name(f"{path.name}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        _fetch(url, partial, path.name)
    except (OSError, http.client.HTTPException) as error:
        raise UserError(f"{url}: cannot be downloaded ({str(error).strip('<>')})") from None
    if sha256 is not None and _digest(partial) != sha256:
        partial.unlink()
        raise UserError(f"{url}: what was downloaded has another SHA-256 than it should and was deleted; try again")
    partial.replace(path)


def _fetch(url: str, partial: Path, name: str) -> None:
    """Append to `partial` what it lacks of `url`; raises OSError where the connection ends before the file does."""
    begun = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={begun}-"} if begun else {})
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if begun and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # there is nothing after what is here already
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
        raise OSError(f"the connection ended after {done:,} of {total:,} bytes; the same command goes on from there")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
