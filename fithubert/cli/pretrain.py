from pathlib import Path
from typing import Annotated

import typer

from fithubert.cli.options import no_stage


def pretrain(
    recipe: Annotated[
        Path, typer.Argument(help="Parameters of the pre-training, such as experiments/pretrain/mini.yaml.")
    ],
    out: Annotated[Path, typer.Option(help="The folder of the checkpoints and of the finished teacher.")],
    device: Annotated[str, typer.Option(help="`auto`, `cpu` or `cuda`.")] = "auto",
) -> None:
    """Pre-train a teacher with HuBERT's objective: k-means units, masked prediction, iterations.

    If it was interrupted, the same command resumes it. On several processes or GPUs:
    `torchrun --nproc-per-node 2 -m fithubert pretrain RECIPE --out DIR`

    Example: `fithubert pretrain experiments/pretrain/mini.yaml --out build/teacher`
    """
    with no_stage():
        from fithubert.pretrain import pretrain_recipe

        print(f"teacher: {pretrain_recipe(recipe, out, device)}")
