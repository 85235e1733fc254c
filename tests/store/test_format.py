"""The store without this project: any reader of Parquet, and the lines that each codec gives for decoding by hand."""

from pathlib import Path

import duckdb
import numpy as np
import pytest

from fithubert.store.codec import CODECS
from fithubert.store.extract import ExtractSettings, extract_features
from fithubert.store.read import FeatureStore
from tests.store.fakes import FakeModel, fake_manifest


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_readable_without_the_project(codec: str, tmp_path: Path) -> None:
    manifest = fake_manifest()
    extract_features(FakeModel(), manifest, tmp_path, ExtractSettings(codec, shard_minutes=0.05))
    store = FeatureStore.open(tmp_path)
    rows = duckdb.sql(f"select * from read_parquet('{tmp_path}/shard-*.parquet')")
    found = [dict(zip(rows.columns, row, strict=True)) for row in rows.fetchall()]
    assert {row["id"] for row in found} == {u.id for u in manifest.utterances}
    axes = {}
    if CODECS[codec].fitted:
        rows = duckdb.sql(f"select * from read_parquet('{tmp_path}/_basis-*.parquet')")
        axes = {row[0]: dict(zip(rows.columns, row, strict=True)) for row in rows.fetchall()}
    for row in found:
        utterance = next(u for u in manifest.utterances if u.id == row["id"])
        waveform = np.frombuffer(row["waveform"], "<i2").astype(np.float32) / 32768
        np.testing.assert_array_equal(waveform, manifest.read(utterance).numpy())
        for layer, hidden in store.read(row["id"]).hidden_states.items():
            names = {"numpy": np, "data": row[f"layer_{layer}"], "basis": axes.get(layer)}
            names["T"], names["W"] = hidden.shape
            exec(CODECS[codec].by_hand, names)
            np.testing.assert_allclose(names["value"], hidden.numpy(), rtol=1e-5, atol=1e-5)
