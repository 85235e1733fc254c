"""Progress on a terminal and in logs."""

import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TextIO

from fithubert.training.events import (
    CheckpointWritten,
    Evaluated,
    StepDone,
    TrainingEnded,
    TrainingListener,
    TrainingStarted,
)

if TYPE_CHECKING:
    from rich.live import Live
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
            self._say(f"update {event.update}/{self._updates} {self.describe()} | by layer {self.describe_layers()}")

    def on_evaluation(self, event: Evaluated) -> None:
        self._dev_loss = event.dev_loss
        layers = _show_layers(event.layer_losses)
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

    def describe_layers(self) -> str:
        """The loss of every head, over those of the last updates that trained it."""
        seen = {name for step in self._recent for name in step.layer_losses}
        names = sorted(seen, key=lambda name: [int(layer) for layer in name.split("-")])
        heard = {name: [s.layer_losses[name] for s in self._recent if name in s.layer_losses] for name in names}
        return _show_layers({name: sum(losses) / len(losses) for name, losses in heard.items()})

    def _say(self, line: str) -> None:
        print(f"{self._name}: {line}", file=self._stream, flush=True)


class ProgressBar(ProgressLines):
    """The same on a terminal: a bar with loss, dev loss and speed, the loss of every head below it, and a line for
    every evaluation above."""

    def __init__(self, name: str, stream: TextIO | None = None) -> None:
        super().__init__(name, stream)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._live: Live | None = None
        #: Drawn by another thread, which must not go through the steps while one is added.
        self._layers = ""

    def on_start(self, event: TrainingStarted) -> None:
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.text import Text

        super().on_start(event)
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
        )
        self._task = bar.add_task(self._name, total=event.updates, completed=event.resumed_from or 0, state="")
        self._live = Live(
            get_renderable=lambda: Group(bar, Text(self._layers)),
            console=Console(file=self._stream),
            refresh_per_second=2,
        )
        self._bar = bar
        self._live.start()

    def on_step(self, event: StepDone) -> None:
        self._recent.append(event)
        if self._bar is not None and self._task is not None:
            self._layers = f"by layer {self.describe_layers()}"
            self._bar.update(self._task, completed=event.update, state=self.describe())

    def on_end(self, event: TrainingEnded) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.stop()
        super().on_end(event)

    def _say(self, line: str) -> None:
        if self._live is None:
            super()._say(line)
        else:
            self._live.console.print(f"{self._name}: {line}", markup=False, highlight=False)


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


def _show_layers(losses: Mapping[str, float]) -> str:
    return " ".join(f"{name}:{loss:.4g}" for name, loss in losses.items())


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def progress_line(label: str, stream: TextIO | None = None) -> Callable[..., None]:
    """A function to call with (done, total, note) as work goes on; ends its line when done reaches total."""
    out = stream or sys.stderr
    begun, shown = time.monotonic(), -1

    def show(done: float, total: float, note: str = "") -> None:
        nonlocal shown
        share = done / total if total else 1.0
        step = int(share * (1000 if out.isatty() else 10))
        if step <= shown:
            return
        shown = step
        spent = time.monotonic() - begun
        left = f", {spent / share * (1 - share):.0f} s left" if 0 < share < 1 else ""
        text = f"{label}: {share:4.0%} ({spent:.0f} s{left}){'  ' + note if note else ''}"
        if out.isatty():
            out.write(f"\r\x1b[K{text}" + ("\n" if share >= 1 else ""))
        else:
            out.write(text + "\n")
        out.flush()

    return show
