"""The stage of a student: one rank writes its metrics, and a second process leaves the record of the first alone."""

from pathlib import Path

import pytest

from fithubert.config.params import Params
from fithubert.errors import UserError
from fithubert.files import only_writer
from fithubert.stages.cache import cache
from fithubert.stages.distill import distill
from fithubert.tracking.local import RECORDS
from fithubert.workspace import Workspace
from tests.tiny_params import TINY_PARAMS


@pytest.fixture
def params(workspace: Workspace) -> Params:
    """A training of two updates, with its cache in the workspace."""
    budget = {**TINY_PARAMS["distill"], "updates": 2, "dev_every_updates": 2}
    params = Params(**{**TINY_PARAMS, "ablation": {}, "distill": budget})
    cache(params, workspace)
    return params


@pytest.mark.parametrize(("rank", "writes"), [("0", True), ("1", False)])
def test_only_the_first_rank_writes_the_metrics(
    rank: str, writes: bool, params: Params, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
    monkeypatch.setenv("RANK", rank)
    distill(params, workspace, "thin")
    assert workspace.metrics("distill@thin").exists() == writes


def test_a_second_process_is_refused_and_leaves_the_record_of_the_first(params: Params, workspace: Workspace) -> None:
    distill(params, workspace, "thin")
    record = workspace.root / RECORDS / "distill@thin.json"
    before = record.read_bytes()
    with only_writer(workspace.checkpoints("thin"), "it"), pytest.raises(UserError, match="is at work on the same"):
        distill(params, workspace, "thin")
    assert record.read_bytes() == before
    assert not list(Path(workspace.root / RECORDS).glob("*.part"))
