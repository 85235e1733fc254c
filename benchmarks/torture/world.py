"""A small finished workspace that every case damages in a copy of its own."""

import copy
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from fithubert.config.params import Params, load_params
from fithubert.data.listing import list_recordings
from fithubert.files import digest
from fithubert.importers import load_teacher
from fithubert.models.weights import save_teacher
from fithubert.pretrain.units import Codebook, CodebookInfo, save_codebook
from fithubert.search.sweep import Worker
from fithubert.stages.cache import cache
from fithubert.stages.distill import distill
from fithubert.stages.export import export
from fithubert.stages.extract import extract
from fithubert.stages.prepare import prepare
from fithubert.stages.report import report
from fithubert.stages.superb import superb
from fithubert.stages.teacher import teacher
from fithubert.store.recordings import write_features
from fithubert.training.checkpoint import write_checkpoint
from fithubert.training.units import fit_units
from fithubert.workspace import Workspace
from tests.fakes import tiny_hubert
from tests.importers.authors import publish
from tests.search.fakes import FakeTrials, make_search
from tests.tiny_params import TINY_PARAMS


@dataclass(frozen=True)
class World:
    """The workspace `root` with its parameters in `root`/params.yaml, as plain `values` too."""

    root: Path
    values: dict[str, Any]

    @property
    def params(self) -> Params:
        """The parameters, read again."""
        return load_params(self.root / "params.yaml")

    @property
    def workspace(self) -> Workspace:
        """The folders."""
        return Workspace(self.root)

    def clone(self, root: Path) -> "World":
        """A copy of its own at `root`. Files are shared until a writer replaces them, as all of ours do."""
        shutil.copytree(self.root, root, copy_function=os.link, symlinks=True)
        return World(root, self.values)


def make_world(root: Path) -> World:
    """All stages but profile with tiny budgets, a codebook, a checkpoint and an ONNX export, in `root`."""
    torch.set_num_threads(1)
    root.mkdir(parents=True)
    values = copy.deepcopy(TINY_PARAMS)
    save_teacher(tiny_hubert(), root / "tiny_teacher")
    values["teacher"]["source"] = str(root / "tiny_teacher")
    values["distill"]["updates"] = 6
    (root / "params.yaml").write_text(yaml.safe_dump(values))
    world = World(root, values)
    params, workspace = world.params, world.workspace
    prepare(params, workspace)
    teacher(params, workspace)
    cache(params, workspace)
    distill(params, workspace, "thin")
    for model in ("fbank", "teacher"):
        extract(params, workspace, model)
    superb(params, workspace, "fbank", "pr")
    report(params, workspace)
    export(workspace, "thin", "onnx", root / "onnx")
    frames = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    info = CodebookInfo("thin", "0", 1, 4, 0, "0", 200)
    save_codebook(Codebook(info, fit_units(frames, 4, 0)), root / "codebook")
    write_checkpoint(root / "update-00000001.pt", {"weights": {"a": frames}, "update": 1})
    recording = min(workspace.load_manifest().utterances, key=lambda u: u.num_samples).audio
    write_features(load_teacher("fbank"), list_recordings([root / "data" / recording], jobs=1), root / "features")
    publish("fithubert").save(root / "published")
    search = make_search(root / "study", trials=2)
    Worker(search, FakeTrials(root / "study").open).run()
    return world


def digest_tensors(tensors: dict[str, torch.Tensor]) -> str:
    """A digest of tensors by name."""
    return digest(*(part for name in sorted(tensors) for part in (name, tensors[name].contiguous().numpy().tobytes())))


def load_teacher_state(path: Path) -> dict[str, torch.Tensor]:
    """The weights of a teacher's folder."""
    loaded = load_teacher(str(path))
    return dict(loaded.model.state_dict())  # type: ignore[attr-defined]
