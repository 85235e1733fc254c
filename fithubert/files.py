"""Outputs that are whole or absent: written aside, then renamed; and digests of what was written."""

import hashlib
import json
import os
import secrets
import shutil
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
