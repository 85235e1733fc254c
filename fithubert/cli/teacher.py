from typing import Annotated

import typer

from fithubert.cli.options import stage, to_changes


def teacher(
    spec: Annotated[
        str | None,
        typer.Argument(
            help="`mini`, `hf:OWNER/NAME`, `hf:DIRECTORY`, `torchaudio:HUBERT_BASE`, a fairseq or s3prl file, or the "
            "folder of a teacher; default: `teacher.source` of params."
        ),
    ] = None,
) -> None:
    """Write the teacher in its canonical form (config.json + model.safetensors) to artifacts/teacher.

    Example: `fithubert teacher torchaudio:HUBERT_BASE`
    """
    with stage(*to_changes({"teacher.source": spec}), needs_file=spec is None) as (params, workspace):
        from fithubert.stages.teacher import teacher as run

        done = run(params, workspace)
        print(f"{done.name}: {done.layers} layers, {done.width} wide, {done.params:,} parameters")
