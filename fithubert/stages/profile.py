"""What every model costs, timed in turn in one process."""

import time
from typing import Any

from fithubert.config.params import Params
from fithubert.files import write_json
from fithubert.importers.registry import load_teacher
from fithubert.models.readout import ReadOut
from fithubert.models.weights import load_student, read_teacher
from fithubert.profile.run import Parameters, Subject, profile_models, profile_paper_size
from fithubert.stages import tracked_stage
from fithubert.training.progress import progress_line
from fithubert.workspace import Workspace


def profile(params: Params, workspace: Workspace) -> dict[str, Any]:
    """Measure filter banks, teacher, students and, where asked for, the published shapes; the metrics."""
    with tracked_stage(params, workspace, "profile"):
        return _profile(params, workspace)


def _profile(params: Params, workspace: Workspace) -> dict[str, Any]:
    begun = time.monotonic()
    # Always by torch, in float32, on the CPU: costs are compared.
    subjects = {"fbank": Subject(load_teacher("fbank")), "teacher": Subject(read_teacher(workspace.teacher))}
    for name in params.students:
        student = load_student(workspace.finished_student(name))
        counts = student.parameter_counts()
        subjects[name] = Subject(ReadOut(student, name), Parameters(counts.trunk, counts.readout, counts.training_only))
    show = progress_line("profile")
    metrics = profile_models(subjects, params.profile, on_round=show).to_json()
    if params.profile.paper_size:
        paper = profile_paper_size(params.profile, progress_line("profile at the paper's size"))
        metrics["paper_size"] = paper.to_json()
    metrics["seconds"] = time.monotonic() - begun
    write_json(workspace.metrics("profile"), metrics)
    return metrics
