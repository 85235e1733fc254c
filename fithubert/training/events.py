"""The events of a training, and the listeners that receive them."""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from fithubert.models.weights import ParameterCounts
from fithubert.records import CurvePoint, Head, JsonObject

EndReason = Literal["finished", "early_stop", "not_finite"]


@dataclass(frozen=True)
class CutAdvanced:
    """`done` of `total` parts of the first weights are cut from the teacher; not in a resumed run."""

    done: int
    total: int


@dataclass(frozen=True)
class TrainingStarted:
    """The run is set up. `resumed_from`: the update of the checkpoint that it resumes from, or None."""

    updates: int
    resumed_from: int | None
    parameters: ParameterCounts
    train_utterances: int
    train_seconds: float
    dev_utterances: int
    dev_seconds: float
    device: str
    precision: str
    world_size: int
    seed: int


@dataclass(frozen=True)
class StepDone:
    """One update, over all ranks. `layer_losses`: the loss of each trained head without its weight.

    `audio_seconds` is the audio since update 0 and `batch_audio_seconds` that of this update, both without padding;
    `step_seconds` is its wall time and `wait_seconds` the part of it spent waiting for data.
    """

    update: int
    epoch: int
    loss: float
    layer_losses: Mapping[Head, float]
    learning_rate: float
    gradient_norm: float | None
    audio_seconds: float
    batch_audio_seconds: float
    step_seconds: float
    wait_seconds: float


@dataclass(frozen=True)
class Evaluated(CurvePoint):
    """A dev evaluation; at update 0 that of the first weights. `best`: whether its dev loss is the lowest so far."""

    best: bool


@dataclass(frozen=True)
class TrainingEnded:
    """The last event: how the training ended after `updates`; `best_update` had the lowest dev loss.

    `audio_hours` counts audio without padding, `seconds` the wall time of every process of the run, and `wait_share`
    the share of this process's time spent waiting for data.
    """

    end: EndReason
    updates: int
    best_update: int
    best_dev_loss: float
    audio_hours: float
    seconds: float
    wait_share: float
    curve: tuple[CurvePoint, ...]

    def to_record(self) -> JsonObject:
        """The event for the saved student, without times, so that the same training gives the same file."""
        curve = [{k: v for k, v in point.to_json().items() if k != "seconds"} for point in self.curve]
        return {k: v for k, v in vars(self).items() if k not in ("seconds", "wait_share")} | {"curve": curve}


class StopTraining(Exception):
    """Raised by a listener to end the training without a student; its caller has to expect it."""


class TrainingListener:
    """Receives the events of one training on rank 0; override the methods that you need.

    A listener must not touch the random state or the student. An exception ends the listener, not the training; only
    StopTraining ends the training.
    """

    def on_cut(self, event: CutAdvanced) -> None:
        """At the start of a cut from the teacher, and after every part of it."""

    def on_start(self, event: TrainingStarted) -> None:
        """Before the first update."""

    def on_step(self, event: StepDone) -> None:
        """After every update."""

    def on_evaluation(self, event: Evaluated) -> None:
        """After every dev evaluation."""

    def on_end(self, event: TrainingEnded) -> None:
        """After the last update, or before the error that stops the training is raised."""


_METHODS = {
    CutAdvanced: "on_cut",
    TrainingStarted: "on_start",
    StepDone: "on_step",
    Evaluated: "on_evaluation",
    TrainingEnded: "on_end",
}


class Listeners:
    """Passes every event to every listener. A listener that raises is removed with one warning.

    StopTraining is passed on to the training.
    """

    def __init__(self, listeners: Iterable[TrainingListener] = ()) -> None:
        self._listeners = list(listeners)

    def on_cut(self, done: int, total: int) -> None:
        """Pass on how far a cut is."""
        self.notify(CutAdvanced(done, total))

    def notify(self, event: CutAdvanced | TrainingStarted | StepDone | Evaluated | TrainingEnded) -> None:
        """Pass `event` to all listeners, in the order in which they were given."""
        for listener in list(self._listeners):
            try:
                getattr(listener, _METHODS[type(event)])(event)
            except StopTraining:
                raise
            except Exception as error:
                self._listeners.remove(listener)
                name = type(listener).__name__
                warnings.warn(f"{name} failed and is removed; training continues: {error}", stacklevel=2)
