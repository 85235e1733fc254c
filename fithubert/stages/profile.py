"""The cost of every model, timed in turn in one process."""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from fithubert.config.params import Params
from fithubert.export.onnx import OnnxStudent, export_onnx
from fithubert.importers import load_teacher
from fithubert.models.canonical import prepare_for_inference
from fithubert.models.hubert import HubertModel, HubertTeacher
from fithubert.models.runtime import ReadOut
from fithubert.models.speech_model import SpeechModel
from fithubert.models.weights import load_student, parameter_counts, read_teacher
from fithubert.profile.costs import Subject, profile_models, profile_paper_size
from fithubert.profile.timing import noise
from fithubert.records import ProfileMetrics
from fithubert.stages import tracked_stage
from fithubert.training.progress import progress_line
from fithubert.workspace import Workspace


def profile(params: Params, workspace: Workspace, students: Sequence[str] = ()) -> ProfileMetrics:
    """Measure filter banks, teacher, students and, if requested, the published shapes; return the metrics.

    `students`: names in the workspace, imported ones too; empty: all of params.
    """
    begun = time.monotonic()
    # A missing input is found before the run begins. Always with torch in float32 on the CPU, so that costs compare.
    teacher = read_teacher(workspace.teacher)
    subjects = {"fbank": Subject(load_teacher("fbank")), "teacher": Subject(teacher)}
    subjects |= {name: Subject(cut) for name, cut in _cut_controls(params, teacher).items()}
    for name in students or params.students:
        student = load_student(workspace.finished_student(name))
        subjects[name] = Subject(ReadOut(student, name), parameter_counts(student.config))
    with tracked_stage(params, workspace, "profile"):
        costs = profile_models(subjects, params.profile, on_pass=progress_line("profile"))
        paper = None
        if params.profile.paper_size:
            with TemporaryDirectory() as folder:
                export = partial(_export, Path(folder))
                paper = profile_paper_size(params.profile, export, progress_line("profile at the paper's size"))
        metrics = ProfileMetrics(**vars(costs), paper_size=paper, seconds=time.monotonic() - begun)
        metrics.write(workspace.metrics("profile"))
    return metrics


def _export(folder: Path, readout: ReadOut) -> dict[str, SpeechModel]:
    """The graphs of a student in float32 and int8, written below `folder`."""
    out = folder / readout.name
    # The blocks that stay in float32 are chosen on seeded noise; no graph is timed here.
    export_onnx(readout, out, [noise(4.0)[0][0]], lambda models: dict.fromkeys(models, 1.0))
    return {"onnx": OnnxStudent(out), "onnx_int8": OnnxStudent(out, int8=True)}


def _cut_controls(params: Params, teacher: HubertTeacher) -> dict[str, HubertTeacher]:
    """Teachers of the depth that each control needs, with random weights, since costs do not depend on them."""
    config, cut = teacher.model.config, {}
    states = range(config.depth + 1)
    for name, control in params.superb.controls.items():
        depth = control.choose(name, states)[-1]
        # State 0 alone needs no transformer layer, which no model is without: its cost is not measured.
        if depth > 0:
            model = HubertModel(config.model_copy(update={"depth": depth}))
            cut[name] = HubertTeacher(prepare_for_inference(model), name)
    return cut
