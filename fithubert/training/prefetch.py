"""Reading ahead on a thread, with the time that the consumer waited."""

import queue
import threading
from collections.abc import Generator, Iterable
from contextlib import closing
from time import monotonic
from typing import TypeVar

Item = TypeVar("Item")


def prefetch(items: Iterable[Item], depth: int = 2) -> Generator[Item, None, None]:
    """The items in order, up to `depth` of them computed ahead on a thread.

    An exception of `items` is raised instead of the item. The thread ends with the generator: at the end, at an
    exception, and when the consumer stops early and the generator is closed.
    """
    ready: queue.Queue[tuple[str, Item | BaseException | None]] = queue.Queue(maxsize=depth)
    closed = threading.Event()

    def work() -> None:
        try:
            for item in items:
                ready.put(("item", item))
                if closed.is_set():
                    return
            ready.put(("end", None))
        except BaseException as error:  # raised again in the consumer
            ready.put(("error", error))

    thread = threading.Thread(target=work, daemon=True, name="prefetch")
    thread.start()
    try:
        while True:
            kind, item = ready.get()
            if kind == "end":
                return
            if kind == "error":
                raise item  # type: ignore[misc]
            yield item  # type: ignore[misc]
    finally:
        closed.set()
        # The thread may be waiting in `put`: make room until it has ended.
        while thread.is_alive():
            try:
                ready.get_nowait()
            except queue.Empty:
                thread.join(timeout=0.05)


def timed(items: Generator[Item, None, None]) -> Generator[tuple[Item, float], None, None]:
    """Each item with the seconds spent waiting for it; closes `items` at its own end."""
    with closing(items):
        begun = monotonic()
        for item in items:
            yield item, monotonic() - begun
            begun = monotonic()
