"""The summary, the table and the page, and their MLflow runs."""

from dataclasses import replace

from fithubert.config.params import Params
from fithubert.config.students import TimeReductionConfig
from fithubert.errors import UserError
from fithubert.files import read_json
from fithubert.models.recipes import resolve
from fithubert.models.runtime import ReadOut
from fithubert.models.weights import load_student
from fithubert.records import load_summary
from fithubert.report.page import ReportFiles, write_report
from fithubert.report.summary import plan_report
from fithubert.stages.export import tracked_student
from fithubert.tracking.local import complete_runs
from fithubert.tracking.models import ModelShape, log_students, log_summary, recorded_runs
from fithubert.workspace import Workspace


def report(params: Params, workspace: Workspace) -> ReportFiles:
    """Write the report from the metrics files of the workspace, then complete its MLflow runs.

    Files of models that are neither in `params` nor students of the workspace are left over, and left out. Completing
    means: a summary run per model, a run with the page, and the hashes of dvc.lock on every run. Raises UserError if
    nothing has been measured.
    """
    if not any(workspace.metrics("any").parent.glob("**/*.json")):
        raise UserError(f"{workspace.reports / 'metrics'}: nothing has been measured yet; `dvc repro` does it all")
    others, dvc = tuple(workspace.list_students()), (workspace.root / "dvc.yaml").is_file()
    plan = replace(plan_report(params), others=others, dvc=dvc)
    folders = [workspace.metrics(f"{stage}@any").parent for stage in ("distill", "extract", "superb")]
    names = sorted({path.stem for folder in folders for path in folder.glob("*.json")})
    left_over = [name for name in names if not plan.reports(name)]
    if left_over:
        print(f"report: left out, since neither params.yaml nor a student here has the name: {', '.join(left_over)}")
    files = write_report(workspace.reports, plan)
    log_report(params, workspace, files)
    complete_runs(workspace.root)
    return files


def log_report(params: Params, workspace: Workspace, files: ReportFiles) -> None:
    """Log a summary run for each model of the report, then every student of the workspace with its run."""
    kept = (files.page, files.table, files.summary, *files.figures)
    log_summary(load_summary(files.summary), workspace.root, model_shapes(params, workspace), kept)
    # Empty if MLflow is not installed or did not answer: then no student is loaded.
    tracked = recorded_runs(workspace.root)
    students = [name for name in workspace.list_students() if name in tracked]
    readouts = [ReadOut(load_student(workspace.student(name)), name) for name in students]
    log_students([tracked_student(readout) for readout in readouts], workspace.root)


def model_shapes(params: Params, workspace: Workspace) -> dict[str, ModelShape]:
    """The shape of every student of `params`, and of the teacher if it exists."""
    shapes = {}
    for name, student in params.students.items():
        config, saved = resolve(student.recipe, student.shape), workspace.student(name) / "config.json"
        # A student that is pruned learns its width.
        width = read_json(saved)["student"]["width"] if student.prune is not None and saved.is_file() else config.width
        shapes[name] = ModelShape(config.depth, width, _name_reduction(config.time_reduction))
    teacher = workspace.teacher / "config.json"
    if teacher.is_file():
        model = read_json(teacher)["model"]
        shapes["teacher"] = ModelShape(model["depth"], model["width"], "none")
    return shapes


def _name_reduction(reduction: TimeReductionConfig) -> str:
    """`none`, `conv1d_x2`, or `conv1d_x2_layer_6` if it is not at the place of the paper."""
    if reduction.kind == "none":
        return "none"
    place = f"_layer_{reduction.before_layer}" if reduction.before_layer else ""
    return f"{reduction.kind}_x{reduction.factor}{place}"
