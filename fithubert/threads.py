"""The threads of torch and other libraries; imports none of them, since it must run before torch is imported."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


def wait_without_spinning() -> None:
    """Let idle OpenMP threads sleep, unless the user has set OMP_WAIT_POLICY.

    By default they spin. If another process uses the same cores, a training then takes several times as long. OpenMP
    reads the variable when torch is imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@contextmanager
def threads_of_children(threads: int) -> Iterator[None]:
    """Processes started inside use `threads` threads in every library, file reading included."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
