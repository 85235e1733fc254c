"""One student in a form that others run."""

from pathlib import Path
from typing import Any

from fithubert.errors import UserError
from fithubert.export.record import describe_export
from fithubert.export.s3prl import export_s3prl
from fithubert.stages.workspace import Workspace, check_name
from fithubert.student.checkpoint import load_student
from fithubert.student.readout import ReadOut

FORMS = ("s3prl",)


def export(workspace: Workspace, student: str, to: str, out: Path) -> dict[str, Any]:
    """Write `student`, a folder or a name in the workspace, to `out` in the form `to`; what the export records."""
    check_name(to, FORMS, "form")
    readout = _find_student(workspace, student)
    export_s3prl(readout, out)
    return describe_export(readout)


def _find_student(workspace: Workspace, student: str) -> ReadOut:
    """The student in the folder `student`, or of that name in the workspace."""
    folder = Path(student)
    if not (folder / "config.json").is_file():
        names = workspace.list_students()
        if student not in names:
            known = f"not one of {', '.join(names)}" if names else f"there is none in {workspace.student('')}"
            raise UserError(f"student {student!r}: not the folder of a student, and {known}")
        folder = workspace.student(student)
    return ReadOut(load_student(folder), folder.resolve().name)
