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


def dominates(a: Point, b: Point) -> bool:
    """Whether `a` is nowhere worse than `b` and somewhere better."""
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def pareto_front(points: Sequence[Point]) -> list[int]:
    """The indices of the points that no other dominates, in their order; equal points are all on the front."""
    return [i for i, point in enumerate(points) if not any(dominates(other, point) for other in points)]


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """The volume between `points` and `reference` that at least one of them dominates.

    Exact, by slices along the last objective: for the few objectives and few dozen points of a study.
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


#: What a study writes, in the order of its making.
FILES = ("front.csv", "best.yaml", "front.html", "front.png", "importance.png")


@dataclass(frozen=True)
class StudyResult:
    """The trained trials and the front; `front` begins with the trial that adds most to the hypervolume."""

    objectives: tuple[str, ...]
    rows: tuple[Row, ...]
    front: tuple[Row, ...]


def read_result(study: Study) -> StudyResult:
    """The trials of a study and its front; raises UserError where no trial has finished."""
    rows = read_rows(study)
    objectives = tuple(study.metric_names or ())
    finished = [row for row in rows if row.values]
    if not finished:
        raise UserError(f"study {study.study_name!r} has no finished trial yet")
    points = [_minimised(row, objectives) for row in finished]
    best = pareto_front(points)
    on_front = [points[index] for index in best]
    reference = [max(values) + 1e-9 + 0.1 * (max(values) - min(values)) for values in zip(*points, strict=True)]
    gains = contributions(on_front, reference)
    order = sorted(range(len(best)), key=lambda i: (-gains[i], i))
    return StudyResult(objectives, tuple(rows), tuple(finished[best[i]] for i in order))


def write_result(study: Study, folder: Path, metrics_file: Path) -> StudyResult:
    """`FILES` of a study in `folder`, and what the report reads of it in `metrics_file`.

    Raises UserError where no trial has finished.
    """
    result = read_result(study)
    _write_csv(folder / "front.csv", result)
    with atomic_file(folder / "best.yaml") as aside:
        head = "# The front, the best compromise first. Entries of params.students: paste, then `dvc repro`.\n"
        students = {row.name: row.student for row in result.front}
        aside.write_text(head + yaml.safe_dump(students, sort_keys=False, default_flow_style=None, width=120))
    importance = measure_importance(study)
    report = SweepMetrics(
        study.study_name,
        result.objectives,
        tuple(result.rows[0].choices),
        _points(result),
        _labels(result.objectives),
        importance,
    )
    with atomic_file(folder / "front.html") as aside:
        aside.write_text(render_front(report))
    draw_front(report).save_png(folder / "front.png")
    draw_importance(report).save_png(folder / "importance.png")
    report.write(metrics_file)
    return result


def _write_csv(path: Path, result: StudyResult) -> None:
    on_front = {row.number for row in result.front}
    choices = list(result.rows[0].choices)
    metrics = sorted({name for row in result.rows for name in row.metrics})
    with atomic_file(path) as aside, aside.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["trial", "state", "front", *choices, *metrics, "curve"])
        for row in result.rows:
            curve = " ".join(f"{update}:{loss:.4f}" for update, loss in row.curve)
            figures = [_short(row.metrics.get(name)) for name in metrics]
            front = int(row.number in on_front)
            writer.writerow([row.name, row.state, front, *(row.choices[c] for c in choices), *figures, curve])


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _points(result: StudyResult) -> tuple[SweepPoint, ...]:
    on_front = {row.number for row in result.front}
    return tuple(
        SweepPoint(row.name, row.number in on_front, row.choices, row.values, row.metrics, row.curve)
        for row in result.rows
    )


def _labels(objectives: Sequence[str]) -> dict[str, tuple[str, bool]]:
    """objective -> its name on axes, and whether less is better."""
    names = {
        "macs_per_second": "multiply-accumulates per second of audio",
        "params": "parameters",
        "latency_ratio": "latency, estimated, of the teacher's",
        "dev_loss": "dev loss of the last head",
    }
    return {o: (names.get(o) or f"{task_info(o).title}, dev, %", less_is_better(o)) for o in objectives}


def _minimised(row: Row, objectives: Sequence[str]) -> tuple[float, ...]:
    return tuple(row.values[o] if less_is_better(o) else -row.values[o] for o in objectives)
