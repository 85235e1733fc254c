"""Commands that make a teacher and keep what it says."""

import json
from pathlib import Path
from typing import Annotated

import typer

from fithubert.cli.start import options, stage
from fithubert.errors import exit_on_user_error


def pretrain(
    recipe: Annotated[Path, typer.Argument(help="Parameters of the pre-training, as experiments/pretrain/mini.yaml.")],
    out: Annotated[Path, typer.Option(help="Where checkpoints and the finished teacher go; resumes what is there.")],
    device: Annotated[str, typer.Option(help="`auto`, `cpu` or `cuda`.")] = "auto",
) -> None:
    """Pre-train a teacher with HuBERT's objective: k-means units, masked prediction, iterations. Resumes.

    On several processes or GPUs: `torchrun --nproc-per-node 2 -m fithubert.cli pretrain RECIPE --out DIR`.
    """
    with exit_on_user_error(options.debug):
        from fithubert.stages.pretrain import pretrain as run

        print(f"teacher: {run(recipe, out, device)}")


def teacher(
    spec: Annotated[
        str | None,
        typer.Argument(
            help="`mini`, `hf:OWNER/NAME`, `hf:DIRECTORY`, `torchaudio:HUBERT_BASE`, a fairseq or s3prl file, or the "
            "folder of a teacher; else `teacher` of params."
        ),
    ] = None,
) -> None:
    """Write the teacher in its canonical form (config.json + model.safetensors) to artifacts/teacher."""
    with stage(*([f"teacher.source={json.dumps(spec)}"] if spec else [])) as (params, workspace):
        from fithubert.stages.teacher import teacher as run

        done = run(params, workspace)
        print(f"{done['name']}: {done['layers']} layers, {done['width']} wide, {done['params']:,} parameters")


def cache(
    codec: Annotated[
        str | None, typer.Option(help="`float32`, `float16`, `int8` or `pca_int8`; else `cache.codec` of params.")
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Check every page of the caches there are and write again what is damaged.")
    ] = False,
) -> None:
    """Write the teacher's hidden states of train and dev to data/cache; goes on where it was stopped."""
    if repair and codec:
        raise typer.BadParameter("a repair keeps the codec of the cache; leave out --codec or --repair")
    with stage(*([f"cache.codec={codec}"] if codec else [])) as (params, workspace):
        from fithubert.stages.cache import cache as run

        done = run(params, workspace, repair)
        print(f"{done['bytes'] / 1e6:.0f} MB for train, relative error {done['relative_error']:.2g}")
