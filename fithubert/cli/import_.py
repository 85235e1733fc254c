from pathlib import Path
from typing import Annotated, Literal

import typer

from fithubert.cli.options import no_stage, options
from fithubert.errors import UserError

ReadOutName = Literal["last", "layers", "projections", "encoder", "outputs", "all"]


def import_(
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="A checkpoint of FitHuBERT, DistilHuBERT, MaskHuBERT, ARMHuBERT or STaRHuBERT; or a teacher: a file "
            "of fairseq, s3prl or unilm (HuBERT, ContentVec, RVC's hubert_base.pt), a folder, `hf:...`."
        ),
    ],
    config: Annotated[
        Path | None, typer.Argument(help="The .yaml that the trainer wrote with a .ckpt (none for DistilHuBERT).")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The folder to write; default for a student: artifacts/students/imported in the workspace."),
    ] = None,
    readout: Annotated[
        ReadOutName | None, typer.Option(help="The states that are read, instead of the authors' own.")
    ] = None,
) -> None:
    """Convert a checkpoint that the authors published into a student or a teacher of this project, exactly.

    Example: `fithubert import fithubert.ckpt fithubert.yaml --out artifacts/students/published`
    """
    with no_stage():
        from fithubert.importers import names_teacher
        from fithubert.importers.published import import_published
        from fithubert.models.weights import parameter_counts, save_student
        from fithubert.workspace import Workspace

        if config is None and readout is None and names_teacher(checkpoint):
            if out is None:
                raise UserError(f"{checkpoint}: a teacher; name its new folder with --out")
            print(f"{out}: {_import_teacher(checkpoint, out)}")
            return
        student = import_published(checkpoint, config, readout)
        out = out or Workspace(options.workspace).student("imported")
        save_student(student, out, record={"imported": Path(checkpoint).name})
        trunk, read = parameter_counts(student.config).trunk, student.config.readout
        print(f"{out}: {trunk:,} parameters in the trunk; readout {read}")


def _import_teacher(spec: str, out: Path) -> str:
    """Write the teacher that `spec` names to `out`; a description."""
    from fithubert.importers import load_teacher
    from fithubert.models.hubert import HubertTeacher
    from fithubert.models.weights import save_teacher

    teacher = load_teacher(spec)
    if not isinstance(teacher, HubertTeacher):
        raise UserError(f"{spec}: has no weights to write")
    save_teacher(teacher, out, record={"imported": Path(spec).name})
    shape = teacher.model.config
    projected = "" if teacher.final_proj is None else f", final_proj {len(teacher.final_proj[1])} wide"
    return f"teacher {teacher.name}, {shape.depth} layers, {shape.width} wide{projected}; {teacher.fingerprint}"
