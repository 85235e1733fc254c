"""`fithubert import`: published checkpoints."""

from pathlib import Path
from typing import Annotated

import typer

from fithubert.cli.options import no_stage


def import_(
    checkpoint: Annotated[Path, typer.Argument(help="A FitHuBERT .ckpt or a DistilHuBERT checkpoint.")],
    config: Annotated[Path | None, typer.Argument(help="The .yaml published with a FitHuBERT .ckpt.")] = None,
    out: Annotated[Path, typer.Option(help="The folder of the student.")] = Path("artifacts/students/imported"),
) -> None:
    """Convert a checkpoint that the authors published into a student of this project, exactly.

    Example: `fithubert import fithubert.ckpt fithubert.yaml --out artifacts/students/published`
    """
    with no_stage():
        from fithubert.importers.published import import_published
        from fithubert.models.weights import parameter_counts, save_student

        student = import_published(checkpoint, config)
        save_student(student, out, record={"imported": checkpoint.name})
        print(f"{out}: {parameter_counts(student.config).trunk:,} parameters in the trunk")
