"""The workers of one machine: started, watched, replaced where one is killed, and stopped together."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from fithubert.errors import UserError
from fithubert.search.alive import retry_of_dead_workers
from fithubert.search.study import counts, join_study, open_storage
from fithubert.search.worker import Plan, work

#: Workers that are killed and replaced before the sweep gives up.
_REPLACEMENTS = 6
#: How long an interrupted worker may take to queue its trial again.
_LEAVE_SECONDS = 20.0


def run_workers(plan: Plan, workers: int, show: Callable[[int, int, str], None] | None = None) -> None:
    """Run `workers` processes until the study has `plan.sweep.trials` trials, whoever makes them.

    `show(done, total, note)` hears how far the study is. A worker that is killed is replaced and its trial tried again.
    Raises UserError where a worker does, or where one after another is killed. On an interrupt the running trials are
    queued again, and KeyboardInterrupt goes on.
    """
    study = join_study(plan.study, open_storage(plan.storage))
    retry_of_dead_workers(study)
    shown, replaced = -1, 0
    with _threads(plan.threads):
        running = {n: _start(plan, n) for n in range(workers)}
        try:
            while running:
                time.sleep(min(plan.poll_seconds, 0.5))
                for ordinal, (process, told) in list(running.items()):
                    if process.is_alive():
                        continue
                    del running[ordinal]
                    _raise_what_it_told(told)
                    if process.exitcode == 0:
                        continue
                    retry_of_dead_workers(study)
                    replaced += 1
                    if replaced > _REPLACEMENTS:
                        raise UserError(
                            f"sweep: {replaced} workers were killed (memory?); the finished trials are kept"
                        )
                    running[workers + replaced] = _start(plan, workers + replaced)
                done = sum(map(counts, study.get_trials(deepcopy=False)))
                if show is not None and done != shown:
                    shown = done
                    show(min(done, plan.sweep.trials), plan.sweep.trials, "")
        finally:
            _stop([process for process, _ in running.values()])
            # Opened anew: an interrupt inside a read may have left this process's view of a journal half made.
            retry_of_dead_workers(join_study(plan.study, open_storage(plan.storage)))


def _start(plan: Plan, ordinal: int) -> tuple[BaseProcess, Connection]:
    context = get_context("spawn")
    told, tells = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(plan, ordinal, tells), name=f"sweep-{ordinal}")
    process.start()
    tells.close()
    return process, told


def _work(plan: Plan, ordinal: int, tells: Any) -> None:
    """A worker's process: what it raises goes to the parent in one line, but for bugs, which keep their traceback."""
    import torch

    torch.set_num_threads(plan.threads)
    try:
        work(plan, ordinal)
    except UserError as error:
        tells.send(str(error))
    except KeyboardInterrupt:
        os._exit(130)


def _raise_what_it_told(told: Connection) -> None:
    try:
        if told.poll():
            raise UserError(told.recv())
    except (EOFError, OSError):
        return


def _stop(processes: list[BaseProcess]) -> None:
    for process in processes:
        if process.is_alive() and process.pid is not None:
            os.kill(process.pid, signal.SIGINT)
    until = time.monotonic() + _LEAVE_SECONDS
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


@contextmanager
def _threads(threads: int) -> Iterator[None]:
    """Processes that are started inside have so many threads in every library, whatever the parent has."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
