"""The threads of torch and other libraries; none of them is imported with this, which must run before torch is."""

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


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """torch runs on `threads` threads inside, and as before afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
