"""What MLflow is told of a finished report: one run per model, with the student itself where there is one."""

from typing import Any

from fithubert.config.params import Params
from fithubert.config.students import TimeReductionConfig
from fithubert.export.export import tracked_student
from fithubert.files import read_json
from fithubert.models.readout import ReadOut
from fithubert.models.recipes import resolve
from fithubert.models.weights import load_student
from fithubert.report import ReportFiles
from fithubert.tracking.models import log_students
from fithubert.tracking.summary import log_summary, recorded_runs
from fithubert.workspace import Workspace


def log_report(params: Params, workspace: Workspace, files: ReportFiles) -> None:
    """Log a summary run for each model of the report, then every student of the workspace with its run."""
    summary = read_json(files.summary)
    kept = (files.page, files.table, files.summary, *files.figures)
    log_summary(summary, workspace.root, model_shapes(params, workspace), kept)
    # None where MLflow is not installed or did not answer: then no student need be loaded.
    tracked = recorded_runs(workspace.root)
    students = [name for name in workspace.list_students() if name in tracked]
    readouts = [ReadOut(load_student(workspace.student(name)), name) for name in students]
    log_students([tracked_student(readout) for readout in readouts], workspace.root)


def model_shapes(params: Params, workspace: Workspace) -> dict[str, dict[str, Any]]:
    """Depth, width and time reduction of every student of `params`, and of the teacher where it is there."""
    shapes = {}
    for name, student in params.students.items():
        config = resolve(student.recipe, student.shape)
        reduction = _name_reduction(config.time_reduction)
        shapes[name] = {"depth": config.depth, "width": config.width, "time_reduction": reduction}
    teacher = workspace.teacher / "config.json"
    if teacher.is_file():
        model = read_json(teacher)["model"]
        shapes["teacher"] = {"depth": model["depth"], "width": model["width"], "time_reduction": "none"}
    return shapes


def _name_reduction(reduction: TimeReductionConfig) -> str:
    """`none`, `conv1d_x2`, and where it is not the paper's place `conv1d_x2_layer_6`."""
    if reduction.kind == "none":
        return "none"
    place = f"_layer_{reduction.before_layer}" if reduction.before_layer else ""
    return f"{reduction.kind}_x{reduction.factor}{place}"
