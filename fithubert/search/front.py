"""The result of a study: its trained trials, the Pareto front, and the files that show them."""

import csv
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from fithubert.errors import UserError
from fithubert.files import atomic_file
from fithubert.records import SweepMetrics, SweepPoint, SweepReference
from fithubert.report.figures import draw_front, draw_importance
from fithubert.report.page import render_front
from fithubert.search.study import counts, read_curve
from fithubert.tasks import task_info

Point = Sequence[float]
#: The files of a study, in the order in which they are written.
FILES = ("front.csv", "best.yaml", "front.html", "front.png", "importance.png")
_LABELS = {
    "macs_per_second": "multiply-accumulates per second of audio",
    "params": "parameters",
    "latency_ratio": "latency, estimated, of the teacher's",
    "dev_loss": "dev loss of the last head",
}


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """The volume between `points` and `reference` that is dominated by at least one point; all values are minimised.

    Exact, by slices along the last objective: fast enough for the few objectives and few dozen points of a study.
    """
    inside = [tuple(p) for p in points if all(x < r for x, r in zip(p, reference, strict=True))]
    if not inside:
        return 0.0
    if len(reference) == 1:
        return float(reference[0] - min(p[0] for p in inside))
    heights = sorted({p[-1] for p in inside})
    total = 0.0
    for low, high in zip(heights, [*heights[1:], reference[-1]], strict=True):
        total += (high - low) * hypervolume([p[:-1] for p in inside if p[-1] <= low], reference[:-1])
    return total


def contributions(points: Sequence[Point], reference: Point) -> list[float]:
    """By how much the hypervolume shrinks without each point."""
    whole = hypervolume(points, reference)
    return [whole - hypervolume([*points[:i], *points[i + 1 :]], reference) for i in range(len(points))]


def read_result(study: Study) -> SweepMetrics:
    """The trained trials of a study by number. Raises UserError if none has finished."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if counts(trial)]
    if not any(trial.values for trial in trials):
        raise UserError(f"study {study.study_name!r} has no finished trial yet")
    objectives = tuple(study.metric_names or ())
    on_front = {trial.number for trial in study.best_trials}
    minimised = dict(zip(objectives, (way == StudyDirection.MINIMIZE for way in study.directions), strict=True))
    return SweepMetrics(
        study=study.study_name,
        objectives=objectives,
        choices=tuple(trials[0].params),
        points=tuple(_describe(trial, objectives, trial.number in on_front) for trial in trials),
        labels={objective: (_label(objective), lower) for objective, lower in minimised.items()},
        importance={name: _measure_importance(study, index) for index, name in enumerate(objectives)},
        reference=_read_reference(study, trials),
    )


def write_result(study: Study, folder: Path, metrics_file: Path) -> SweepMetrics:
    """Write `FILES` of a study to `folder`, and the record that the report reads to `metrics_file`.

    Raises UserError if no trial has finished.
    """
    metrics = read_result(study)
    _write_table(folder / "front.csv", metrics)
    with atomic_file(folder / "best.yaml") as file:
        head = "# The front, the best compromise first. Entries of params.students: paste, then `dvc repro`.\n"
        students = {_name(trial): trial.user_attrs["student"] for trial in _rank_front(study)}
        table = yaml.safe_dump(students, sort_keys=False, default_flow_style=None, width=120)
        file.write_text(head + table, encoding="utf-8")
    with atomic_file(folder / "front.html") as file:
        file.write_text(render_front(metrics), encoding="utf-8")
    draw_front(metrics).save_png(folder / "front.png")
    draw_importance(metrics).save_png(folder / "importance.png")
    metrics.write(metrics_file)
    return metrics


def _rank_front(study: Study) -> list[FrozenTrial]:
    """The trials on the front; the one that adds most to the hypervolume is first."""
    signs = [1 if way == StudyDirection.MINIMIZE else -1 for way in study.directions]

    def minimise(trial: FrozenTrial) -> tuple[float, ...]:
        return tuple(sign * value for sign, value in zip(signs, trial.values, strict=True))

    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    columns = list(zip(*map(minimise, finished), strict=True))
    reference = [max(values) + 1e-9 + 0.1 * (max(values) - min(values)) for values in columns]
    front = sorted(study.best_trials, key=lambda trial: trial.number)
    gains = contributions([minimise(trial) for trial in front], reference)
    return [front[index] for index in sorted(range(len(front)), key=lambda index: (-gains[index], index))]


def _name(trial: FrozenTrial) -> str:
    """The trial's name in tables and in `params.students`."""
    return f"sweep_{trial.number:03d}"


def _describe(trial: FrozenTrial, objectives: Sequence[str], on_front: bool) -> SweepPoint:
    values = dict(zip(objectives, trial.values or (), strict=False))
    metrics: dict[str, Any] = {**trial.user_attrs["costs"], **trial.user_attrs.get("metrics", {})}
    curve = tuple(sorted(read_curve(trial).items()))
    return SweepPoint(_name(trial), on_front, dict(trial.params), values, metrics, curve)


def _read_reference(study: Study, trials: Sequence[FrozenTrial]) -> SweepReference | None:
    """The teacher and the student of a study, if it has stored them."""
    stored = study.user_attrs.get("reference")
    if stored is None:
        return None
    same = (_name(trial) for trial in trials if trial.params == stored["choices"])
    return SweepReference(stored["student"], next(same, None), stored["params"], stored["macs_per_second"])


def _label(objective: str) -> str:
    """The label of an objective on an axis."""
    return _LABELS.get(objective) or f"{task_info(objective).title}, dev, %"


def _measure_importance(study: Study, index: int) -> dict[str, float]:
    """Choice -> its share of an objective's variance (PED-ANOVA); empty with fewer than four finished trials."""
    if len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) < 4:
        return {}
    sign = 1.0 if study.directions[index] == StudyDirection.MINIMIZE else -1.0

    def target(trial: FrozenTrial) -> float:
        return sign * trial.values[index]

    with warnings.catch_warnings():
        # Optuna warns that it treats low targets as good; `sign` makes that true.
        warnings.simplefilter("ignore", UserWarning)
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        return dict(optuna.importance.get_param_importances(study, evaluator=evaluator, target=target))


def _write_table(path: Path, result: SweepMetrics) -> None:
    metrics = sorted({name for point in result.points for name in point.metrics})
    with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["trial", "state", "front", *result.choices, *metrics, "curve"])
        for point in result.points:
            curve = " ".join(f"{update}:{loss:.4f}" for update, loss in point.curve)
            figures = [f"{point.metrics[name]:.6g}" if name in point.metrics else "" for name in metrics]
            state = "finished" if point.values else "stopped"
            choices = [point.choices[choice] for choice in result.choices]
            writer.writerow([point.name, state, int(point.on_front), *choices, *figures, curve])
