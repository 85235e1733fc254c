"""Ctrl-C where it does no harm: an interrupt inside a write to a study would leave a trial that nobody runs."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType


class Interrupts:
    """Inside, an interrupt of the process waits for the next `allowed` block, and is raised there."""

    def __init__(self) -> None:
        self._allowed = self._pending = False

    def __enter__(self) -> "Interrupts":
        # Only a main thread hears signals; elsewhere nothing has to wait.
        self._before = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._before)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Raise KeyboardInterrupt here, and what was held back before."""
        with self._switch(True):
            if self._pending:
                raise KeyboardInterrupt
            yield

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Hold interrupts back inside an `allowed` block, and raise them at the end."""
        with self._switch(False):
            yield
        if self._allowed and self._pending:
            raise KeyboardInterrupt

    @contextmanager
    def _switch(self, allowed: bool) -> Iterator[None]:
        before, self._allowed = self._allowed, allowed
        try:
            yield
        finally:
            self._allowed = before

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._pending = True
        if self._allowed:
            raise KeyboardInterrupt
