"""When a trial of several objectives is not worth its end."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fithubert.training.events import Evaluated, StopTraining, TrainingListener

#: Update -> dev loss of the head on the teacher's last layer, which every shape has.
Curve = dict[int, float]


@dataclass(frozen=True)
class Finished:
    """A trial that has been trained to its end: its cost objectives and its curve."""

    costs: tuple[float, ...]
    curve: Curve


def count_better(
    update: int, loss: float, costs: tuple[float, ...], finished: Iterable[Finished], margin: float
) -> int:
    """How many finished trials cost no more in anything and were better by `margin` at the same update."""
    return sum(
        all(theirs <= ours for theirs, ours in zip(other.costs, costs, strict=True))
        and update in other.curve
        and other.curve[update] < loss * (1 - margin)
        for other in finished
    )


class StoppingRule(TrainingListener):
    """Stops a training that `after` finished trials dominate at the same update, from half of the updates on.

    Trials that cost less are judged by cheaper ones only, so that no rung is cut off for being cheap.
    """

    def __init__(
        self,
        costs: tuple[float, ...],
        updates: int,
        margin: float,
        after: int,
        finished: Callable[[], list[Finished]],
        on_point: Callable[[int, float], None],
    ) -> None:
        self._costs, self._updates, self._margin, self._after = costs, updates, margin, after
        self._finished, self._on_point = finished, on_point
        self.curve: Curve = {}

    def on_evaluation(self, event: Evaluated) -> None:
        """Note the loss; raise StopTraining where the rule says so."""
        loss = list(event.layer_losses.values())[-1]
        self.curve[event.update] = loss
        self._on_point(event.update, loss)
        if event.update < self._updates / 2 or event.update >= self._updates:
            return
        better = count_better(event.update, loss, self._costs, self._finished(), self._margin)
        if better >= self._after:
            raise StopTraining(f"at update {event.update} {better} cheaper trials were {self._margin:.0%} better")
