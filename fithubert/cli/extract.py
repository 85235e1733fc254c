from typing import Annotated

import typer

from fithubert.cli.options import stage


def extract(
    model: Annotated[str, typer.Argument(help="`fbank`, `teacher`, or an entry of `students` in params.")],
) -> None:
    """Write all hidden states of one model for the prepared corpus to data/extract, where `superb` reads them.

    If it was interrupted, the same command continues. For recordings of your own, use `fithubert features`.

    Example: `fithubert extract fithubert`
    """
    with stage(needs_file=False) as (params, workspace):
        from fithubert.stages.extract import extract as run

        done = run(params, workspace, model)
        print(f"{model}: {done.bytes / 1e6:.0f} MB, relative error {done.relative_error:.2g}")
