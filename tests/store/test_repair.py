"""`fithubert cache --repair`: a store as it is, mended and nothing else."""

from pathlib import Path

import pytest

from fithubert.errors import UserError
from fithubert.store.extract import ExtractSettings, extract_features
from fithubert.store.read import FeatureStore
from fithubert.store.repair import repair_features
from tests.store.fakes import FakeModel, fake_manifest

#: Not what any parameters say by default.
OTHER = ExtractSettings("pca_int8", 0.99, layers=(0, 2), shard_minutes=0.05, batch_seconds=2.0)


def contents(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in path.iterdir()}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    extract_features(FakeModel(), fake_manifest(), tmp_path, OTHER)
    return tmp_path


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)


def test_it_keeps_the_settings_of_the_store_and_says_what_it_did(store: Path) -> None:
    before = contents(store)
    flip(store / "shard-00001.parquet")
    (store / "shard-00002.parquet").unlink()
    report = repair_features(FakeModel(), fake_manifest(), store, 2.0)
    assert contents(store) == before
    assert report.written == ("shard-00001.parquet", "shard-00002.parquet")
    assert report.describe(store).splitlines() == [
        f"{store}/shard-00001.parquet: a page fails its checksum; written again",
        f"{store}/shard-00002.parquet: it was missing; written again",
        f"{store}: 2 of 4 shards were whole",
    ]
    assert repair_features(FakeModel(), fake_manifest(), store, 2.0).written == ()


@pytest.mark.parametrize("harm", ["flip", "delete", "foreign"])
def test_a_lost_basis_is_fitted_again_and_no_shard_is_touched(
    store: Path, harm: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    before = contents(store)
    (basis,) = store.glob("_basis-*.parquet")
    if harm == "flip":
        flip(basis)
    elif harm == "delete":
        basis.unlink()
    else:
        other = tmp_path_factory.mktemp("other")
        extract_features(FakeModel(1), fake_manifest(), other, OTHER)
        next(other.glob("_basis-*.parquet")).replace(basis)
    words = {"flip": "damaged", "delete": "missing", "foreign": "damaged .the model's weights differs"}[harm]
    with pytest.raises(UserError, match=rf"{basis.name}: {words}.*; run `fithubert cache --repair`"):
        FeatureStore.open(store)
    model = FakeModel()
    report = repair_features(model, fake_manifest(), store, 2.0)
    assert contents(store) == before
    assert report.written == ()
    assert harm == "delete" or f"{basis.name}: " in report.describe(store)
    FeatureStore.open(store).read(0)


def test_another_model_or_corpus_is_refused_and_nothing_lost(store: Path) -> None:
    before = contents(store)
    for model, manifest, words in (
        (FakeModel(1), fake_manifest(), "the model's weights differs"),
        (FakeModel(), fake_manifest(3), "the corpus differs"),
    ):
        with pytest.raises(UserError, match=rf"not to be repaired: {words}.*run `fithubert cache` to write it anew"):
            repair_features(model, manifest, store, 2.0)
    assert contents(store) == before


def test_no_store_is_no_repair(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no feature store here"):
        repair_features(FakeModel(), fake_manifest(), tmp_path / "none", 2.0)
