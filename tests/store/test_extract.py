"""Extraction with any settings and workers, one basis for all of them, and the repair of a store."""

import itertools
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from fithubert.errors import UserError
from fithubert.frames import count_frames
from fithubert.store import basis as bases
from fithubert.store.basis import read_basis
from fithubert.store.codec import Basis
from fithubert.store.extract import ExtractReport, ExtractSettings, extract_features
from fithubert.store.read import FeatureStore
from fithubert.store.shards import PlannedRow, order_rows
from tests.store.fakes import FakeManifest, FakeModel, FakeUtterance, contents, fake_manifest, flip_byte, run_together

SMALL = ExtractSettings(shard_minutes=0.05, batch_seconds=2.0)
#: Settings that differ from every default.
OTHER = ExtractSettings("pca_int8", 0.99, layers=(0, 2), shard_minutes=0.05, batch_seconds=2.0)
PCA = ExtractSettings("pca_int8", shard_minutes=0.05, batch_seconds=2.0)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    extract_features(FakeModel(), fake_manifest(), tmp_path, OTHER)
    return tmp_path


def repair(path: Path, model: FakeModel | None = None, manifest: FakeManifest | None = None) -> ExtractReport:
    settings = ExtractSettings(batch_seconds=2.0)
    return extract_features(model or FakeModel(), manifest or fake_manifest(), path, settings, repair=True)


def test_it_keeps_the_settings_of_the_store_and_says_what_it_did(store: Path) -> None:
    before = contents(store)
    flip_byte(store / "shard-00001.parquet")
    (store / "shard-00002.parquet").unlink()
    report = repair(store)
    assert contents(store) == before
    assert report.written == ("shard-00001.parquet", "shard-00002.parquet")
    assert report.describe(store).splitlines() == [
        f"{store}/shard-00001.parquet: a page fails its checksum; written again",
        f"{store}/shard-00002.parquet: it was missing; written again",
        f"{store}: 2 of 4 shards were whole",
    ]
    assert repair(store).written == ()


@pytest.mark.parametrize("harm", ["flip", "delete", "foreign"])
def test_a_lost_basis_is_fitted_again_and_no_shard_is_touched(
    store: Path, harm: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    before = contents(store)
    (basis,) = store.glob("_basis-*.parquet")
    if harm == "flip":
        flip_byte(basis)
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
    report = repair(store, model)
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
        with pytest.raises(UserError, match=rf"cannot be repaired: {words}.*run `fithubert cache` to write it again"):
            repair(store, model, manifest)
    assert contents(store) == before


def test_no_store_is_no_repair(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no feature store"):
        repair(tmp_path / "none")


def test_values_do_not_depend_on_batching_or_sharding(tmp_path: Path) -> None:
    manifest = fake_manifest()
    extract_features(FakeModel(), manifest, tmp_path / "one", ExtractSettings(shard_minutes=0.05, batch_seconds=0.001))
    extract_features(FakeModel(), manifest, tmp_path / "all", ExtractSettings(shard_minutes=60, batch_seconds=600))
    one, whole = FeatureStore.open(tmp_path / "one"), FeatureStore.open(tmp_path / "all")
    assert one.info == whole.info
    for index in range(len(one)):
        for layer in one.layers:
            torch.testing.assert_close(one.read(index).hidden_states[layer], whole.read(index).hidden_states[layer])


def test_batches_are_by_length_and_within_the_budget(tmp_path: Path) -> None:
    model, manifest = FakeModel(), fake_manifest(30)
    extract_features(model, manifest, tmp_path, ExtractSettings(shard_minutes=60, batch_seconds=4.0))
    assert all(rows * samples <= 4 * 16_000 for rows, samples in model.batches)
    padded = sum(rows * samples for rows, samples in model.batches)
    assert padded < 1.15 * sum(u.num_samples for u in manifest.utterances)


def test_progress_is_told_inside_a_shard(tmp_path: Path) -> None:
    manifest, told = fake_manifest(30), []
    one_shard = ExtractSettings(shard_minutes=60, batch_seconds=4.0)
    extract_features(FakeModel(), manifest, tmp_path, one_shard, lambda done, total, note: told.append((done, note)))
    assert len(told) == 31
    assert told == sorted(told)
    assert told[0] == (0.0, "0/1 shards")
    assert told[-2][1] == "0/1 shards"
    assert told[-1] == (pytest.approx(sum(u.num_samples for u in manifest.utterances) / 16_000), "1/1 shards")


def test_other_settings_replace_the_store(tmp_path: Path) -> None:
    manifest = fake_manifest()
    extract_features(FakeModel(), manifest, tmp_path, ExtractSettings("float16", shard_minutes=0.02))
    many = len(list(tmp_path.glob("shard-*")))
    report = extract_features(FakeModel(1), manifest, tmp_path, SMALL)
    assert len(report.written) == len(list(tmp_path.glob("shard-*"))) < many
    assert "the model's weights differs" in report.problems["shard-00000.parquet"]
    assert FeatureStore.open(tmp_path).info.codec == "int8"


def test_workers_share_the_shards(tmp_path: Path) -> None:
    manifest = fake_manifest()
    extract_features(FakeModel(), manifest, tmp_path / "one", SMALL)
    parts = [extract_features(FakeModel(), manifest, tmp_path / "two", SMALL, worker=(r, 2)) for r in (1, 0)]
    assert not set(parts[0].written) & set(parts[1].written)
    names = {p.name for p in (tmp_path / "one").iterdir()}
    assert {p.name for p in (tmp_path / "two").iterdir()} == names
    assert all((tmp_path / "one" / n).read_bytes() == (tmp_path / "two" / n).read_bytes() for n in names)
    idle = extract_features(FakeModel(), manifest, tmp_path / "two", SMALL, worker=(99, 100))
    assert idle.metrics.bytes_per_audio_hour == 0


def test_ids_of_a_large_corpus_are_compared_in_little_time() -> None:
    rows = [PlannedRow(place, f"utterance-{place}", 16_000, 49) for place in range(100_000)]
    begun = time.process_time()
    assert len(order_rows(rows)) == len(rows)
    # Comparing each with each takes minutes.
    assert time.process_time() - begun < 20


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (ExtractSettings(layers=(0, 7)), r"layers: fake has layers 0 to 2; given \[0, 7\]"),
        (ExtractSettings(codec="zip"), "codec: unknown name 'zip'; known: float16, int8, pca_int8"),
        (ExtractSettings(shard_minutes=0), "shard_minutes: must be above 0"),
        (FakeManifest(()), "no utterance"),
        (FakeManifest((FakeUtterance("a", 900, 0), FakeUtterance("a", 900, 1))), "the utterance a twice"),
        (FakeManifest((FakeUtterance("a", 399, 0),)), "utterance a has 399 samples, less than one frame"),
    ],
)
def test_bad_settings_and_manifests_are_named(
    wrong: ExtractSettings | FakeManifest, words: str, tmp_path: Path
) -> None:
    given = (fake_manifest(2), wrong) if isinstance(wrong, ExtractSettings) else (wrong, SMALL)
    with pytest.raises(UserError, match=words):
        extract_features(FakeModel(), given[0], tmp_path / "out", given[1])
    assert not (tmp_path / "out").exists()


