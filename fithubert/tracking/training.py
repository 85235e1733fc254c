"""The listener that turns the events of a training into metrics of its run."""

from fithubert.tracking.runs import TrackedRun
from fithubert.training.events import Evaluated, StepDone, TrainingEnded, TrainingListener


class TrackingListener(TrainingListener):
    """Train and dev curves, one point per update and per evaluation; never waits for the server."""

    def __init__(self, run: TrackedRun) -> None:
        self._run = run

    def on_step(self, event: StepDone) -> None:
        """The loss, the learning rate and the audio seen."""
        values = {
            "train_loss": event.loss,
            "learning_rate": event.learning_rate,
            "audio_hours": event.audio_seconds / 3600,
        }
        if event.gradient_norm is not None:
            values["gradient_norm"] = event.gradient_norm
        self._run.log_metrics(values, event.update)

    def on_evaluation(self, event: Evaluated) -> None:
        """The dev loss, and that of every head."""
        heads = {f"dev_head_{head}": loss for head, loss in event.layer_losses.items()}
        self._run.log_metrics({"dev_loss": event.dev_loss, **heads}, event.update)

    def on_end(self, event: TrainingEnded) -> None:
        """What the training came to."""
        values = {
            "best_dev_loss": event.best_dev_loss,
            "best_update": event.best_update,
            "train_seconds": event.seconds,
        }
        self._run.log_metrics(values, event.updates)
