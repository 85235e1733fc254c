"""What reads the flat Parquet files of features."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from fithubert.errors import UserError
from fithubert.store.table import FeatureTable, load_features
from tests.fakes import write_folder
from tests.store.fakes import FakeModel
from tests.store.test_recordings import run_alone, write


def test_a_file_as_older_versions_wrote_it_is_read_alike(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in")
    out, old = tmp_path / "f.parquet", tmp_path / "old.parquet"
    write(folder, out)
    schema = pq.read_schema(out / "part-00000.parquet")
    info = json.loads(schema.metadata[b"fithubert.features"]) | {"version": 1}
    del info["windows"]
    metadata = {b"fithubert.features": json.dumps(info).encode()}
    older = pa.schema([field for field in schema if field.name != "first_frame"], metadata)
    with pq.ParquetWriter(old, older, write_page_checksum=True) as file:
        for part in sorted(out.iterdir()):
            file.write_table(pq.read_table(part).drop_columns(["first_frame"]).replace_schema_metadata(metadata))
    new, found = load_features(out), load_features(old)
    assert (found.ids, found.num_frames, found.info) == (new.ids, new.num_frames, replace(new.info, version=1))
    for path in new.ids:
        for layer, states in new.read(path).hidden_states.items():
            assert torch.equal(found.read(path).hidden_states[layer], states)
    assert write(folder, old).found


def test_the_reader_answers_like_that_of_the_store(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in")
    write(folder, tmp_path / "f.parquet", layers=(1, 2))
    features = load_features(tmp_path / "f.parquet")
    assert isinstance(features, FeatureTable)
    assert len(features) == len(features.ids) == 12
    assert (features.layers, features.widths) == ((1, 2), (8, 5))
    for index, path in enumerate(features.ids):
        alone = run_alone(FakeModel(), path)
        row = features.read(index, layers=[2])
        assert row.id == path
        assert set(row.hidden_states) == {2}
        torch.testing.assert_close(row.hidden_states[2], torch.from_numpy(alone[2]))
        assert len(alone[0]) == features.num_frames[index]
    with pytest.raises(UserError, match="no utterance 'nobody'"):
        features.read("nobody")
    with pytest.raises(UserError, match=r"layers \[0\] are missing; it holds \[1, 2\]"):
        features.read(0, layers=[0])
