"""Whether the tracking store would take a run, found out without making or changing one."""

import os
import sqlite3
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from fithubert.errors import without_password
from fithubert.tracking.sender import tracking_uri

_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True)
class StoreState:
    """The store in use, without passwords; why it would take no run (None where it would); and what there is to say."""

    uri: str
    failure: str | None
    remark: str


def inspect_store(folder: Path) -> StoreState:
    """The state of the store that runs started in `folder` would go to."""
    uri = tracking_uri()
    scheme = urlsplit(uri).scheme
    if scheme in ("http", "https"):
        failure, remark = _ask_server(uri)
    elif scheme == "sqlite":
        failure, remark = _open_sqlite(folder / uri.partition(":///")[2])
    elif "+" in scheme or scheme in ("postgresql", "mysql", "mssql"):
        failure, remark = _connect_database(uri)
    elif scheme in ("", "file"):
        failure, remark = _why_unwritable(folder / urlsplit(uri).path), "a folder"
    else:
        failure, remark = None, f"not checked: {scheme} is known to MLflow alone"
    return StoreState(without_password(uri), failure, remark)


def _ask_server(uri: str) -> tuple[str | None, str]:
    parts = urlsplit(uri)
    address = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/") + "/health", "", ""))
    try:
        with urllib.request.urlopen(address, timeout=_TIMEOUT_SECONDS):
            return None, "answers"
    except urllib.error.HTTPError as error:
        # Something is there: a server behind a login, or one that has no such page.
        return (f"answers with an error ({error.code})", "") if error.code >= 500 else (None, "answers")
    except (OSError, ValueError) as error:
        return f"does not answer ({getattr(error, 'reason', error)})", ""


def _open_sqlite(path: Path) -> tuple[str | None, str]:
    if not path.exists():
        return _why_unwritable(path.parent), "the first run makes it"
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=_TIMEOUT_SECONDS) as database:
            (runs,) = database.execute("select count(*) from runs").fetchone()
    except sqlite3.Error as error:
        return f"is not readable as a store of MLflow ({error})", ""
    return (None, f"{runs} runs") if os.access(path, os.W_OK) else ("cannot be written", "")


def _connect_database(uri: str) -> tuple[str | None, str]:
    try:
        import sqlalchemy

        engine = sqlalchemy.create_engine(uri, connect_args={"connect_timeout": int(_TIMEOUT_SECONDS)})
        engine.connect().close()
    except Exception as error:  # whatever the driver of this database raises, or that there is none
        return f"cannot be opened ({' '.join(str(error).split())[:120]})", ""
    return None, "answers"


def _why_unwritable(folder: Path) -> str | None:
    while not folder.exists():
        folder = folder.parent
    return None if os.access(folder, os.W_OK) and folder.is_dir() else f"{folder} cannot be written"
