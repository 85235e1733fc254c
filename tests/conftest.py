"""Fixtures that several rooms need."""

from pathlib import Path

import pytest
import torch

from fithubert.config.data import SyntheticData
from fithubert.data.manifest import Manifest
from fithubert.data.synthetic.corpus import synthesise_corpus
from fithubert.models.weights import save_teacher
from fithubert.workspace import Workspace
from tests.fakes import tiny_hubert

torch.set_num_threads(1)

TINY = SyntheticData(hours=0.02, speakers=6, heldout_speakers=2)


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """About 2.5 minutes of the embedded corpus with every split and kind. Do not change it."""
    pytest.importorskip("espeakng_loader")
    root: Path = tmp_path_factory.mktemp("tiny_corpus") / "data"
    return synthesise_corpus(TINY, root, jobs=2)


@pytest.fixture
def workspace(tmp_path: Path, tiny_corpus: Manifest) -> Workspace:
    """One with the tiny corpus and a tiny teacher."""
    (tmp_path / "data").mkdir()
    for folder in ("audio", "manifests"):
        (tmp_path / "data" / folder).symlink_to(tiny_corpus.root / folder)
    workspace = Workspace(tmp_path)
    save_teacher(tiny_hubert(), workspace.teacher)
    return workspace
