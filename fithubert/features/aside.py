"""Files in the making, locked so that a living writer's is never taken for what a killed one left."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from fithubert.files import atomic_file

try:
    import fcntl
except ImportError:  # Windows: leftovers of killed writers stay until they are deleted by hand.
    fcntl = None  # type: ignore[assignment]


@contextmanager
def locked_aside(path: Path, replace: bool = True) -> Iterator[IO[bytes]]:
    """A file that becomes `path` at the end, locked until then; without `replace` a `path` that is there stays."""
    file: IO[bytes] | None = None
    try:
        with atomic_file(path, replace) as aside:
            while True:
                file = aside.open("wb")
                if not _lock(file, wait=True) or os.fstat(file.fileno()).st_nlink:
                    break
                file.close()  # deleted as a leftover before it was locked
            yield file
            file.flush()
            if fcntl is None:
                file.close()
    finally:
        if file is not None:
            file.close()


def remove_leftovers(directory: Path) -> None:
    """Delete what killed writers left beside their files; a living writer holds a lock on its own."""
    for aside in directory.glob(".*.parquet.*.part"):
        with suppress(OSError), aside.open("rb+") as file:
            if _lock(file, wait=False):
                aside.unlink()


def _lock(file: IO[bytes], wait: bool) -> bool:
    """Whether this process now holds the lock on `file`, until the file is closed."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
