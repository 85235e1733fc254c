"""The making of a teacher: its corpus, then masked prediction of units."""

from pathlib import Path

import torch

from fithubert.config.params import FolderData
from fithubert.config.teacher import PretrainParams, load_pretrain_params
from fithubert.data.manifest import Manifest, load_manifest, manifest_path
from fithubert.errors import UserError
from fithubert.files import digest_json, read_json, write_json
from fithubert.pretrain.train import pretrain as run_pretraining
from fithubert.stages.progress import progress_line


def pretrain(recipe: Path, out: Path, device: str = "cpu") -> Path:
    """Pre-train the teacher that `recipe` describes in `out`; the folder of the finished teacher.

    The corpus is made in `out`/data on first use. A second call goes on where the first was stopped. Raises UserError
    where the parameters are wrong or `out` belongs to others.
    """
    params = load_pretrain_params(recipe)
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("device cuda: torch finds no CUDA device; use --device cpu")
    manifest = _corpus(params, out / "data")
    return run_pretraining(params, manifest, out, torch.device(device), print)


def _corpus(params: PretrainParams, root: Path) -> Manifest:
    mine, marker = digest_json(params.data.model_dump(mode="json")), root / "made_from.json"
    if marker.exists() and read_json(marker) == mine:
        return load_manifest(manifest_path(root), root)
    show = progress_line("corpus")
    if isinstance(params.data, FolderData):
        from fithubert.data.folder import import_folder

        manifest = import_folder(params.data, root, on_progress=show).manifest
    else:
        from fithubert.data.synthesis import synthesise_corpus

        manifest = synthesise_corpus(params.data, root, on_progress=show)
    write_json(marker, mine)
    return manifest