def test_nan_in_the_model_is_named(tmp_path: Path) -> None:
    model = FakeModel()
    model.weights[1][0, 0] = torch.nan
    with pytest.raises(UserError, match="layer 1 of fake is NaN or infinite"):
        extract_features(model, fake_manifest(2), tmp_path)
    assert not list(tmp_path.glob("*shard*"))


def test_workers_that_fit_differently_agree_on_the_first_ones_basis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, numbers, fitted = threading.Barrier(2, timeout=30), itertools.count(1), []
    original = bases.fit_basis

    def fit_differently(*inputs: Any) -> Basis:
        exact = original(*inputs)
        # As another machine would: the same axes up to the last bits.
        noise = 1e-6 * next(numbers)
        basis = Basis({layer: replace(part, axes=part.axes + noise) for layer, part in exact.layers.items()})
        fitted.append(basis.digest)
        together.wait()
        return basis

    monkeypatch.setattr(bases, "fit_basis", fit_differently)
    run_together(
        *(partial(extract_features, FakeModel(), fake_manifest(), tmp_path, PCA, worker=(rank, 2)) for rank in (0, 1))
    )
    assert len(set(fitted)) == 2
    store = FeatureStore.open(tmp_path)
    assert read_basis(tmp_path, store.info).digest in fitted
    for index in range(len(store)):
        store.read(index)
    monkeypatch.undo()
    report = extract_features(FakeModel(), fake_manifest(), tmp_path, PCA)
    assert report.written == ()
    assert max(layer.relative_error for layer in report.metrics.layers.values()) < 0.0101


def test_the_sample_is_bounded_and_drawn_from_the_whole_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bases, "SAMPLE_SECONDS", 3.0)
    manifest = fake_manifest(40)
    taken: list[int] = []
    original = bases.fit_basis
    monkeypatch.setattr(
        bases, "fit_basis", lambda states, *rest: taken.extend(len(s[0]) for s in states) or original(states, *rest)
    )
    extract_features(FakeModel(), manifest, tmp_path / "store", PCA)
    assert 3.0 <= sum(taken) / 50 + 0.02 * len(taken) < 5.0
    in_order = [count_frames(u.num_samples) for u in manifest.utterances[: len(taken)]]
    assert sorted(taken) != sorted(in_order)
