"""Training curves, the teacher's phone probe and learnt layer weights, as points ready to be drawn."""

from dataclasses import dataclass
from typing import Any

from fithubert.report.gather import Metrics

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Training:
    """How one student learnt: dev loss by update, and each head's own dev loss by the teacher layer it predicts."""

    student: str
    dev_loss: Points
    #: The mean training loss since the evaluation before.
    train_loss: Points
    hints: dict[int, Points]
    #: The update whose student was kept.
    best_update: float | None


@dataclass(frozen=True)
class Probe:
    """Accuracy in percent of a linear probe for phones of single frames, by layer, and of its baselines."""

    teacher: Points
    untrained: Points
    fbank: float | None


def read_training(student: str, values: dict[str, Any]) -> Training:
    """The curve in a student's distill metrics; empty points where it holds none."""
    evaluations = values.get("curve") or []
    dev_loss = tuple((float(e["update"]), float(e["dev_loss"])) for e in evaluations)
    train_loss = tuple((float(e["update"]), float(e["train_loss"])) for e in evaluations if e.get("train_loss"))
    hints: dict[int, list[tuple[float, float]]] = {}
    for evaluation in evaluations:
        for layer, loss in (evaluation.get("layer_losses") or {}).items():
            hints.setdefault(int(layer), []).append((float(evaluation["update"]), float(loss)))
    ordered = {layer: tuple(hints[layer]) for layer in sorted(hints)}
    return Training(student, dev_loss, train_loss, ordered, values.get("best_update"))


def read_probe(metrics: Metrics) -> Probe | None:
    """The phone probe in teacher.json; None where the stage has not run or probed nothing."""
    probe = metrics.single.get("teacher", {}).get("probe")
    if not probe or not probe.get("layers"):
        return None
    fbank = probe.get("fbank")
    return Probe(_by_layer(probe["layers"]), _by_layer(probe.get("untrained")), None if fbank is None else float(fbank))


def read_layer_weights(metrics: Metrics, models: list[str], task: str) -> dict[str, tuple[float, ...]]:
    """model -> learnt weights of its hidden states on `task`, for models that have several."""
    found = {}
    for model in models:
        score = metrics.score(model, task)
        if score is not None and len(score.layer_weights) > 1:
            found[model] = score.layer_weights
    return found


def _by_layer(values: Any) -> Points:
    """Points from a list (layer 0 first) or from a mapping of layers."""
    if isinstance(values, dict):
        return tuple(sorted((float(layer), float(v)) for layer, v in values.items()))
    return tuple((float(layer), float(v)) for layer, v in enumerate(values or []))
