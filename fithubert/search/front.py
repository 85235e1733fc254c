"""The Pareto front of a study and its result files."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from optuna.study import Study

from fithubert.errors import UserError
from fithubert.files import atomic_file
from fithubert.records import SweepMetrics, SweepPoint
from fithubert.report import draw_front, draw_importance, render_front
from fithubert.search.study import Row, less_is_better, measure_importance, read_rows
from fithubert.tasks import task_info

Point = Sequence[float]
#: The files of a study, in the order in which they are written.
FILES = ("front.csv", "best.yaml", "front.html", "front.png", "importance.png")


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


@dataclass(frozen=True)
class StudyResult:
    """The trained trials of a study and its front, in which the trial that adds most to the hypervolume is first."""

    objectives: tuple[str, ...]
    rows: tuple[Row, ...]
    front: tuple[Row, ...]


def read_result(study: Study) -> StudyResult:
    """The trials of a study and its front. Raises UserError if no trial has finished."""
    rows = read_rows(study)
    objectives = tuple(study.metric_names or ())
    points = {row.number: _minimise(row, objectives) for row in rows if row.values}
    if not points:
        raise UserError(f"study {study.study_name!r} has no finished trial yet")
    best = {trial.number for trial in study.best_trials}
    front = [row for row in rows if row.number in best]
    reference = [
        max(values) + 1e-9 + 0.1 * (max(values) - min(values)) for values in zip(*points.values(), strict=True)
    ]
    gains = contributions([points[row.number] for row in front], reference)
    order = sorted(range(len(front)), key=lambda i: (-gains[i], i))
    return StudyResult(objectives, tuple(rows), tuple(front[i] for i in order))


def write_result(study: Study, folder: Path, metrics_file: Path) -> StudyResult:
    """Write `FILES` of a study to `folder`, and the record that the report reads to `metrics_file`.

    Raises UserError if no trial has finished.
    """
    result = read_result(study)
    metrics = _describe(study, result)
    _write_table(folder / "front.csv", result)
    with atomic_file(folder / "best.yaml") as file:
        head = "# The front, the best compromise first. Entries of params.students: paste, then `dvc repro`.\n"
        students = {row.name: row.student for row in result.front}
        file.write_text(head + yaml.safe_dump(students, sort_keys=False, default_flow_style=None, width=120))
    with atomic_file(folder / "front.html") as file:
        file.write_text(render_front(metrics))
    draw_front(metrics).save_png(folder / "front.png")
    draw_importance(metrics).save_png(folder / "importance.png")
    metrics.write(metrics_file)
    return result


def _describe(study: Study, result: StudyResult) -> SweepMetrics:
    on_front = {row.number for row in result.front}
    points = (
        SweepPoint(row.name, row.number in on_front, row.choices, row.values, row.metrics, row.curve)
        for row in result.rows
    )
    return SweepMetrics(
        study=study.study_name,
        objectives=result.objectives,
        choices=tuple(result.rows[0].choices),
        points=tuple(points),
        labels={objective: (_label(objective), less_is_better(objective)) for objective in result.objectives},
        importance=measure_importance(study),
    )


def _label(objective: str) -> str:
    """The label of an objective on an axis."""
    names = {
        "macs_per_second": "multiply-accumulates per second of audio",
        "params": "parameters",
        "latency_ratio": "latency, estimated, of the teacher's",
        "dev_loss": "dev loss of the last head",
    }
    return names.get(objective) or f"{task_info(objective).title}, dev, %"


def _write_table(path: Path, result: StudyResult) -> None:
    on_front = {row.number for row in result.front}
    choices = list(result.rows[0].choices)
    metrics = sorted({name for row in result.rows for name in row.metrics})
    with atomic_file(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["trial", "state", "front", *choices, *metrics, "curve"])
        for row in result.rows:
            curve = " ".join(f"{update}:{loss:.4f}" for update, loss in row.curve)
            figures = [f"{row.metrics[name]:.6g}" if name in row.metrics else "" for name in metrics]
            front = int(row.number in on_front)
            writer.writerow([row.name, row.state, front, *(row.choices[c] for c in choices), *figures, curve])


def _minimise(row: Row, objectives: Sequence[str]) -> tuple[float, ...]:
    """The values of a trial, with the sign of those to maximise changed."""
    return tuple(row.values[o] if less_is_better(o) else -row.values[o] for o in objectives)
