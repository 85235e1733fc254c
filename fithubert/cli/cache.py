from typing import Annotated

import typer

from fithubert.cli.options import stage, to_changes


def cache(
    codec: Annotated[
        str | None,
        typer.Option(help="The codec of the hidden states, such as `float16`; default: `cache.codec` of params."),
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Check every page of the existing caches and write damaged parts again.")
    ] = False,
) -> None:
    """Write the teacher's hidden states of train and dev to data/cache.

    If it was interrupted, the same command continues. Several GPUs share the work under torchrun:
    `torchrun --nproc-per-node 8 -m fithubert cache`

    Example: `fithubert cache --codec float16`
    """
    if repair and codec:
        raise typer.BadParameter("--repair keeps the codec of the cache; leave out --codec or --repair")
    with stage(*to_changes({"cache.codec": codec}), needs_file=False) as (params, workspace):
        from fithubert.stages.cache import cache as run
        from fithubert.tracking.sender import is_first_rank

        done = run(params, workspace, repair)
        if is_first_rank():
            print(f"{done.bytes / 1e6:.0f} MB for train, relative error {done.relative_error:.2g}")
