from pathlib import Path
from typing import Annotated

import typer

from fithubert.cli.options import HubName, no_stage


def compress(
    teacher: Annotated[
        str, typer.Argument(help="`mini`, `hf:...`, `torchaudio:...`, a fairseq file, or the folder of a teacher.")
    ],
    recordings: Annotated[Path, typer.Argument(help="A folder of recordings (wav, flac, ogg, mp3 ...; nested).")],
    out: Annotated[Path, typer.Option(help="A folder that is new or empty, or that this command began.")],
    size: Annotated[float, typer.Option(help="Parameters of the student, as a share of the teacher's.")] = 0.25,
    hours_budget: Annotated[float, typer.Option(help="Hours that all of it may take, roughly.")] = 2.0,
    updates: Annotated[
        int | None,
        typer.Option(help="Updates, however long they take; 0: only cut the first weights from the teacher."),
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="`fithubert`, `fithubert_lite`, `fithubert_mel`, `fithubert_late` or `half_width`.")
    ] = "fithubert",
    onnx: Annotated[bool, typer.Option("--onnx", help="Also export it, to OUT/student.onnx.")] = False,
    hub_name: HubName = None,
    write_params: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the parameters for the other commands.")
    ] = None,
) -> None:
    """Make a small student of a teacher from recordings alone, without params.yaml.

    It prints the student's size and cost, plans a training that fits the hours on this machine, cuts the student from
    the teacher, trains it and prints the error of each layer on held-out recordings. OUT/student has the student with a
    model card, OUT/work the workspace and the report. With `--hub-name`, OUT/huggingface is uploaded too, with the
    token of `hf auth login` or HF_TOKEN; a new repository is private. If it was interrupted, the same command
    continues.

    Example: `fithubert compress mini recordings --out small --hours-budget 0.5`
    """
    with no_stage():
        from fithubert.profile.compression import CompressOptions
        from fithubert.stages.compress import compress as run

        plan = (size, hours_budget, updates, recipe)
        run(CompressOptions(teacher, recordings, out, *plan, onnx, write_params, hub_name))
        print(f"{out / 'student'}")
        print(f"{out / 'work' / 'reports' / 'index.html'}")
