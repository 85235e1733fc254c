from pathlib import Path
from typing import Annotated, Literal

import typer

from fithubert.cli.options import no_stage

ReadOutName = Literal["last", "layers", "projections", "encoder", "outputs", "all"]


def import_(
    checkpoint: Annotated[
        Path, typer.Argument(help="A checkpoint of FitHuBERT, DistilHuBERT, MaskHuBERT, ARMHuBERT or STaRHuBERT.")
    ],
    config: Annotated[
        Path | None, typer.Argument(help="The .yaml that the trainer wrote with a .ckpt (none for DistilHuBERT).")
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder of the student.")] = Path("artifacts/students/imported"),
    readout: Annotated[
        ReadOutName | None, typer.Option(help="The states that are read, instead of the authors' own.")
    ] = None,
) -> None:
    """Convert a checkpoint that the authors published into a student of this project, exactly.

    Example: `fithubert import fithubert.ckpt fithubert.yaml --out artifacts/students/published`
    """
    with no_stage():
        from fithubert.importers.published import import_published
        from fithubert.models.weights import parameter_counts, save_student

        student = import_published(checkpoint, config, readout)
        save_student(student, out, record={"imported": checkpoint.name})
        trunk, read = parameter_counts(student.config).trunk, student.config.readout
        print(f"{out}: {trunk:,} parameters in the trunk; readout {read}")
