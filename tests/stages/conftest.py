"""A workspace with the tiny corpus and a tiny teacher."""

from pathlib import Path

import pytest

from fithubert.data.manifest import Manifest
from fithubert.models.weights import save_teacher
from fithubert.workspace import Workspace
from tests.fakes import tiny_hubert


@pytest.fixture
def workspace(tmp_path: Path, tiny_corpus: Manifest) -> Workspace:
    """One with a corpus and a teacher."""
    (tmp_path / "data").mkdir()
    for folder in ("audio", "manifests"):
        (tmp_path / "data" / folder).symlink_to(tiny_corpus.root / folder)
    workspace = Workspace(tmp_path)
    save_teacher(tiny_hubert(), workspace.teacher)
    return workspace
