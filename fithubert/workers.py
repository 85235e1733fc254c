"""Jobs side by side in processes that end with the process that started them, and the threads of all libraries.

Nothing here imports torch at the top: `wait_without_spinning` must run before torch is imported.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection, get_context, parent_process
from threading import Thread
from typing import Any, TypeVar

from fithubert.errors import UserError

Job = TypeVar("Job")
Result = TypeVar("Result")
#: Called once in every process with its arguments, before the first job.
Begin = tuple[Callable[..., None], tuple[Any, ...]]


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


def run_side_by_side(
    title: str,
    run: Callable[[Job], Result],
    jobs: Sequence[Job],
    workers: int,
    threads: int,
    begin: Begin | None = None,
) -> Iterator[tuple[Job, Result | UserError]]:
    """Each job with what `run` returned, or with the UserError that it raised, as they come.

    Up to `workers` spawned processes run them, on `threads` threads each; a single one is this process. Jobs that have
    not begun when the caller stops are dropped. Raises UserError, which begins with `title`, if a process was killed.
    """
    workers = min(workers, len(jobs))
    if workers <= 1:
        with torch_threads(threads):
            if begin is not None:
                begin[0](*begin[1])
            for job in jobs:
                yield job, _try(run, job)
        return
    spawn = get_context("spawn")
    with threads_of_children(threads), ProcessPoolExecutor(workers, spawn, _begin, (threads, begin)) as pool:
        futures = {pool.submit(_try, run, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            raise UserError(f"{title}: a process was killed; what is finished is kept, run it again") from None
        finally:
            pool.shutdown(cancel_futures=True)


#: Why this process cannot run any job.
_refused: UserError | None = None


def _begin(threads: int, begin: Begin | None) -> None:
    import torch

    global _refused

    torch.set_num_threads(threads)
    # A pool's process ends with its parent only after the job that it has begun, which may take an hour.
    Thread(target=_end_with_parent, daemon=True).start()
    if begin is not None:
        try:
            begin[0](*begin[1])
        except UserError as error:
            # Raised here, it would end the pool without its message.
            _refused = error


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _try(run: Callable[[Job], Result], job: Job) -> Result | UserError:
    if _refused is not None:
        return _refused
    try:
        return run(job)
    except UserError as error:
        return error
