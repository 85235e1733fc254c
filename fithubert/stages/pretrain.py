"""Pre-training of a teacher: its corpus, then masked prediction of units."""

import sys
from pathlib import Path
from typing import cast, get_args

from fithubert.config.pretrain import ManifestData, PretrainParams, load_pretrain_params
from fithubert.data.manifest import load_manifest, manifest_path
from fithubert.files import digest_json, read_json, write_json
from fithubert.pretrain import pretrain as run_pretraining
from fithubert.training import Accelerator, ends_with_its_ranks, on_first_rank, open_fabric
from fithubert.training.progress import progress_line
from fithubert.workspace import check_name

#: The recipe's precision -> Lightning Fabric's.
_PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed"}


def pretrain(recipe: Path, out: Path, device: str = "auto") -> Path:
    """Pre-train the teacher that `recipe` describes in `out`; the folder of the finished teacher.

    A corpus that is not prepared yet is prepared in `out`/data. A second call resumes a stopped one. Under torchrun
    every rank makes the same call. Raises UserError if the parameters are wrong or `out` belongs to other parameters.
    """
    check_name(device, get_args(Accelerator), "device")
    params = load_pretrain_params(recipe)
    fabric = open_fabric(
        cast(Accelerator, device), _PRECISIONS[params.precision], unused_parameters=params.layer_dropout > 0
    )

    def report(line: str) -> None:
        if fabric.is_global_zero:
            print(f"pretrain: {line}", file=sys.stderr, flush=True)

    with ends_with_its_ranks(fabric):
        root = on_first_rank(fabric, lambda: _prepare(params, out / "data"))
        manifest = load_manifest(manifest_path(root), root)
        return run_pretraining(params, manifest, out, fabric, report)


def _prepare(params: PretrainParams, root: Path) -> Path:
    """The data folder of the recipe's corpus: `root`, prepared if needed, or a folder prepared before."""
    if isinstance(params.data, ManifestData):
        return params.data.path
    mine, marker = digest_json(params.data.model_dump(mode="json")), root / "made_from.json"
    if marker.exists() and read_json(marker) == mine:
        return root
    from fithubert.data.prepare import prepare_corpus

    prepare_corpus(params.data, root, on_progress=progress_line("corpus"))
    write_json(marker, mine)
    return root
