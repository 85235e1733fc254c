"""Any model by its name or its path, as a user gives it."""

import sys
from pathlib import Path

from fithubert.config.teacher import Device
from fithubert.devices import choose_device
from fithubert.errors import UserError
from fithubert.export.onnx import FLOAT32, INT8, OnnxStudent
from fithubert.files import read_json
from fithubert.importers import NAMED, load_teacher
from fithubert.models.hubert import HubertTeacher
from fithubert.models.runtime import ReadOut, prepare_teacher
from fithubert.models.speech_model import SpeechModel
from fithubert.models.weights import SHIPPED_STUDENT, STUDENT_FORMAT, load_student
from fithubert.workspace import Workspace


def find_student(workspace: Workspace, student: str) -> ReadOut:
    """The student in the folder `student`, or of that name in the workspace; `fithubert`, else, is the package's own.

    Raises UserError with the names of the workspace's students.
    """
    folder, names = Path(student), workspace.list_students()
    if student == SHIPPED_STUDENT and student not in names:
        if not (folder / "config.json").is_file():
            print("fithubert: the student of the package; the workspace has none of this name", file=sys.stderr)
        return ReadOut(load_student(student), student)
    if not (folder / "config.json").is_file():
        if student not in names:
            known = f"not one of {', '.join(names)}" if names else f"there are none in {workspace.student('')}"
            raise UserError(f"student {student!r}: not the folder of a student, and {known}")
        folder = workspace.student(student)
    return ReadOut(load_student(folder), folder.resolve().name)


def find_model(workspace: Workspace, spec: str, device: Device = "auto") -> SpeechModel:
    """The model that `spec` names, on `device` if it can run there.

    A student's folder or its name in the workspace, or the package's `fithubert`; a folder that `fithubert export --to
    onnx` wrote, or one of the graphs in it, which run on the CPU; `teacher`, the workspace's own; else any teacher that
    `load_teacher` accepts. Raises UserError with the possible names.
    """
    path, names = Path(spec), workspace.list_students()
    if path.name == INT8 or (path / FLOAT32).is_file() or path.name == FLOAT32:
        folder = path if path.is_dir() else path.parent
        return OnnxStudent(folder, int8=path.name == INT8)
    if spec in names or _is_student(path) or (spec == SHIPPED_STUDENT and not (path / "config.json").exists()):
        student = find_student(workspace, spec)
        return student.to(choose_device(device))
    if not path.exists() and ":" not in spec and spec not in ("teacher", *NAMED):
        students = (
            f"students here: {', '.join(names)}" if names else f"there are no students in {workspace.student('')}"
        )
        raise UserError(
            f"model {spec!r}: no file or folder, no student ({students}), nor teacher, mini, fithubert, fbank, hf:..., "
            "torchaudio:... or fairseq:..."
        )
    if path.is_dir() and not (path / "config.json").is_file():
        raise UserError(f"model {spec!r}: a folder without config.json holds no student, export or teacher")
    loaded = load_teacher(workspace.teacher if spec == "teacher" else spec)
    return prepare_teacher(loaded, device) if isinstance(loaded, HubertTeacher) else loaded


def _is_student(path: Path) -> bool:
    if not (path / "config.json").is_file():
        return False
    values = read_json(path / "config.json")
    return isinstance(values, dict) and values.get("format") == STUDENT_FORMAT
