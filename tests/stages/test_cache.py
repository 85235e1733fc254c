"""Caches and extractions that other code made are made again, and only those."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from fithubert.config.params import Params, load_params
from fithubert.errors import UserError
from fithubert.stages.cache import cache
from fithubert.stages.extract import extract
from fithubert.store.read import FeatureStore
from fithubert.workspace import Workspace

ROOT = Path(__file__).parents[2]


@pytest.fixture
def params() -> Params:
    small = ("cache.codec=pca_int8", "cache.shard_minutes=0.2", "extract.shard_minutes=0.5")
    return load_params(ROOT / "params.yaml", small)


def set_code_version(patch: pytest.MonkeyPatch, version: str | None) -> None:
    patch.setattr("fithubert.store.extract.code_version", lambda *_: version)


def find_versions(store: Path) -> set[bytes | None]:
    return {pq.read_metadata(path).metadata.get(b"fithubert.code_version") for path in store.iterdir()}


@pytest.mark.parametrize(
    ("stage", "folder"), [(cache, "cache/train"), (partial(extract, model="teacher"), "extract/teacher")]
)
@pytest.mark.parametrize("earlier", ["a" * 32, None])
def test_what_other_code_made_is_made_again(
    stage: Callable[..., Any],
    folder: str,
    earlier: str | None,
    workspace: Workspace,
    params: Params,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = workspace.data / folder
    with monkeypatch.context() as patch:
        set_code_version(patch, earlier)
        before = stage(params, workspace)
        written = {path.name: path.stat().st_mtime_ns for path in store.iterdir() if path.name.startswith("shard")}
        assert find_versions(store) == {earlier and earlier.encode()}
        stage(params, workspace)
        kept = {path.name: path.stat().st_mtime_ns for path in store.iterdir() if path.name.startswith("shard")}
        assert kept == written
        assert "written again" not in capsys.readouterr().err
    after = stage(params, workspace)
    (version,) = find_versions(store)
    assert version not in (None, (earlier or "").encode())
    assert after.fingerprint == before.fingerprint
    label = folder.replace("/", " ")
    first = next(line for line in capsys.readouterr().err.splitlines() if line.startswith(label) and "again" in line)
    count, shown = len(written), earlier[:12] if earlier else "unknown"
    assert first.endswith(
        f"  0/{count} shards, {count} written again: the version of the code differs: {shown} here, "
        f"{version.decode()[:12]} wanted"  # type: ignore[union-attr]
    )


def test_a_repair_keeps_no_shard_of_other_code(
    workspace: Workspace, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        set_code_version(patch, "a" * 32)
        cache(params, workspace)
    with pytest.raises(UserError, match=r"cannot be repaired: the version of the code differs.*run `fithubert cache`"):
        cache(params, workspace, repair=True)


def test_a_stale_shard_is_refused_by_a_reader(
    workspace: Workspace, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        set_code_version(patch, "a" * 32)
        cache(params, workspace)
    shard = workspace.cache("train") / "shard-00000.parquet"
    stale = shard.read_bytes()
    cache(params, workspace)
    shard.write_bytes(stale)
    store = FeatureStore.open(workspace.cache("train"))
    with pytest.raises(UserError, match="it belongs to another store"):
        store.read(store.shards.index(0))
