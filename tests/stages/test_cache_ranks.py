"""`torchrun -m fithubert cache`: the ranks together write what one process writes."""

from pathlib import Path

import pytest

from fithubert.config.params import load_params
from fithubert.errors import UserError
from fithubert.files import read_json
from fithubert.stages.cache import cache
from fithubert.store.extract import measure_store
from fithubert.workspace import Workspace
from tests.kills import run_ranks

ROOT = Path(__file__).parents[2]
SETTINGS = ("cache.codec=pca_int8", "cache.shard_minutes=0.2")


def read_results(workspace: Workspace) -> tuple[dict[str, bytes], dict[str, object]]:
    """The bytes of every file of the caches, and the metrics but for the time."""
    folder = workspace.data / "cache"
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    metrics = read_json(workspace.metrics("cache"))
    return files, {name: value for name, value in metrics.items() if name != "seconds"}


@pytest.mark.slow
def test_two_ranks_write_the_cache_of_one(workspace: Workspace) -> None:
    cache(load_params(ROOT / "params.yaml", SETTINGS), workspace)
    alone = read_results(workspace)
    for path in [*(workspace.data / "cache").rglob("*.parquet"), workspace.metrics("cache")]:
        path.unlink()
    changes = [part for setting in SETTINGS for part in ("--set", setting)]
    folders = ("--params", str(ROOT / "params.yaml"), "--workspace", str(workspace.root))
    done = run_ranks(2, "fithubert", "cache", *folders, *changes)
    assert done.returncode == 0, done.stderr
    assert "cache train (rank 1)" in done.stderr
    assert done.stdout.count("MB for train") == 1
    assert read_results(workspace) == alone


def test_a_missing_shard_is_not_measured_away(workspace: Workspace) -> None:
    cache(load_params(ROOT / "params.yaml", SETTINGS), workspace)
    folder = workspace.cache("train")
    measure_store(folder)
    next(folder.glob("shard-*")).unlink()
    with pytest.raises(UserError, match=r"cache/train: \d+ of \d+ shards; run `fithubert cache` again"):
        measure_store(folder)
