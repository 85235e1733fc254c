"""The store without this project: any reader of Parquet, and the lines that describe the format."""

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from fithubert import store as schema
from fithubert.store.codec import CODECS
from fithubert.store.extract import ExtractSettings, extract_features
from fithubert.store.read import FeatureStore
from tests.store.fakes import FakeModel, fake_manifest


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_readable_without_the_project(codec: str, tmp_path: Path) -> None:
    """DuckDB reads the files; the lines of the format's own description decode them, as they stand there."""
    manifest = fake_manifest()
    extract_features(FakeModel(), manifest, tmp_path, ExtractSettings(codec, shard_minutes=0.05))
    store = FeatureStore.open(tmp_path)
    rows = duckdb.sql(f"select * from read_parquet('{tmp_path}/shard-*.parquet')")
    found = [dict(zip(rows.columns, row, strict=True)) for row in rows.fetchall()]
    assert {row["id"] for row in found} == {u.id for u in manifest.utterances}
    axes = {}
    if codec == "pca_int8":
        rows = duckdb.sql(f"select * from read_parquet('{tmp_path}/_basis-*.parquet')")
        axes = {row[0]: dict(zip(rows.columns, row, strict=True)) for row in rows.fetchall()}
    for row in found:
        utterance = next(u for u in manifest.utterances if u.id == row["id"])
        waveform = np.frombuffer(row["waveform"], "<i2").astype(np.float32) / 32768
        np.testing.assert_array_equal(waveform, manifest.read(utterance).numpy())
        for layer, hidden in store.read(row["id"]).hidden_states.items():
            value = decode_by_hand(codec, row, layer, hidden.shape[1], axes.get(layer))
            np.testing.assert_allclose(value, hidden.numpy(), rtol=1e-5, atol=1e-5)


def decode_by_hand(
    codec: str, row: dict[str, Any], layer: int, width: int, basis: dict[str, Any] | None
) -> np.ndarray[Any, Any]:
    """One layer of one utterance, by the lines that the description of the format gives for `codec`."""
    lines = [line.strip() for line in (schema.__doc__ or "").splitlines() if line.startswith("    ")]
    recipes = {
        "float32": ['value = numpy.frombuffer(row["layer_3"], "<f4").reshape(row["num_frames"], W)'],
        "float16": ['value = numpy.frombuffer(row["layer_3"], "<f2").reshape(row["num_frames"], W)'],
        "int8": lines[lines.index('head = numpy.frombuffer(row["layer_3"], "<f4", count=2 * W).reshape(2, W)') :][:3],
        "pca_int8": lines[lines.index('K, W = basis["components"], basis["width"]') :][:5],
    }
    names: dict[str, Any] = {"numpy": np, "row": row, "W": width, "basis": basis}
    exec("\n".join(recipes[codec]).replace("layer_3", f"layer_{layer}"), names)
    return np.asarray(names["value"])
