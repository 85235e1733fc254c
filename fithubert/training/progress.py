"""Progress on a terminal and in logs: on a terminal one line that is rewritten, elsewhere a line now and then."""

import shutil
import sys
from collections import deque
from collections.abc import Callable, Mapping
from itertools import count
from time import monotonic
from typing import TextIO

from fithubert.records import Head
from fithubert.training.events import (
    CutAdvanced,
    Evaluated,
    StepDone,
    TrainingEnded,
    TrainingListener,
    TrainingStarted,
)

#: Updates over which speed and loss are averaged.
_WINDOW = 50
#: The first updates of a process are slow: memory is allocated, files are opened. They count for no estimate.
_SLOW_UPDATES = 3
#: An estimate of the time left needs this many updates and seconds.
_MEASURED_UPDATES, _MEASURED_SECONDS = 5, 3.0
#: The longest time without a line, while there is progress.
_QUIET_SECONDS = 10.0
_LINE_WIDTH = 100
#: How often the line of a terminal is rewritten from the start of the work to its end.
_REWRITTEN = 1000


def format_clock(seconds: float) -> str:
    """`seconds` as M:SS or H:MM:SS."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class _Lines:
    """Lines with a label. On a terminal, a line that is not `kept` is as wide as fits and replaced by the next one."""

    def __init__(self, label: str, stream: TextIO | None) -> None:
        self.label, self._stream = label, stream or sys.stderr
        self.on_terminal = self._stream.isatty()

    def print(self, text: str, kept: bool) -> None:
        line = f"{self.label}: {text}"
        start, end = ("\r\x1b[K", "\n" if kept else "") if self.on_terminal else ("", "\n")
        if not end:
            line = line[: shutil.get_terminal_size().columns - 1]
        print(f"{start}{line}", end=end, file=self._stream, flush=True)


#: To call with how many passes of a piece of work are done, and how many there are.
OnPass = Callable[[int, int], object]


def nothing_said(done: int, total: int) -> None:
    """An `OnPass` that does nothing."""


def count_passes(total: int, on_pass: OnPass) -> Callable[[], object]:
    """A function to call after each of `total` passes."""
    done = count(1)
    return lambda: on_pass(next(done), total)


def progress_line(
    label: str, stream: TextIO | None = None, clock: Callable[[], float] = monotonic, estimates: bool = True
) -> Callable[..., None]:
    """A function to call with (done, total, note) as work proceeds; it ends its line when `done` reaches `total`.

    On a terminal of `stream` (standard error) one line is rewritten; elsewhere a line is added at every tenth and at
    least every 10 s. `estimates`: whether it says how much time is left, which work in unequal parts does not tell.
    """
    lines = _Lines(label, stream)
    begun = printed = clock()
    shown = -1

    def show(done: float, total: float, note: str = "") -> None:
        nonlocal shown, printed
        share, now = done / total if total else 1.0, clock()
        step = int(share * (_REWRITTEN if lines.on_terminal else 10))
        if step <= shown and (now - printed < _QUIET_SECONDS or share >= 1):
            return
        shown, printed, spent = step, now, now - begun
        measured = estimates and spent >= _MEASURED_SECONDS and 0.01 < share < 1
        left = f", {format_clock(spent / share - spent)} left" if measured else ""
        lines.print(f"{share:4.0%} ({format_clock(spent)}{left}){'  ' + note if note else ''}", kept=share >= 1)

    return show


class ProgressLines(TrainingListener):
    """The training `name` on `stream` (standard error): its start, every dev evaluation, its end, and updates between.

    `lines`: how many updates of a whole training have a line, if it is fast; a slow one has one at least every 10 s.
    On a terminal each of them replaces the one before.
    """

    def __init__(
        self, name: str, stream: TextIO | None = None, lines: int = 20, clock: Callable[[], float] = monotonic
    ) -> None:
        self._lines, self._stream, self._clock = _Lines(name, stream), stream, clock
        self._count = _REWRITTEN if self._lines.on_terminal else lines
        self._updates = self._steps = 0
        self._printed = 0.0
        self._dev_loss: float | None = None
        self._recent: deque[StepDone] = deque(maxlen=_WINDOW)
        self._show_cut: Callable[..., None] | None = None

    def on_cut(self, event: CutAdvanced) -> None:
        if self._show_cut is None:
            label = f"{self._lines.label}: cut from the teacher"
            self._show_cut = progress_line(label, self._stream, self._clock, estimates=False)
        self._show_cut(event.done, event.total, f"part {event.done} of {event.total}")

    def on_start(self, event: TrainingStarted) -> None:
        self._updates = event.updates
        counts = event.parameters
        trunk, readout, rest = (f"{n / 1e6:.2f} M" for n in (counts.trunk, counts.readout, counts.training_only))
        self._print(f"{trunk} trunk + {readout} read-out + {rest} training-only parameters")
        self._print(
            f"{event.updates} updates on {event.train_seconds / 3600:.2f} h, dev {event.dev_seconds / 60:.1f} min, "
            f"{event.world_size} x {event.device}, {event.precision}, seed {event.seed}"
        )
        if event.resumed_from is not None:
            self._print(f"resumed at update {event.resumed_from}")

    def on_step(self, event: StepDone) -> None:
        self._steps += 1
        if self._steps == _SLOW_UPDATES + 1:
            self._recent.clear()
        self._recent.append(event)
        due = event.update % max(1, self._updates // self._count) == 0
        if due or self._clock() - self._printed >= _QUIET_SECONDS:
            self._print(f"update {event.update}/{self._updates} {self._describe()}", kept=False)

    def on_evaluation(self, event: Evaluated) -> None:
        self._dev_loss = event.dev_loss
        best = " (best)" if event.best else ""
        trained = "" if event.train_loss is None else f", train loss {event.train_loss:.5g}"
        self._print(f"update {event.update} dev loss {event.dev_loss:.5g}{best}{trained}")
        self._print(_describe_heads(event.layer_losses, _LINE_WIDTH - len(self._lines.label) - 2))

    def on_end(self, event: TrainingEnded) -> None:
        self._print(
            f"{event.end.replace('_', ' ')} after {event.updates} updates, {event.audio_hours:.2f} h of audio, "
            f"{format_clock(event.seconds)} ({event.wait_share:.1%} waiting)"
        )
        self._print(f"best dev loss {event.best_dev_loss:.5g} at update {event.best_update}")

    def _describe(self) -> str:
        """Loss, dev loss, speed, share of waiting for data and time left, over the last updates."""
        seconds = sum(step.step_seconds for step in self._recent) or 1e-9
        audio = sum(step.batch_audio_seconds for step in self._recent)
        waited = sum(step.wait_seconds for step in self._recent)
        loss = sum(step.loss for step in self._recent) / len(self._recent)
        dev = "" if self._dev_loss is None else f" dev {self._dev_loss:.4g}"
        text = f"loss {loss:.4g}{dev}, {audio / seconds:.1f} s audio/s, {waited / seconds:.0%} waiting"
        enough = len(self._recent) >= _MEASURED_UPDATES and seconds >= _MEASURED_SECONDS
        if self._steps <= _SLOW_UPDATES or not enough:
            return text
        left = (self._updates - self._recent[-1].update) * seconds / len(self._recent)
        return f"{text}, {format_clock(left)} left"

    def _print(self, line: str, kept: bool = True) -> None:
        self._printed = self._clock()
        self._lines.print(line, kept)


def _describe_heads(losses: Mapping[Head, float], width: int) -> str:
    """The loss of every head if they fit in `width` characters, else the lowest and the highest."""
    text = "heads " + " ".join(f"{head}:{loss:.3g}" for head, loss in losses.items())
    if len(text) <= width:
        return text
    lowest, highest = (choose(losses, key=lambda head: losses[head]) for choose in (min, max))
    return (
        f"{len(losses)} heads, from {lowest}:{losses[lowest]:.3g} (lowest) to {highest}:{losses[highest]:.3g} (highest)"
    )
