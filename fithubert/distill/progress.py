"""Progress that people read: a bar on a terminal, plain lines anywhere else."""

import sys
from collections import deque
from typing import TYPE_CHECKING, TextIO

from fithubert.distill.events import (
    CheckpointWritten,
    Evaluated,
    StepDone,
    TrainingEnded,
    TrainingListener,
    TrainingStarted,
)

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

#: Updates over which speed and loss are averaged.
_WINDOW = 50


class ProgressLines(TrainingListener):
    """A line at the start, at every dev evaluation, at the end, and some in between.

    `lines`: how many lines a whole training prints beside its evaluations.
    """

    def __init__(self, name: str, stream: TextIO | None = None, lines: int = 20) -> None:
        self._name, self._stream, self._lines = name, stream or sys.stderr, lines
        self._updates = 0
        self._dev_loss: float | None = None
        self._recent: deque[StepDone] = deque(maxlen=_WINDOW)

    def on_start(self, event: TrainingStarted) -> None:
        self._updates = event.updates
        resumed = "" if event.resumed_from is None else f", resumed at update {event.resumed_from}"
        self._say(
            f"{event.parameters / 1e6:.2f} M parameters, {event.train_seconds / 3600:.2f} h to train on, "
            f"{event.dev_seconds / 60:.1f} min dev, {event.updates} updates on {event.world_size} x {event.device} "
            f"({event.precision}), seed {event.seed}{resumed}"
        )

    def on_step(self, event: StepDone) -> None:
        self._recent.append(event)
        if event.update % max(1, self._updates // self._lines) == 0:
            self._say(f"update {event.update}/{self._updates} {self.describe()}")

    def on_evaluation(self, event: Evaluated) -> None:
        self._dev_loss = event.dev_loss
        layers = " ".join(f"{name}:{loss:.4g}" for name, loss in event.layer_losses.items())
        self._say(
            f"update {event.update} dev loss {event.dev_loss:.5g}{' (best)' if event.best else ''}, "
            f"train loss {event.train_loss:.5g}, by layer {layers}"
        )

    def on_checkpoint(self, event: CheckpointWritten) -> None:
        """Checkpoints are not worth a line."""

    def on_end(self, event: TrainingEnded) -> None:
        self._say(
            f"{event.reason.replace('_', ' ')} after {event.updates} updates, {event.audio_seconds / 3600:.2f} h of "
            f"audio, {event.seconds:.0f} s ({event.wait_share:.1%} waiting for data); "
            f"best dev loss {event.best_dev_loss:.5g} at update {event.best_update}"
        )

    def describe(self) -> str:
        """Loss, dev loss, speed, share of waiting and time left, over the last updates."""
        seconds = sum(step.step_seconds for step in self._recent) or 1e-9
        audio = sum(step.batch_audio_seconds for step in self._recent)
        waited = sum(step.wait_seconds for step in self._recent)
        loss = sum(step.loss for step in self._recent) / len(self._recent)
        left = (self._updates - self._recent[-1].update) * seconds / len(self._recent)
        dev = "" if self._dev_loss is None else f"dev {self._dev_loss:.4g} "
        return (
            f"loss {loss:.4g} {dev}| {audio / seconds:.1f} s audio/s | "
            f"waiting {waited / seconds:.1%} | {_clock(left)} left"
        )

    def _say(self, line: str) -> None:
        print(f"{self._name}: {line}", file=self._stream, flush=True)


class ProgressBar(ProgressLines):
    """The same on a terminal: a bar with loss, dev loss and speed, and a line for every evaluation above it."""

    def __init__(self, name: str, stream: TextIO | None = None) -> None:
        super().__init__(name, stream)
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def on_start(self, event: TrainingStarted) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        super().on_start(event)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            console=Console(file=self._stream),
        )
        self._task = self._bar.add_task(self._name, total=event.updates, completed=event.resumed_from or 0, state="")
        self._bar.start()

    def on_step(self, event: StepDone) -> None:
        self._recent.append(event)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=event.update, state=self.describe())

    def on_end(self, event: TrainingEnded) -> None:
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.stop()
        super().on_end(event)

    def _say(self, line: str) -> None:
        if self._bar is None:
            super()._say(line)
        else:
            self._bar.console.print(f"{self._name}: {line}", markup=False, highlight=False)


def progress_listener(name: str, stream: TextIO | None = None) -> TrainingListener:
    """What shows the training of student `name` on `stream` (standard error): a bar on a terminal, else lines.

    Lines too where rich, which draws the bar, is not installed.
    """
    stream = stream or sys.stderr
    if not stream.isatty():
        return ProgressLines(name, stream)
    try:
        import rich.progress  # noqa: F401
    except ImportError:
        return ProgressLines(name, stream)
    return ProgressBar(name, stream)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
