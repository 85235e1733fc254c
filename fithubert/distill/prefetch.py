"""Reading ahead on a thread, in order, and the time that training had to wait for it."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import Generic, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


class Prefetcher(Generic[Job, Result]):
    """Yields `(job, read(job))` for each of `jobs` in order, reading up to `depth` results ahead.

    What `read` raises is raised where its result would have come. Use as a context manager: leaving it ends the
    thread. `waited_seconds` is how long the consumer stood still.
    """

    def __init__(self, jobs: Iterable[Job], read: Callable[[Job], Result], depth: int) -> None:
        self.waited_seconds = 0.0
        self._ready: queue.Queue[tuple[Job, Result] | BaseException | None] = queue.Queue(maxsize=depth)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(iter(jobs), read), daemon=True, name="prefetch")

    def __enter__(self) -> "Prefetcher[Job, Result]":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        # The thread may stand in `put`: make room until it has seen that nobody reads any more.
        while self._thread.is_alive():
            try:
                self._ready.get_nowait()
            except queue.Empty:
                self._thread.join(timeout=0.05)

    def __iter__(self) -> Iterator[tuple[Job, Result]]:
        while True:
            begun = monotonic()
            item = self._ready.get()
            self.waited_seconds += monotonic() - begun
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def _work(self, jobs: Iterator[Job], read: Callable[[Job], Result]) -> None:
        try:
            for job in jobs:
                if self._closed.is_set():
                    return
                self._ready.put((job, read(job)))
            self._ready.put(None)
        except BaseException as error:  # raised again in the consumer
            self._ready.put(error)
