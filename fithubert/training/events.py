"""What a listener of the training hears: small events, and a dispatcher that no listener can break."""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

EndReason = Literal["finished", "early_stop", "not_finite"]


@dataclass(frozen=True)
class TrainingStarted:
    """The run is set up. `resumed_from`: the update of the checkpoint it goes on from, or None."""

    updates: int
    resumed_from: int | None
    parameters: int
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
    """One update, over all ranks. `layer_losses`: teacher layer -> loss of its head, unweighted, for heads trained.

    `audio_seconds` is the unpadded audio seen since update 0, `batch_audio_seconds` that of this update;
    `step_seconds` its wall time and `wait_seconds` the part of it spent waiting for data.
    """

    update: int
    epoch: int
    loss: float
    layer_losses: Mapping[str, float]
    learning_rate: float
    gradient_norm: float | None
    audio_seconds: float
    batch_audio_seconds: float
    step_seconds: float
    wait_seconds: float


@dataclass(frozen=True)
class Evaluated:
    """A dev evaluation. `train_loss` is the mean since the evaluation before; `best`: the lowest dev loss so far."""

    update: int
    train_loss: float
    dev_loss: float
    layer_losses: Mapping[str, float]
    best: bool
    audio_seconds: float
    seconds: float


@dataclass(frozen=True)
class CheckpointWritten:
    """A checkpoint from which the run can go on."""

    update: int
    path: Path


@dataclass(frozen=True)
class TrainingEnded:
    """The last event. `seconds` counts every process that worked on this run, not the time between them."""

    reason: EndReason
    updates: int
    best_update: int
    best_dev_loss: float
    audio_seconds: float
    seconds: float
    wait_share: float


class StopTraining(Exception):
    """Raised by a listener to end the training, which leaves no student; its caller has to expect it."""


class TrainingListener:
    """Hears the events of one training; override what is needed. Only rank 0 has listeners.

    A listener must not touch the random state or the student; what it raises ends it, not the training, but for
    StopTraining.
    """

    def on_start(self, event: TrainingStarted) -> None:
        """Before the first update."""

    def on_step(self, event: StepDone) -> None:
        """After every update."""

    def on_evaluation(self, event: Evaluated) -> None:
        """After every dev evaluation."""

    def on_checkpoint(self, event: CheckpointWritten) -> None:
        """After every checkpoint."""

    def on_end(self, event: TrainingEnded) -> None:
        """After the last update, or before the error that stops the training is raised."""


Event = TrainingStarted | StepDone | Evaluated | CheckpointWritten | TrainingEnded
_METHODS = {
    TrainingStarted: "on_start",
    StepDone: "on_step",
    Evaluated: "on_evaluation",
    CheckpointWritten: "on_checkpoint",
    TrainingEnded: "on_end",
}


class Listeners:
    """Hands every event to every listener; one that raises is warned about once and hears nothing more.

    StopTraining goes through to the training.
    """

    def __init__(self, listeners: Iterable[TrainingListener] = ()) -> None:
        self._listeners = list(listeners)

    def tell(self, event: Event) -> None:
        """`event` to all listeners, in the order they were given."""
        for listener in list(self._listeners):
            try:
                getattr(listener, _METHODS[type(event)])(event)
            except StopTraining:
                raise
            except Exception as error:
                self._listeners.remove(listener)
                name = type(listener).__name__
                warnings.warn(f"{name} failed and is dropped; training goes on: {error}", stacklevel=2)
