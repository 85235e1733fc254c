from typing import Annotated

import typer

from fithubert.cli.options import stage, to_changes


def distill(
    student: Annotated[str, typer.Argument(help="An entry of `students` in params.")],
    updates: Annotated[int | None, typer.Option(help="Updates; default: `distill.updates` of params.")] = None,
    targets: Annotated[
        str | None, typer.Option(help="`cached` or `live`; default: `distill.targets` of params.")
    ] = None,
) -> None:
    """Train one student on the teacher's hidden states.

    The student is saved in artifacts/students. If the training was interrupted, the same command resumes it.

    Example: `fithubert distill fithubert --updates 200`
    """
    with stage(*to_changes({"distill.updates": updates, "distill.targets": targets})) as (params, workspace):
        from fithubert.stages.distill import distill as run
        from fithubert.tracking.sender import is_first_rank

        done = run(params, workspace, student)
        if is_first_rank():
            print(f"{student}: dev loss {done.best_dev_loss:.4f} at update {done.best_update} ({done.end})")
            print(f"{workspace.student(student)}")
